// Package tunnel is being written.
package tunnel
