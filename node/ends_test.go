package node

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/tunnel/link"
)

// An arrival is a packet with the age of the world at which it came.
type arrival struct {
	pkt
	at time.Duration
}

// An inbox keeps what arrives at an end.
type inbox struct {
	w *world
	c chan arrival
}

func newInbox(w *world) inbox { return inbox{w, make(chan arrival, 1024)} }

func (b inbox) put(p []byte) {
	if q := readPkt(p); len(q.data) > 0 || q.proto != protoUDP {
		b.c <- arrival{q, b.w.at()}
	}
}

// next returns what arrives next.
func (b inbox) next(within time.Duration) arrival {
	b.w.t.Helper()
	select {
	case a := <-b.c:
		return a
	case <-time.After(within):
		b.w.t.Fatalf("at %v: nothing has arrived in %v", b.w.at(), within)
		panic("unreachable")
	}
}

// none fails if something arrives.
func (b inbox) none(during time.Duration) {
	b.w.t.Helper()
	select {
	case a := <-b.c:
		b.w.t.Errorf("at %v there arrived %v", a.at, a)
	case <-time.After(during):
	}
}

// drain forgets what has arrived.
func (b inbox) drain() {
	synctest.Wait()
	for len(b.c) > 0 {
		<-b.c
	}
}

// A far is the mainland behind a connector.
type far struct {
	inbox
	in func(pkt []byte)
	w  *world
}

func (f *far) open(in func([]byte)) func([]byte) {
	f.in = in
	return f.put
}

// A laptop is a device with its link.
type laptop struct {
	inbox
	*inet
	dev *link.Device
}

