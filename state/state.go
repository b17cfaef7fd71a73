// Package state is being written.
package state
