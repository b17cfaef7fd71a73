// Package cache is being written.
package cache
