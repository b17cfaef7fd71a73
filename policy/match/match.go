// Package match is being written.
package match
