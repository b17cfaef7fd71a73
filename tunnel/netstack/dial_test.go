package netstack_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// accepted dials from one stack to the other and returns both ends.
func accepted(t *testing.T) (near, far net.Conn) {
	t.Helper()
	device, origin := pair(t)
	at := netip.AddrPortFrom(origin4, 80)
	l, err := origin.ListenTCP(at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if near, err = device.DialContext(within(t, 5*time.Second), "tcp", at); err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return near, far
}

func broken(c net.Conn) <-chan struct{} { return c.(interface{ Broken() <-chan struct{} }).Broken() }

// A reset shows at once, to somebody who does not read.
func TestBroken(t *testing.T) {
	near, far := accepted(t)
	defer near.Close()
	if _, err := near.Write([]byte("never read")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(far, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	far.Close() // with bytes unread, which is a reset (RFC 2525 section 2.17)
	select {
	case <-broken(near):
	case <-time.After(5 * time.Second):
		t.Error("a reset does not show")
	}
}

// An end in order is no break.
func TestNotBroken(t *testing.T) {
	near, far := accepted(t)
	far.Close()
	if _, err := io.ReadAll(near); err != nil {
		t.Fatal(err)
	}
	near.Close()
	select {
	case <-broken(near):
		t.Error("a connection that ended in order is broken")
	default:
	}
}

// Who closes without lingering resets.
func TestSetLinger(t *testing.T) {
	near, far := accepted(t)
	defer far.Close()
	if err := near.(interface{ SetLinger(int) error }).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	near.Close()
	if err := far.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, err := far.Read(make([]byte, 1))
	if err == nil || errors.Is(err, io.EOF) || !errors.Is(err, syscall.ECONNRESET) && !isReset(err) {
		t.Errorf("read after a reset: %v", err)
	}
}

func isReset(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Err.Error() == "connection reset by peer"
}
