package netstack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// takeTCP serves one connection, from its SYN to its end. gVisor calls it in a
// goroutine of its own, once for the repeats of one SYN.
func (f *Forwarder) takeTCP(ctx context.Context, r *tcp.ForwarderRequest) {
	src, dst := ends(r.ID())
	if !f.begin() {
		r.Complete(false)
		return
	}
	defer f.tasks.Done()
	if !f.enter(src.Addr()) {
		f.count.flow("tcp", overLimit)
		r.Complete(false)
		return
	}
	origin, client := f.handshake(ctx, r, src, dst)
	f.leave(src.Addr())
	if client == nil {
		return
	}
	f.count.flow("tcp", opened)
	f.splice(client, origin)
}

// enter takes one of the source's places for handshakes.
func (f *Forwarder) enter(src netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.handshakes[src] >= f.cfg.MaxPerSource {
		return false
	}
	f.handshakes[src]++
	return true
}

func (f *Forwarder) leave(src netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.handshakes[src]--; f.handshakes[src] == 0 {
		delete(f.handshakes, src)
	}
}

// A client is the device's side of a connection.
type client struct {
	*gonet.TCPConn
	end tcpip.Endpoint
}

// handshake dials the origin and only then answers the SYN. It returns nil
// where either failed, and has told the other side.
func (f *Forwarder) handshake(ctx context.Context, r *tcp.ForwarderRequest, src, dst netip.AddrPort) (net.Conn, *client) {
	dialing, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	origin, err := f.cfg.Dial(dialing, "tcp", dst)
	if err != nil {
		f.count.flow("tcp", outcomeOf(err))
		f.cfg.Log.Debug("the origin could not be reached", "source", src, "origin", dst, "error", err)
		r.Complete(ctx.Err() == nil)
		return nil, nil
	}
	var queue waiter.Queue
	end, terr := r.CreateEndpoint(&queue) // waits for the last packet of the handshake
	r.Complete(false)
	if terr != nil {
		f.count.flow("tcp", abandoned)
		reset(origin)
		return nil, nil
	}
	end.SocketOptions().SetKeepAlive(true)
	idle, every := tcpip.KeepaliveIdleOption(keepaliveIdle), tcpip.KeepaliveIntervalOption(keepaliveEvery)
	// Failing to set these leaves gVisor's defaults, which are longer.
	_ = end.SetSockOpt(&idle)
	_ = end.SetSockOpt(&every)
	_ = end.SetSockOptInt(tcpip.KeepaliveCountOption, keepaliveCount)
	return origin, &client{gonet.NewTCPConn(&queue, end), end}
}

// splice copies both directions until both have ended, or one has failed.
func (f *Forwarder) splice(c *client, origin net.Conn) {
	var once sync.Once
	fl := &flow{abort: func() {
		once.Do(func() {
			c.end.Abort()
			reset(origin)
		})
	}}
	if !f.keep(fl) {
		fl.abort()
	}
	var both sync.WaitGroup
	both.Go(func() {
		if err := pump(origin, c); err != nil || closeWrite(origin) != nil {
			fl.abort()
		}
	})
	both.Go(func() {
		if err := pump(c, origin); err != nil || c.CloseWrite() != nil {
			fl.abort()
		}
	})
	both.Wait()
	f.drop(fl)
	once.Do(func() {}) // Close may still hold the flow: nothing to abort any more
	c.Close()
	origin.Close()
}

// pump copies until the end of one direction, which is no error.
func pump(to io.Writer, from io.Reader) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for {
		n, err := from.Read(*buf)
		if n > 0 {
			if _, err := to.Write((*buf)[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 1<<16); return &b }}

// closeWrite passes the end of one direction on. A connection that knows no
// half close keeps both until the other direction ends.
func closeWrite(c net.Conn) error {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}

// reset closes with a RST where the connection can (RFC 9293 section 3.10.5).
func reset(c net.Conn) {
	if l, ok := c.(interface{ SetLinger(int) error }); ok {
		_ = l.SetLinger(0) // where it fails, the other side gets a FIN
	}
	c.Close()
}
