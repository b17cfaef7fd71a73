package listen

import (
	"net"

	"github.com/starferry/starferry/internal/sockbuf"
)

// Room has the kernel keep questions for a socket's reader up to so many bytes:
// beyond the system's limit where this process may, else up to it. Linux takes
// that twice, and counts 832 bytes for a usual question: 2,500 of them for each MiB.
func Room(c *net.UDPConn, bytes int) error {
	if err := c.SetReadBuffer(bytes); err != nil {
		return err
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return sockbuf.Large(raw, bytes, 0)
}
