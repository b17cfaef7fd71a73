package link

import "syscall"

// forceBuffers makes the socket's buffers large: beyond the system's limit
// where this process may, else up to it.
func forceBuffers(_, _ string, raw syscall.RawConn) error {
	return raw.Control(func(fd uintptr) {
		for _, opt := range [][2]int{
			{syscall.SO_RCVBUF, syscall.SO_RCVBUFFORCE},
			{syscall.SO_SNDBUF, syscall.SO_SNDBUFFORCE},
		} {
			for _, o := range opt { // refusals leave smaller buffers, which work
				_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, o, socketBuffer)
			}
		}
	})
}
