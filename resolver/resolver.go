// Package resolver is being written.
package resolver
