package netstack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// A tcpConn is a connection that a Stack has dialed. Beyond what gonet gives it
// tells of a reset at once, even to those who do not read, and can be closed
// with one.
type tcpConn struct {
	*gonet.TCPConn
	ep     tcpip.Endpoint
	broken chan struct{}
	once   sync.Once
}

// Broken is closed when the connection is reset, and not when it ends in order.
func (c *tcpConn) Broken() <-chan struct{} { return c.broken }

// SetLinger is as that of [net.TCPConn]: with 0, Close resets the connection.
func (c *tcpConn) SetLinger(sec int) error {
	c.ep.SocketOptions().SetLinger(tcpip.LingerOption{Enabled: sec >= 0, Timeout: time.Duration(max(sec, 0)) * time.Second})
	return nil
}

// dialTCP connects as [gonet.DialContextTCP] does, and keeps the endpoint.
func (s *Stack) dialTCP(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	wq := new(waiter.Queue)
	ep, err := s.stack.NewEndpoint(tcp.ProtocolNumber, protocol(addr.Addr()), wq)
	if err != nil {
		return nil, errors.New(err.String())
	}
	entry, connected := waiter.NewChannelEntry(waiter.WritableEvents)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	if err = ep.Connect(full(addr)); isStarted(err) {
		select {
		case <-ctx.Done():
			ep.Close()
			return nil, ctx.Err()
		case <-connected:
		}
		err = ep.LastError()
	}
	if err != nil {
		ep.Close()
		return nil, &net.OpError{Op: "connect", Net: "tcp", Addr: net.TCPAddrFromAddrPort(addr), Err: errors.New(err.String())}
	}
	c := &tcpConn{TCPConn: gonet.NewTCPConn(wq, ep), ep: ep, broken: make(chan struct{})}
	c.watch(wq)
	return c, nil
}

func isStarted(err tcpip.Error) bool {
	_, ok := err.(*tcpip.ErrConnectStarted)
	return ok
}

// watch closes broken when the endpoint fails. The queue calls it under its own
// lock, so it does no more than that.
func (c *tcpConn) watch(wq *waiter.Queue) {
	failed := func() {
		if tcp.EndpointState(c.ep.State()) == tcp.StateError {
			c.once.Do(func() { close(c.broken) })
		}
	}
	entry := waiter.NewFunctionEntry(waiter.EventErr|waiter.EventHUp, func(waiter.EventMask) { failed() })
	wq.EventRegister(&entry)
	failed() // it may have failed before somebody watched
}
