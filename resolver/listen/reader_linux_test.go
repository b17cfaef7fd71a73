package listen

import (
	"context"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// shared listens on an address that others can listen on too.
func shared(t *testing.T, at string) net.PacketConn {
	t.Helper()
	c := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		failed := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		if failed != nil {
			return failed
		}
		return err
	}}
	pc, err := c.ListenPacket(t.Context(), "udp", at)
	if err != nil {
		t.Fatal(err)
	}
	return pc
}

// What comes to a socket whose reader stands still is answered by the reader of
// another socket of that address.
func TestReadersStandIn(t *testing.T) {
	first := shared(t, "127.0.0.1:0")
	at := first.LocalAddr().String()
	still, err := open(shared(t, at))
	if err == nil {
		still, err = still.apart()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer still.close()
	s := &Server{Fast: refuser}
	s.matesOf(still).join(still.raw)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.ServeUDP(ctx, first, "test") }()
	var peers []net.Conn // enough to have some for each socket, but once in 2³¹ runs
	for range 32 {
		conn, err := net.Dial("udp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		peers = append(peers, conn)
	}
	left, buf := len(peers), make([]byte, 512)
	answered := make([]bool, len(peers))
	for deadline := time.Now().Add(20 * time.Second); left > 0 && time.Now().Before(deadline); {
		for i, conn := range peers { // those of the first socket go on asking, which wakes its reader
			if _, err := conn.Write(plainly(t)); err != nil {
				t.Fatal(err)
			}
			conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if _, err := conn.Read(buf); err == nil && !answered[i] {
				answered[i] = true
				left--
			}
		}
	}
	if left > 0 {
		t.Errorf("%d of %d have no answer", left, len(peers))
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
