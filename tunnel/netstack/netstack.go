// Package netstack is being written.
package netstack
