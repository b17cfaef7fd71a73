//go:build !linux

package sockbuf

import "syscall"

// Large leaves the system's buffers.
func Large(_ syscall.RawConn, _, _ int) error { return nil }
