//go:build !unix

package upstream

import (
	"errors"
	"net"
	"time"
)

// useKernel leaves the socket to package net.
func (s *socket) useKernel(*net.UDPConn) {}

func (s *socket) exchangeRaw([]byte, []byte, time.Time) (int, error) {
	return 0, errors.ErrUnsupported
}
