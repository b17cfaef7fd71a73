package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// Values of RFC 1928, in the order of its sections 3 to 6.
const (
	socksVersion = 5

	socksNoAuth       = 0
	socksNoneAccepted = 0xff

	socksConnect = 1

	socksIPv4   = 1
	socksDomain = 3
	socksIPv6   = 4

	socksSucceeded     = 0
	socksNotAllowed    = 2
	socksUnreachable   = 4
	socksConnRefused   = 5
	socksNoSuchCommand = 7
	socksNoSuchAddress = 8
)

// A socksError is a request that was understood and cannot be served.
type socksError byte

func (e socksError) Error() string { return "SOCKS5 reply " + strconv.Itoa(int(e)) }

var errSOCKS = errors.New("not SOCKS5")

// socks serves a client that has sent the first byte of SOCKS5.
func (s *server) socks(ctx context.Context, c *client) {
	if err := socksGreeting(c); err != nil {
		return
	}
	host, port, err := socksRequest(c)
	if err != nil {
		if reply, ok := errors.AsType[socksError](err); ok {
			c.Write(socksReply(byte(reply)))
		}
		return
	}
	c.SetDeadline(time.Time{})
	to := host + ":" + strconv.Itoa(int(port))
	far, err := s.open(ctx, host, port)
	if err != nil {
		s.log("proxy: request refused", c, to, err)
		c.Write(socksReply(replyFor(err)))
		return
	}
	if _, err := c.Write(socksReply(socksSucceeded)); err != nil {
		abort(far)
		return
	}
	err = relay(c, far)
	s.log("proxy: tunnel ended", c, to, err)
}

// replyFor says in one byte what went wrong, as far as RFC 1928 has words.
func replyFor(err error) byte {
	switch {
	case errors.Is(err, errRefused):
		return socksNotAllowed
	case errors.Is(err, syscall.ECONNREFUSED):
		return socksConnRefused
	default:
		return socksUnreachable
	}
}

// socksGreeting reads the client's methods after the version byte, and agrees
// on none: the port is the local user's.
func socksGreeting(rw io.ReadWriter) error {
	var n [1]byte
	if _, err := io.ReadFull(rw, n[:]); err != nil {
		return err
	}
	methods := make([]byte, n[0])
	if _, err := io.ReadFull(rw, methods); err != nil {
		return err
	}
	if !slices.Contains(methods, socksNoAuth) {
		rw.Write([]byte{socksVersion, socksNoneAccepted})
		return errSOCKS
	}
	_, err := rw.Write([]byte{socksVersion, socksNoAuth})
	return err
}

// socksRequest reads what the client wants to be connected to: a name or an
// address, and a port. An error of type socksError is to be answered.
func socksRequest(r io.Reader) (host string, port uint16, err error) {
	var head [4]byte // version, command, reserved, address type
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", 0, err
	}
	if head[0] != socksVersion || head[2] != 0 {
		return "", 0, errSOCKS
	}
	n, err := socksAddrLen(r, head[3])
	if err != nil {
		return "", 0, err
	}
	b := make([]byte, n+2)
	if _, err := io.ReadFull(r, b); err != nil {
		return "", 0, err
	}
	if host = string(b[:n]); head[3] != socksDomain {
		a, _ := netip.AddrFromSlice(b[:n]) // 4 or 16 bytes
		host = a.String()
	}
	if port = binary.BigEndian.Uint16(b[n:]); port == 0 || host == "" {
		return "", 0, socksError(socksNotAllowed)
	}
	if head[1] != socksConnect {
		return "", 0, socksError(socksNoSuchCommand)
	}
	return host, port, nil
}

// socksAddrLen returns how many bytes of address follow.
func socksAddrLen(r io.Reader, kind byte) (int, error) {
	switch kind {
	case socksIPv4:
		return 4, nil
	case socksIPv6:
		return 16, nil
	case socksDomain:
		var n [1]byte
		_, err := io.ReadFull(r, n[:])
		return int(n[0]), err
	}
	return 0, socksError(socksNoSuchAddress)
}

// socksReply is the answer to a request. The address that we send from means
// nothing to the client; all zero is what it may be then.
func socksReply(code byte) []byte {
	return []byte{socksVersion, code, 0, socksIPv4, 0, 0, 0, 0, 0, 0}
}
