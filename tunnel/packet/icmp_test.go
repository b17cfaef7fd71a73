package packet

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
)

func TestAppendError(t *testing.T) {
	each(t, func(t *testing.T, r *rand.Rand, v6 bool, proto byte) {
		node := randomAddr(r, v6)
		for what := Prohibited; what <= TooBig; what++ {
			for _, size := range []int{0, 3, 100, 1300} {
				src, dst := netip.MustParseAddr("100.72.1.10"), netip.MustParseAddr("198.19.0.1")
				if v6 {
					src, dst = netip.MustParseAddr("fd5f:57a6:7272:1::10"), netip.MustParseAddr("2001:2:0:1000::1")
				}
				b := makePacket(src, dst, proto, 2, randomL4(r, proto, size))
				p, was := decode(t, b), bytes.Clone(b)
				e, ok := AppendError(nil, node, p, what, 1380)
				if !ok || !right(e) || len(e) > ErrorMax || !v6 && len(e) > 576 || !bytes.Equal(b, was) {
					t.Fatalf("%v %d: ok %v, % x", what, size, ok, e)
				}
				pe := decode(t, e)
				var q Quote
				if why := pe.Quoted(&q); why != OK || q.Src != src || q.Dst != dst || q.SrcPort != p.SrcPort || q.DstPort != p.DstPort {
					t.Fatalf("quote: %v %+v", why, q)
				}
				if pe.Src != node || pe.Dst != src {
					t.Fatalf("from %v to %v", pe.Src, pe.Dst)
				}
				if mtu := binary.BigEndian.Uint32(e[pe.l4+4:]); (mtu == 1380) != (what == TooBig) {
					t.Fatalf("%v says MTU %d", what, mtu)
				}
				if _, ok := AppendError(nil, node, pe, what, 0); ok {
					t.Fatal("an error about an error")
				}
			}
		}
	})
}

func TestNoErrorAbout(t *testing.T) {
	a := netip.MustParseAddr
	udp := []byte{1, 2, 3, 4, 0, 8, 0, 0}
	for _, c := range []struct {
		name           string
		src, dst, from netip.Addr
		l4             []byte
		proto          byte
	}{
		{"multicast", a("10.0.0.1"), a("224.0.0.251"), a("10.0.0.2"), udp, UDP},
		{"broadcast", a("10.0.0.1"), a("255.255.255.255"), a("10.0.0.2"), udp, UDP},
		{"from nobody", a("0.0.0.0"), a("10.0.0.3"), a("10.0.0.2"), udp, UDP},
		{"from multicast", a("224.0.0.1"), a("10.0.0.3"), a("10.0.0.2"), udp, UDP},
		{"IPv6 multicast", a("fd00::1"), a("ff02::1"), a("fd00::2"), udp, UDP},
		{"a redirect", a("10.0.0.1"), a("10.0.0.3"), a("10.0.0.2"), []byte{5, 0, 0, 0, 0, 0, 0, 0}, ICMP},
		{"other family", a("10.0.0.1"), a("10.0.0.3"), a("fd00::2"), udp, UDP},
		{"no address of one's own", a("10.0.0.1"), a("10.0.0.3"), netip.Addr{}, udp, UDP},
	} {
		p := decode(t, makePacket(c.src, c.dst, c.proto, 0, c.l4))
		if _, ok := AppendError(nil, c.from, p, Prohibited, 0); ok {
			t.Errorf("an error about %s", c.name)
		}
	}
}

// An error that comes back about a rewritten packet must, translated, be what
// it would have been about the packet before it was rewritten.
func TestTranslateAgainstRecomputed(t *testing.T) {
	each(t, func(t *testing.T, r *rand.Rand, v6 bool, proto byte) {
		for i := range 2000 {
			before := randomPacket(r, v6, proto, r.IntN(30))
			after := bytes.Clone(before)
			p := decode(t, after)
			was := [2]netip.Addr{p.Src, p.Dst}
			rw := NewRewrite(p.Src, p.Dst, randomAddr(r, v6), randomAddr(r, v6))
			rw.Apply(p)
			n := p.l4 + 8 + r.IntN(15)*2 // not half a checksum
			router, node := randomAddr(r, v6), randomAddr(r, v6)
			got := makeError(router, p.Src, after, n)
			want := makeError(node, was[0], before, n)
			pe := decode(t, got)
			var q Quote
			if why := pe.Quoted(&q); why != OK || q.Src != p.Src || q.Dst != p.Dst {
				t.Fatalf("%d: %v %+v", i, why, q)
			}
			pe.Translate(&q, node, was[0], was[0], was[1])
			if !bytes.Equal(got, want) {
				t.Fatalf("%d:\n got % x\nwant % x", i, got, want)
			}
		}
	})
}

func TestQuotedRefuses(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 0))
	a, b := randomAddr(r, false), randomAddr(r, false)
	l4 := random(r, 20)
	l4[12] = 0x50
	tcp := makePacket(a, b, TCP, 0, l4)
	frag := bytes.Clone(tcp)
	frag[7] = 1
	redirect := makePacket(a, b, ICMP, 0, []byte{5, 0, 0, 0, 0, 0, 0, 0})
	for name, c := range map[string]struct {
		quoted []byte
		n      int
		want   Reason
	}{
		"eight bytes":      {tcp, 28, OK},
		"seven bytes":      {tcp, 27, Truncated},
		"half a header":    {tcp, 10, Truncated},
		"a later fragment": {frag, 28, Fragment},
		"an error":         {makeError(a, b, tcp, 28), 100, UnknownProtocol},
		"a redirect":       {redirect, 28, UnknownProtocol},
		"SCTP":             {corrupt(tcp, 9, 132), 28, UnknownProtocol},
		"IPv6":             {randomPacket(r, true, TCP, 10), 100, BadVersion},
	} {
		var q Quote
		if got := decode(t, makeError(b, a, c.quoted, c.n)).Quoted(&q); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	var q Quote
	if got := decode(t, tcp).Quoted(&q); got == OK {
		t.Error("TCP quotes nothing")
	}
}

// FuzzDecode: nothing panics, and what is accepted and was right stays right.
func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(9, 0))
	for _, c := range protos {
		b := randomPacket(r, c.v6, c.proto, 20)
		f.Add(b)
		f.Add(makeError(randomAddr(r, c.v6), randomAddr(r, c.v6), b, 100))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Packet
		if Decode(b, &p) != OK {
			return
		}
		if len(p.B) > 40 && !p.First && p.Kind != Other {
			fill(p.B)
		}
		ok := right(p.B) && !p.First
		r := rand.New(rand.NewPCG(1, uint64(len(b))))
		rw := NewRewrite(p.Src, p.Dst, randomAddr(r, p.V6), randomAddr(r, p.V6))
		was := bytes.Clone(p.B)
		if p.Proto == TCP {
			p.ClampMSS(1280)
			p.SegLen()
			if a, answers := p.Answer(); answers && !right(AppendReset(nil, a)) {
				t.Fatal("wrong reset")
			}
		}
		var q Quote
		if p.Quoted(&q) == OK {
			p.Translate(&q, rw.src, rw.dst, randomAddr(r, p.V6), randomAddr(r, p.V6))
		} else {
			rw.Apply(&p)
		}
		if e, made := AppendError(nil, randomAddr(r, p.V6), &p, TooBig, 1280); made && !right(e) {
			t.Fatal("wrong error")
		}
		if ok && !right(p.B) {
			t.Fatalf("checksums:\n was % x\n now % x", was, p.B)
		}
	})
}
