// Package sockbuf makes the buffers of sockets large: beyond the system's limits
// (net.core.rmem_max, net.core.wmem_max) where this process may, which takes
// CAP_NET_ADMIN, else up to them.
package sockbuf

import "syscall"

// Large asks for so many bytes to be kept for what is received, and for what is
// sent; zero leaves that as it is. Refusals are no errors: smaller buffers work.
// On systems other than Linux it does nothing.
func Large(raw syscall.RawConn, receive, send int) error {
	return raw.Control(func(fd uintptr) {
		set(int(fd), receive, syscall.SO_RCVBUF, syscall.SO_RCVBUFFORCE)
		set(int(fd), send, syscall.SO_SNDBUF, syscall.SO_SNDBUFFORCE)
	})
}

func set(fd, bytes int, options ...int) {
	if bytes == 0 {
		return
	}
	for _, o := range options {
		_ = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, o, bytes)
	}
}
