package netstack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// takeUDP begins a flow with its first datagram. gVisor calls it while the
// packet is delivered, so what may take time goes to a goroutine.
func (f *Forwarder) takeUDP(ctx context.Context, r *udp.ForwarderRequest) bool {
	if !f.begin() {
		return true
	}
	if !f.enterUDP() {
		f.count.flow("udp", overLimit)
		f.tasks.Done()
		return true // silence, not "port unreachable"
	}
	src, dst := ends(r.ID())
	var queue waiter.Queue
	end, err := r.CreateEndpoint(&queue) // takes the datagram too
	if err != nil {                      // a second one was faster
		f.leaveUDP()
		f.tasks.Done()
		return true
	}
	go func() {
		defer f.tasks.Done()
		defer f.leaveUDP()
		f.relay(ctx, gonet.NewUDPConn(&queue, end), src, dst)
	}()
	return true
}

func (f *Forwarder) enterUDP() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.udp >= f.cfg.MaxUDP {
		return false
	}
	f.udp++
	return true
}

func (f *Forwarder) leaveUDP() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.udp--
}

// relay passes datagrams both ways until none came for a while, or the
// origin's machine says that nobody listens.
func (f *Forwarder) relay(ctx context.Context, device *gonet.UDPConn, src, dst netip.AddrPort) {
	defer device.Close()
	dialing, cancel := context.WithTimeout(ctx, dialWithin)
	origin, err := f.cfg.Dial(dialing, "udp", dst)
	cancel()
	if err != nil {
		f.count.flow("udp", outcomeOf(err))
		f.cfg.Log.Debug("the origin could not be reached", "source", src, "origin", dst, "error", err)
		f.unreachable(src, dst, err)
		return
	}
	f.count.flow("udp", opened)
	end := sync.OnceFunc(func() {
		device.Close()
		origin.Close()
	})
	defer end()
	fl := &flow{abort: end}
	if !f.keep(fl) {
		return
	}
	defer f.drop(fl)
	idle := time.AfterFunc(f.cfg.UDPIdle, end)
	defer idle.Stop()
	// A refusal of the origin is told to whoever reads or writes next.
	var both sync.WaitGroup
	copying := func(from, to net.Conn) {
		err := datagrams(from, to, func() { idle.Reset(f.cfg.UDPIdle) })
		f.unreachable(src, dst, err)
		end()
	}
	both.Go(func() { copying(device, origin) })
	both.Go(func() { copying(origin, device) })
	both.Wait()
}

// datagrams copies until reading or writing fails, and tells of each one.
func datagrams(from, to net.Conn, seen func()) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for {
		n, err := from.Read(*buf)
		if err != nil {
			return err
		}
		seen()
		if _, err := to.Write((*buf)[:n]); err != nil && !errors.Is(err, syscall.EMSGSIZE) {
			return err
		}
	}
}
