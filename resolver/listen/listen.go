// Package listen is being written.
package listen
