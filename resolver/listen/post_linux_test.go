package listen

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A postbox is a socket that answers are sent from, with peers they go to.
type postbox struct {
	t     *testing.T
	sock  socket
	peers []*net.UDPConn
	want  [][]string
	post  *post
}

func newPostbox(t *testing.T, listen string, peers []*net.UDPConn) *postbox {
	t.Helper()
	b := &postbox{t: t, peers: peers, want: make([][]string, len(peers))}
	pc, err := net.ListenPacket("udp", listen)
	if err != nil {
		t.Skipf("this machine cannot listen: %v", err)
	}
	t.Cleanup(func() { pc.Close() })
	if b.sock, err = open(pc); err != nil {
		t.Fatal(err)
	}
	b.post = newPost(b.sock)
	return b
}

// newPeers returns sockets at an address.
func newPeers(t *testing.T, at string) (peers []*net.UDPConn) {
	t.Helper()
	for range 5 {
		peer, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(at)))
		if err != nil {
			t.Skipf("this machine cannot listen: %v", err)
		}
		t.Cleanup(func() { peer.Close() })
		_ = peer.SetReadBuffer(1 << 20)
		peers = append(peers, peer)
	}
	return peers
}

// add adds an answer of so many bytes, that no other is like, for a peer.
func (b *postbox) add(peer, n, size int) {
	resp := []byte(fmt.Sprintf("%-*d", size, n))
	to := rawOf(b.peers[peer].LocalAddr().(*net.UDPAddr).AddrPort())
	b.post.add(&to.name, to.len, nil, resp)
	b.want[peer] = append(b.want[peer], string(resp))
}

func (b *postbox) send() (unsent int) {
	b.t.Helper()
	b.control(func(fd uintptr) { unsent = b.post.send(fd) })
	return unsent
}

// control calls do with the socket.
func (b *postbox) control(do func(fd uintptr)) {
	b.t.Helper()
	raw, err := b.sock.kernel.SyscallConn()
	if err == nil {
		err = raw.Control(do)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// check has each peer receive what was sent to it, each answer as a datagram.
func (b *postbox) check() {
	b.t.Helper()
	buf := make([]byte, 1<<16)
	for i, peer := range b.peers {
		var got []string
		_ = peer.SetReadDeadline(time.Now().Add(10 * time.Second))
		for range b.want[i] {
			n, _, err := peer.ReadFromUDPAddrPort(buf)
			if err != nil {
				b.t.Fatalf("peer %d received %d of %d answers: %v", i, len(got), len(b.want[i]), err)
			}
			got = append(got, string(buf[:n]))
		}
		slices.Sort(got)
		slices.Sort(b.want[i])
		if !slices.Equal(got, b.want[i]) {
			b.t.Fatalf("peer %d received %.80q, want %.80q", i, got, b.want[i])
		}
		b.want[i] = nil
	}
}

func rawOf(a netip.AddrPort) (r rawAddr) {
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&r.name.Port))[:], a.Port())
	if a.Addr().Is4() {
		r.name.Family, r.len = unix.AF_INET, unix.SizeofSockaddrInet4
		four := a.Addr().As4()
		r.name.Flowinfo = binary.NativeEndian.Uint32(four[:])
		return r
	}
	r.name.Family, r.name.Addr, r.len = unix.AF_INET6, a.Addr().As16(), unix.SizeofSockaddrInet6
	return r
}

// Whatever is sent to whomever arrives, each answer by itself, however many go
// down the kernel's stack together.
func TestPost(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(at, func(t *testing.T) {
			b := newPostbox(t, at, newPeers(t, at))
			r := rand.New(rand.NewPCG(1, 2))
			for round := range 300 {
				sizes := []int{40 + r.IntN(20), 40 + r.IntN(20), maxSegment - r.IntN(2), maxSegment + r.IntN(2)}[:1+r.IntN(4)]
				peers := 1 + r.IntN(len(b.peers))
				for i := range r.IntN(lotLen + 1) {
					b.add(r.IntN(peers), round*1000+i, sizes[r.IntN(len(sizes))])
				}
				if unsent := b.send(); unsent != 0 {
					t.Fatalf("%d answers were not sent", unsent)
				}
				b.check()
			}
		})
	}
}

