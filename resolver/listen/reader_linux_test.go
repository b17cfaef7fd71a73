package listen

import (
	"context"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
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
// another socket of that address, if that has much to do: then it has a processor of its
// own, which it gives back when it has not.
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
	before := runtime.GOMAXPROCS(0)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.ServeUDP(ctx, first, "test") }()
	var answered sync.WaitGroup
	var peers []net.Conn // enough to have some for each socket, but once in 2³¹ runs
	for range 32 {
		conn, err := net.Dial("udp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		peers = append(peers, conn)
		answered.Go(func() {
			if _, err := conn.Read(make([]byte, 512)); err != nil {
				t.Errorf("no answer: %v", err)
			}
		})
	}
	all := make(chan bool)
	go func() { answered.Wait(); close(all) }()
	pace := time.NewTicker(200 * time.Microsecond) // 5,000 a second, of which about half are the first socket's
	defer pace.Stop()
	for asks := true; asks; <-pace.C {
		for _, conn := range peers[:1+rand.IntN(len(peers))] {
			if _, err := conn.Write(plainly(t)); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case <-all:
			asks = false
		default:
		}
	}
	if n := runtime.GOMAXPROCS(0); n != before+1 {
		t.Errorf("%d processors while there is much to do, want %d", n, before+1)
	}
	for until := time.Now().Add(20 * time.Second); runtime.GOMAXPROCS(0) != before && time.Now().Before(until); <-pace.C {
	}
	if n := runtime.GOMAXPROCS(0); n != before {
		t.Errorf("%d processors when it is quiet, want %d", n, before)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A reader goes apart when it has the answers to much, and comes back when there is
// little, or others have the answers.
func TestLoad(t *testing.T) {
	start := time.Now()
	for _, tt := range []struct {
		what         string
		read, passed int
		took         time.Duration
		much, little bool
	}{
		{"much", 100, 0, span, true, false},
		{"much, too early", 100, 0, span - 1, false, false},
		{"much, of which some is passed on", 100, 24, span, true, false},
		{"much, of which a part is passed on", 100, 25, span, false, false},
		{"much, of which half is passed on", 100, 50, span, false, false},
		{"much, of which most is passed on", 100, 51, span, false, true},
		{"neither", 99, 0, span, false, false},
		{"neither, too", 25, 0, span, false, false},
		{"little", 24, 0, span, false, true},
		{"next to nothing", 1, 0, time.Hour, false, true},
	} {
		l := &load{}
		l.begin(start)
		l.read, l.passed = tt.read, tt.passed
		if much, little := l.look(start.Add(tt.took), span); much != tt.much || little != tt.little {
			t.Errorf("%s: much %t, little %t", tt.what, much, little)
		}
		if began := !l.since.Equal(start); began != (tt.took >= span) || began && l.read+l.passed > 0 {
			t.Errorf("%s: begun anew: %t, with %d", tt.what, began, l.read)
		}
	}
	l := &load{}
	l.begin(start.Add(quiet)) // as by one that could not have what it wished for
	l.read = 1e6
	if much, _ := l.look(start.Add(quiet), span); much {
		t.Error("what cannot be had is wished for at once")
	}
	if much, _ := l.look(start.Add(quiet+span), span); !much {
		t.Error("what could not be had is not wished for again")
	}
}
