// Package packet is being written.
package packet
