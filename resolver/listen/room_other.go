//go:build !linux

package listen

import "net"

// Room has the kernel keep questions for a socket's reader up to so many bytes,
// or up to the system's limit.
func Room(c *net.UDPConn, bytes int) error { return c.SetReadBuffer(bytes) }