func (w *world) startLaptop() {
	l := &laptop{inbox: newInbox(w)}
	port := link.NewPort(1380, func(pkts [][]byte, off int) {
		for _, p := range pkts {
			l.Inject(p[off:])
		}
	})
	l.inet = newInet(laptopAddrs, port.Send)
	l.other = l.put
	var err error
	if l.dev, err = link.New(link.Config{Key: laptopKey, Bind: w.hosts["laptop"].Bind(), Port: port}); err != nil {
		w.t.Fatal(err)
	}
	err = l.dev.SetPeers([]link.Peer{{Name: "gw-sjc", Key: gatewayKey.Public(), Endpoint: gatewayOuter.String(),
		AllowedIPs: prefixes("0.0.0.0/0", "::/0"), Keepalive: 25 * time.Second}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.laptop = l
	w.run("laptop", l.dev.Run)
}

// ask asks the gateway, once, and returns the answer and how long it took.
func (l *laptop) ask(name string, qtype uint16) (*dns.Msg, time.Duration, error) {
	ctx, cancel := context.WithTimeout(l.w.t.Context(), 5*time.Second)
	defer cancel()
	c, err := l.DialContext(ctx, "udp", netip.AddrPortFrom(gatewayAddrs[0], dnsPort))
	if err != nil {
		return nil, 0, err
	}
	defer c.Close()
	q := new(dns.Msg).SetQuestion(name+".", qtype)
	q.SetEdns0(1232, false)
	b, err := q.Pack()
	if err != nil {
		return nil, 0, err
	}
	begin := time.Now()
	c.SetReadDeadline(begin.Add(5 * time.Second))
	if _, err := c.Write(b); err != nil {
		return nil, 0, err
	}
	buf := make([]byte, 4096)
	n, err := c.Read(buf)
	if err != nil {
		return nil, 0, err
	}
	r := new(dns.Msg)
	return r, time.Since(begin), errors.Join(r.Unpack(buf[:n]), badID(q, r))
}

func badID(q, r *dns.Msg) error {
	if q.Id != r.Id {
		return errors.New("the answer is to another question")
	}
	return nil
}

// resolve returns the virtual address of a name.
func (l *laptop) resolve(name string) netip.Addr {
	l.w.t.Helper()
	r, _, err := l.ask(name, dns.TypeA)
	if err != nil || len(r.Answer) != 1 {
		l.w.t.Fatalf("at %v: asking for %s: %v, %v", l.w.at(), name, r, err)
	}
	a, _ := netip.AddrFromSlice(r.Answer[0].(*dns.A).A.To4())
	return a
}

// A talk is a TCP connection between the laptop and an origin, of which the
// test plays both ends.
type talk struct {
	w            *world
	near, label  netip.AddrPort // at the laptop, and what it knows the origin by
	far          *far
	there        netip.AddrPort // what the origin knows the laptop by
	origin       netip.AddrPort
	up, down     uint32 // the next numbers of the laptop and of the origin
	tookUp, back time.Duration
}

// dial opens a connection from the laptop's port, which has to arrive behind a connector.
func (w *world) dial(port uint16, label netip.Addr, connector string) *talk {
	w.t.Helper()
	k := &talk{w: w, near: netip.AddrPortFrom(laptopAddrs[0], port), label: netip.AddrPortFrom(label, 443), far: w.mainland[connector], up: 1000, down: 5000}
	if label.Is6() {
		k.near = netip.AddrPortFrom(laptopAddrs[1], port)
	}
	begin := w.at()
	k.say(syn, 0)
	a := k.far.next(3 * time.Second)
	if a.proto != protoTCP || a.flags != syn {
		w.t.Fatalf("%v has arrived, want a SYN", a)
	}
	k.origin, k.there, k.tookUp = a.dst, a.src, a.at-begin
	k.up++
	begin = w.at()
	k.reply(syn|ack, 0)
	if a = w.laptop.next(3 * time.Second); a.flags != syn|ack || a.src != k.label || a.dst != k.near {
		w.t.Fatalf("%v has arrived, want a SYN-ACK of %v", a, k.label)
	}
	k.down++
	k.back = a.at - begin
	k.say(ack, 0)
	k.far.next(3 * time.Second)
	k.exchange(100)
	return k
}

// exchange passes a segment of data in each direction, and acknowledges the last.
func (k *talk) exchange(n int) {
	k.w.t.Helper()
	k.say(psh|ack, n)
	if a := k.far.next(3 * time.Second); a.dst != k.origin || a.src != k.there || len(a.data) != n {
		k.w.t.Fatalf("%v has arrived at the origin", a)
	}
	k.up += uint32(n)
	k.reply(psh|ack, n)
	if a := k.w.laptop.next(3 * time.Second); a.src != k.label || len(a.data) != n {
		k.w.t.Fatalf("%v has arrived at the laptop", a)
	}
	k.down += uint32(n)
	k.say(ack, 0)
	k.far.next(3 * time.Second)
}

// say sends a segment of the laptop.
func (k *talk) say(flags uint8, n int) {
	p := pkt{src: k.near, dst: k.label, proto: protoTCP, flags: flags, seq: k.up, data: make([]byte, n)}
	if flags&ack != 0 {
		p.ack = k.down
	}
	k.w.laptop.out(p.bytes())
}

// reply sends a segment of the origin.
func (k *talk) reply(flags uint8, n int) {
	k.far.in(pkt{src: k.origin, dst: k.there, proto: protoTCP, flags: flags, seq: k.down, ack: k.up, data: make([]byte, n)}.bytes())
}

// resetNear checks that a packet resets the laptop's end with the exact number.
func (k *talk) resetNear(a arrival) {
	k.w.t.Helper()
	if a.flags&rst == 0 || a.src != k.label || a.dst != k.near || a.seq != k.down {
		k.w.t.Errorf("%v has arrived at the laptop, want a reset of %v with %d", a, k.label, k.down)
	}
}

// resetFar checks that a packet resets the origin's end with the exact number.
func (k *talk) resetFar(a arrival) {
	k.w.t.Helper()
	if a.flags&rst == 0 || a.src != k.there || a.dst != k.origin || a.seq != k.up {
		k.w.t.Errorf("%v has arrived at the origin, want a reset of %v with %d", a, k.there, k.up)
	}
}

// same compares times, which are exact in a bubble.
func same(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}
