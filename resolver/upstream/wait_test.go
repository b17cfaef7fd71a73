package upstream

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// Who finds all sockets in use waits for one, for as long as a burst may last.
func TestWaitingForASocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := func(context.Context, string, netip.AddrPort) (net.Conn, error) {
			c, _ := net.Pipe()
			return c, nil
		}
		p := &sockets{dial: dial, life: new(life), counts: new(counts), open: maxSockets}
		start := time.Now()
		if _, _, err := p.take(t.Context(), start); !errors.Is(err, errBusy) || time.Since(start) != busyWait {
			t.Errorf("got %v after %v, want to be told after %v", err, time.Since(start), busyWait)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if _, _, err := p.take(ctx, time.Now()); err == nil || len(p.waiting) != 0 {
			t.Errorf("got %v, %d still wait", err, len(p.waiting))
		}
		got := make(chan error, 2)
		for range 2 {
			go func() {
				s, _, err := p.take(t.Context(), time.Now())
				if err == nil {
					defer s.conn.Close()
				}
				got <- err
			}()
		}
		synctest.Wait()
		p.gone()
		if err := <-got; err != nil {
			t.Errorf("not called: %v", err)
		}
		if err := <-got; !errors.Is(err, errBusy) {
			t.Errorf("the second got %v for one socket", err)
		}
	})
}
