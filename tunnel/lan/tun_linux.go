package lan

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/starferry/starferry/tunnel/ring"
)

const (
	slots = 4096
	// longestPacket leaves room in the queue for senders whose MTU is larger
	// than the device's: the kernel is to say that their packets are too big.
	longestPacket = 2048
	// headroom is what the virtio header (10 bytes) needs before a packet that
	// is written.
	headroom = 16
	// bufferSize is the longest IP packet. Reading, the library trusts that
	// segments fit (an operator may raise the MTU under it); writing, it joins
	// segments within the capacity. Pages never touched cost nothing.
	bufferSize = headroom + 1<<16
)

// A TUN is an interface of this machine whose other end is this program. It
// serves one Run; the interface and its routes vanish when it is closed.
type TUN struct {
	dev    tun.Device
	name   string
	mtu    int
	recv   func(pkts [][]byte, off int)
	out    *ring.Ring
	failed atomic.Uint64 // packets that the kernel or the library refused

	once     sync.Once
	closed   chan struct{}
	closeErr error
}

// OpenTUN makes an interface of this name, which is down until [TUN.Setup].
// Packet i of a batch from the kernel is pkts[i][off:]; the slices are valid
// only during the call of recv, and may be changed in it. Calls come one after
// the other.
//
// The library watches the interface with two goroutines of its own from here
// on; [TUN.Close] ends them, whether Run was called or not.
func OpenTUN(name string, mtu int, recv func(pkts [][]byte, off int)) (*TUN, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if mtu < 576 || mtu > 65535 {
		return nil, fmt.Errorf("an MTU of %d for %s: want 576 to 65535", mtu, name)
	}
	dev, err := tun.CreateTUN(name, mtu)
	if err != nil {
		return nil, fmt.Errorf("creating the TUN device %s (needs root and /dev/net/tun, and no other process that holds the name): %w", name, err)
	}
	return &TUN{
		dev: dev, name: name, mtu: mtu, recv: recv,
		out: ring.New(slots, max(mtu, longestPacket)), closed: make(chan struct{}),
	}, nil
}

// Name returns the interface's name.
func (t *TUN) Name() string { return t.name }

// Send gives a packet to the kernel. It copies, never blocks, and may be
// called from several goroutines; when 4096 wait already, the packet is
// dropped.
func (t *TUN) Send(pkt []byte) { t.out.Put(pkt) }

// Dropped returns how many packets were dropped in either direction: by Send,
// by the kernel that refused a write (an interface that is down refuses all;
// segments that were joined count as one), and read but impossible to split.
func (t *TUN) Dropped() uint64 { return t.out.Dropped() + t.failed.Load() }

// Close removes the interface and ends Run. Closing twice is harmless.
func (t *TUN) Close() error {
	t.once.Do(func() {
		close(t.closed)
		t.out.Close()
		t.closeErr = t.dev.Close()
		for range t.dev.Events() { // closed once the library's goroutines are through
		}
	})
	return t.closeErr
}

// Run carries packets until ctx is done or the TUN is closed, which give nil,
// or the interface is taken away, which is an error. It closes the TUN.
func (t *TUN) Run(ctx context.Context) error {
	g, stop := errgroup.WithContext(ctx)
	g.Go(t.read)
	g.Go(t.write)
	g.Go(t.ignoreEvents)
	g.Go(func() error {
		select {
		case <-stop.Done():
		case <-t.closed:
		}
		return t.Close()
	})
	return g.Wait()
}

// ignoreEvents lets the library's watchers go on: they block on what nobody
// takes. That the interface is up or down shows in Dropped.
func (t *TUN) ignoreEvents() error {
	for range t.dev.Events() {
	}
	return nil
}

// read gives the kernel's packets to recv.
func (t *TUN) read() error {
	bufs, sizes := buffers(t.dev.BatchSize())
	pkts := make([][]byte, 0, len(bufs))
	for {
		n, err := t.dev.Read(bufs, sizes, headroom)
		pkts = pkts[:0]
		for i := range n {
			pkts = append(pkts, bufs[i][:headroom+sizes[i]])
		}
		if len(pkts) > 0 && t.recv != nil {
			t.recv(pkts, headroom)
		}
		if err == nil {
			continue
		}
		if t.isClosed() {
			return nil
		}
		if gone(err) {
			return fmt.Errorf("reading from %s: %w", t.name, err)
		}
		t.failed.Add(1) // one packet that cannot be split, or not in one batch
	}
}

// write gives the kernel what Send queued.
func (t *TUN) write() error {
	bufs, sizes := buffers(t.dev.BatchSize())
	pkts := make([][]byte, len(bufs))
	for {
		n, ok := t.out.Take(bufs, sizes, headroom)
		if !ok {
			return nil
		}
		for i := range n {
			pkts[i] = bufs[i][:headroom+sizes[i]]
		}
		_, err := t.dev.Write(pkts[:n], headroom)
		if err == nil {
			continue
		}
		if t.isClosed() {
			return nil
		}
		if errors.Is(err, os.ErrClosed) {
			return fmt.Errorf("writing to %s: %w", t.name, err)
		}
		t.failed.Add(leaves(err))
	}
}

func (t *TUN) isClosed() bool {
	select {
	case <-t.closed:
		return true
	default:
		return false
	}
}

// gone tells the failure of the device, after which no read succeeds, from one
// packet's: only the first comes from the file.
func gone(err error) bool {
	var file *fs.PathError
	return errors.Is(err, os.ErrClosed) || errors.As(err, &file)
}

// leaves counts the errors that were joined, one for each failed write.
func leaves(err error) uint64 {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return 1
	}
	var n uint64
	for _, e := range joined.Unwrap() {
		n += leaves(e)
	}
	return n
}

func buffers(batch int) (bufs [][]byte, sizes []int) {
	batch = min(max(batch, 1), conn.IdealBatchSize)
	bufs = make([][]byte, batch)
	for i := range bufs {
		bufs[i] = make([]byte, bufferSize)
	}
	return bufs, make([]int, batch)
}
