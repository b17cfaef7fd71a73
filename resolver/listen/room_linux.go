package listen

import (
	"net"

	"golang.org/x/sys/unix"
)

// Room has the kernel keep questions for a socket's reader up to so many bytes:
// beyond the system's limit (net.core.rmem_max) where this process may, else up
// to it. The kernel takes that twice, and counts 832 bytes for a usual question:
// 2,500 of them for each MiB.
func Room(c *net.UDPConn, bytes int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var refused error
	if err := raw.Control(func(fd uintptr) {
		refused = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bytes)
	}); err != nil {
		return err
	}
	if refused != nil {
		return c.SetReadBuffer(bytes)
	}
	return nil
}
