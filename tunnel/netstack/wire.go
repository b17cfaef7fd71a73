package netstack

import (
	"fmt"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// nic is the one interface of every stack.
const nic = 1

const (
	// bufferMax holds four times what is under way at 150 ms and 100 Mbit/s
	// (1.9 MB): gVisor counts the memory of segments, not their bytes, and
	// offers half of it as window.
	bufferMax     = 8 << 20
	bufferDefault = 1 << 20
)

// newStack makes a gVisor stack with one interface and no addresses.
func newStack(w *wire) (*stack.Stack, error) {
	s := stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			ipv4.NewProtocol,
			// Silent: without neighbours there are no routers to ask for and no
			// duplicates to look for. Options are zero, so it does neither.
			ipv6.NewProtocolWithOptions(ipv6.Options{}),
		},
		TransportProtocols: []stack.TransportProtocolFactory{
			tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6,
		},
	})
	err := tune(s)
	if err == nil {
		err = told(s.CreateNIC(nic, w))
	}
	if err != nil {
		s.Destroy()
		return nil, err
	}
	s.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nic},
		{Destination: header.IPv6EmptySubnet, NIC: nic},
	})
	return s, nil
}

// tune sets TCP for long links. SACK is off in gVisor by default. Reno and no
// RACK are what tailscale settled for: gVisor's window arithmetic overflows
// more easily with cubic (google/gvisor#11632), and its RACK retransmits
// without need.
func tune(s *stack.Stack) error {
	sack, moderate, recovery := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(true), tcpip.TCPRecovery(0)
	reno := tcpip.CongestionControlOption("reno")
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: bufferDefault, Max: bufferMax}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: bufferDefault, Max: bufferMax}
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &recovery, &reno, &receive, &send} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("setting TCP option %T: %v", o, err)
		}
	}
	return nil
}

// A wire is a stack's link: packets in by inject, out by a function.
type wire struct {
	out     func(pkt []byte)
	scratch sync.Pool // of *[]byte

	mu         sync.RWMutex
	mtu        uint32
	dispatcher stack.NetworkDispatcher
}

func newWire(mtu int, out func(pkt []byte)) *wire {
	w := &wire{out: out, mtu: uint32(mtu)}
	w.scratch.New = func() any { b := make([]byte, 0, mtu); return &b }
	return w
}

// inject delivers a copy of the packet to the stack.
func (w *wire) inject(pkt []byte) {
	if len(pkt) == 0 {
		return
	}
	var p tcpip.NetworkProtocolNumber
	switch pkt[0] >> 4 {
	case 4:
		p = ipv4.ProtocolNumber
	case 6:
		p = ipv6.ProtocolNumber
	default:
		return
	}
	w.mu.RLock()
	d := w.dispatcher
	w.mu.RUnlock()
	if d == nil {
		return
	}
	b := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(pkt)})
	d.DeliverNetworkPacket(p, b)
	b.DecRef()
}

// WritePackets gives the stack's packets away.
func (w *wire) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	scratch := w.scratch.Get().(*[]byte)
	defer w.scratch.Put(scratch)
	for _, p := range pkts.AsSlice() {
		b := (*scratch)[:0]
		for _, part := range p.AsSlices() {
			b = append(b, part...)
		}
		*scratch = b
		w.out(b)
	}
	return pkts.Len(), nil
}

// Attach takes the stack's side, or nil at the end.
func (w *wire) Attach(d stack.NetworkDispatcher) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dispatcher = d
}

// IsAttached reports whether there is a stack.
func (w *wire) IsAttached() bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.dispatcher != nil
}

// MTU returns the largest packet that may leave.
func (w *wire) MTU() uint32 {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.mtu
}

// SetMTU changes the largest packet.
func (w *wire) SetMTU(mtu uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mtu = mtu
}

// What follows says that there is no link layer.

func (*wire) MaxHeaderLength() uint16                      { return 0 }
func (*wire) LinkAddress() tcpip.LinkAddress               { return "" }
func (*wire) SetLinkAddress(tcpip.LinkAddress)             {}
func (*wire) Capabilities() stack.LinkEndpointCapabilities { return 0 }
func (*wire) Wait()                                        {}
func (*wire) ARPHardwareType() header.ARPHardwareType      { return header.ARPHardwareNone }
func (*wire) AddHeader(*stack.PacketBuffer)                {}
func (*wire) ParseHeader(*stack.PacketBuffer) bool         { return true }
func (*wire) Close()                                       {}
func (*wire) SetOnCloseAction(func())                      {}
