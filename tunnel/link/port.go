package link

import (
	"os"
	"sync"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/starferry/starferry/tunnel/ring"
)

const (
	portSlots = 4096
	// longestPacket leaves room for peers whose MTU is larger than ours: it is
	// for who forwards their packets to say that they are too big.
	longestPacket = 2048
)

// A Port is a tun.Device without a kernel: WireGuard's inner end, held by the
// program. What WireGuard decrypts goes to recv, what is given to [Port.Send]
// is encrypted. A Port serves one device, once.
type Port struct {
	mtu    int
	recv   func(pkts [][]byte, off int)
	out    *ring.Ring
	events chan tun.Event
	close  sync.Once
}

// NewPort makes a port. Packet i of a batch is pkts[i][off:]; the slices are
// valid only during the call, and may be changed in it. The calls of one peer
// come one after the other, those of several peers at the same time.
func NewPort(mtu int, recv func(pkts [][]byte, off int)) *Port {
	return &Port{mtu: mtu, recv: recv, out: ring.New(portSlots, max(mtu, longestPacket)), events: make(chan tun.Event)}
}

// Send gives a packet to WireGuard. It copies, never blocks, and may be called
// from several goroutines; when 4096 wait already, the packet is dropped.
func (p *Port) Send(pkt []byte) { p.out.Put(pkt) }

// Dropped returns how many packets Send dropped.
func (p *Port) Dropped() uint64 { return p.out.Dropped() }

// Read is WireGuard asking what to encrypt.
func (p *Port) Read(bufs [][]byte, sizes []int, off int) (int, error) {
	n, ok := p.out.Take(bufs, sizes, off)
	if !ok {
		return 0, os.ErrClosed
	}
	return n, nil
}

// Write is WireGuard giving what it decrypted.
func (p *Port) Write(bufs [][]byte, off int) (int, error) {
	if p.recv != nil {
		p.recv(bufs, off)
	}
	return len(bufs), nil
}

// Close wakes the reader. WireGuard calls it at its end.
func (p *Port) Close() error {
	p.close.Do(func() {
		p.out.Close()
		close(p.events)
	})
	return nil
}

// File returns nil: there is none.
func (p *Port) File() *os.File { return nil }

// MTU returns the inner MTU.
func (p *Port) MTU() (int, error) { return p.mtu, nil }

// Name returns a name for logs.
func (p *Port) Name() (string, error) { return "port", nil }

// Events returns a channel that says nothing: the device is brought up by Run.
func (p *Port) Events() <-chan tun.Event { return p.events }

// BatchSize is how many packets go through at once.
func (p *Port) BatchSize() int { return conn.IdealBatchSize }
