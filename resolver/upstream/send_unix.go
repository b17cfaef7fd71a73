//go:build unix && !linux

package upstream

import "syscall"

func send(fd uintptr, b []byte) error {
	_, err := syscall.Write(int(fd), b)
	return err
}

func receive(fd uintptr, b []byte) (int, error) { return syscall.Read(int(fd), b) }