// Answers of one length to one peer are one message, and one shorter may end it.
func TestPostJoins(t *testing.T) {
	b := newPostbox(t, "127.0.0.1:0", newPeers(t, "127.0.0.1:0"))
	if !b.post.joins {
		t.Skip("this kernel has no UDP_SEGMENT")
	}
	for i, size := range []int{60, 60, 50, 60, 50, 40} {
		b.add(0, i, size)
		b.add(1, i, 60)
	}
	if got := b.post.lay(); got != 3 {
		t.Errorf("%d messages, want three: 60 60 60 50, 50 40, and all of the other peer", got)
	}
	if unsent := b.send(); unsent != 0 {
		t.Errorf("%d answers were not sent", unsent)
	}
	b.check()
}

// What the kernel does not take joined is sent one by one.
func TestPostApart(t *testing.T) {
	b := newPostbox(t, "127.0.0.1:0", newPeers(t, "127.0.0.1:0"))
	var err error
	b.control(func(fd uintptr) { // nobody would do the checksums of the parts
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NO_CHECK, 1)
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		b.add(i%2, i, 50-i)
		b.add(i%2, 100+i, 60)
	}
	if unsent := b.send(); unsent != 0 {
		t.Errorf("%d answers were not sent", unsent)
	}
	b.check()
}

// An answer that cannot be sent is counted, and takes no other with it.
func TestPostUnsent(t *testing.T) {
	b := newPostbox(t, "127.0.0.1:0", newPeers(t, "127.0.0.1:0"))
	nowhere := rawOf(netip.MustParseAddrPort("[::1]:9"))
	for i := range 3 {
		b.add(0, i, 50)
		b.post.add(&nowhere.name, nowhere.len, nil, make([]byte, 50))
		b.add(1, i, 50)
	}
	if unsent := b.send(); unsent != 3 {
		t.Errorf("%d answers were not sent, want three", unsent)
	}
	b.check()
}

// A client that asks several addresses of a host from one port is answered from
// each, though the answers are read and written together.
func TestPostsOfSeveralAddresses(t *testing.T) {
	for _, at := range []string{"0.0.0.0:0", "[::]:0"} {
		udp, _ := serve(t, &Server{Fast: refuser, Handle: echo(nil)}, at)
		port := netip.MustParseAddrPort(udp).Port()
		client, err := net.ListenUDP("udp4", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		// Who answers has told the socket to say where questions went to.
		ask(t, "udp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))), query("www.", 0))
		req, buf := plainly(t), make([]byte, 512)
		const n = 200
		for i := range n {
			req[1] = byte(i)
			to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(1 + i%2)}), port)
			if _, err := client.WriteToUDPAddrPort(req, to); err != nil {
				t.Fatal(err)
			}
		}
		_ = client.SetReadDeadline(time.Now().Add(10 * time.Second))
		for i := range n {
			_, from, err := client.ReadFromUDPAddrPort(buf)
			if err != nil {
				t.Fatalf("%s: after %d answers: %v", at, i, err)
			}
			if want := 1 + buf[1]%2; from.Addr().As4()[3] != want {
				t.Fatalf("%s: question %d was answered from %v, not from 127.0.0.%d", at, buf[1], from, want)
			}
		}
	}
}

// Answers that come to an outbox whose socket is closed are counted and given up,
// however many.
func TestOutboxOfClosedSocket(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Skipf("this machine cannot listen: %v", err)
	}
	sock, err := open(pc)
	if err != nil {
		t.Fatal(err)
	}
	o := newOutbox(sock)
	pc.Close()
	const n = 2*lotLen + 1
	unsent, done := 0, 0
	s := &Server{Dropped: func(_, why string) {
		if why == Unsent {
			unsent++
		}
	}}
	for range n {
		o.put(s, "", answered{new(packet), make([]byte, 50), func(*packet) { done++ }})
	}
	if unsent != n || done != n {
		t.Errorf("of %d answers %d were counted and %d given up", n, unsent, done)
	}
}

func TestPostAllocatesNothing(t *testing.T) {
	b := newPostbox(t, "127.0.0.1:0", newPeers(t, "127.0.0.1:0"))
	to := rawOf(b.peers[0].LocalAddr().(*net.UDPAddr).AddrPort())
	resp := make([]byte, 60)
	b.control(func(fd uintptr) {
		if n := testing.AllocsPerRun(100, func() {
			for i := range lotLen {
				b.post.add(&to.name, to.len, nil, resp[i%4:])
			}
			b.post.send(fd)
		}); n != 0 {
			t.Errorf("%v allocations, want none", n)
		}
	})
}
