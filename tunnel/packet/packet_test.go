package packet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

var protos = []struct {
	v6    bool
	proto byte
}{{false, TCP}, {false, UDP}, {false, ICMP}, {true, TCP}, {true, UDP}, {true, ICMPv6}}

func each(t *testing.T, f func(t *testing.T, r *rand.Rand, v6 bool, proto byte)) {
	for i, c := range protos {
		t.Run(fmt.Sprintf("v6=%v/%d", c.v6, c.proto), func(t *testing.T) {
			f(t, rand.New(rand.NewPCG(1, uint64(i))), c.v6, c.proto)
		})
	}
}

func decode(t *testing.T, b []byte) *Packet {
	t.Helper()
	p := new(Packet)
	if why := Decode(b, p); why != OK {
		t.Fatalf("refused: %v\n% x", why, b)
	}
	return p
}

func TestRewriteAgainstRecomputed(t *testing.T) {
	each(t, func(t *testing.T, r *rand.Rand, v6 bool, proto byte) {
		for i := range 5000 {
			b := randomPacket(r, v6, proto, r.IntN(40))
			p := decode(t, b)
			src, dst := randomAddr(r, v6), randomAddr(r, v6)
			want := bytes.Clone(b)
			if v6 {
				copy(want[8:], src.AsSlice())
				copy(want[24:], dst.AsSlice())
				want[7]--
			} else {
				copy(want[12:], src.AsSlice())
				copy(want[16:], dst.AsSlice())
				want[8]--
			}
			fill(want)
			rw := NewRewrite(p.Src, p.Dst, src, dst)
			p.DecrementTTL()
			rw.Apply(p)
			if !bytes.Equal(b, want) {
				t.Fatalf("packet %d:\n got % x\nwant % x", i, b, want)
			}
			if p.Src != src || p.Dst != dst {
				t.Fatal("the struct keeps the old addresses")
			}
		}
	})
}

func TestUDPZeroChecksum(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 0))
	for _, v6 := range []bool{false, true} {
		b := randomPacket(r, v6, UDP, 10)
		_, at := upperOf(b)
		b[at+6], b[at+7] = 0, 0
		p := decode(t, b)
		rw := NewRewrite(p.Src, p.Dst, randomAddr(r, v6), randomAddr(r, v6))
		rw.Apply(p)
		if b[at+6]|b[at+7] != 0 {
			t.Error("no checksum became one")
		}
	}
	// Try all low halves of a destination: one gives a computed 0.
	b := randomPacket(r, false, UDP, 10)
	_, at := upperOf(b)
	for lo := range 0x10000 {
		q := bytes.Clone(b)
		p := decode(t, q)
		to := p.Dst.As4()
		to[2], to[3] = byte(lo>>8), byte(lo)
		rw := NewRewrite(p.Src, p.Dst, p.Src, netip.AddrFrom4(to))
		rw.Apply(p)
		switch binary.BigEndian.Uint16(q[at+6:]) {
		case 0:
			t.Fatal("a computed 0 was sent")
		case 0xffff:
			return
		}
	}
	t.Fatal("the case did not occur")
}

// corrupt returns a copy of b with the byte at i replaced.
func corrupt(b []byte, i int, v byte) []byte {
	c := bytes.Clone(b)
	c[i] = v
	return c
}

func TestDecodeRefuses(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 0))
	a4, b4, a6, b6 := randomAddr(r, false), randomAddr(r, false), randomAddr(r, true), randomAddr(r, true)
	tcp := append([]byte{0, 80, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50}, make([]byte, 7)...)
	v4 := makePacket(a4, b4, TCP, 0, tcp)
	v6 := makePacket(a6, b6, TCP, 0, tcp)
	six := func(headers ...byte) []byte { // each extension header is {type, its fourth byte}
		var l4 []byte
		for i := 0; i < len(headers); i += 2 {
			next := byte(TCP)
			if i+2 < len(headers) {
				next = headers[i+2]
			}
			l4 = append(l4, next, 0, 0, headers[i+1], 0, 0, 0, 0)
		}
		p := makePacket(a6, b6, 59, 0, append(l4, tcp...))
		if p[6] = TCP; len(headers) > 0 {
			p[6] = headers[0]
		}
		return p
	}
	mapped := bytes.Clone(v6)
	copy(mapped[8:], netip.MustParseAddr("::ffff:1.2.3.4").AsSlice())
	lsrr := makePacket(a4, b4, TCP, 1, tcp)
	copy(lsrr[20:], []byte{131, 3, 4, 0})
	for name, c := range map[string]struct {
		b    []byte
		want Reason
	}{
		"IPv4":                        {v4, OK},
		"IPv6":                        {v6, OK},
		"padding behind it":           {append(bytes.Clone(v4), 0, 0), OK},
		"empty":                       {nil, Truncated},
		"version 5":                   {corrupt(v4, 0, 0x55), BadVersion},
		"19 bytes":                    {v4[:19], Truncated},
		"39 bytes":                    {v6[:39], Truncated},
		"header length 16":            {corrupt(v4, 0, 0x44), BadHeaderLength},
		"total beyond the packet":     {corrupt(v4, 3, v4[3]+1), BadTotalLength},
		"total below the header":      {corrupt(v4, 3, 19), BadTotalLength},
		"payload beyond the packet":   {corrupt(v6, 5, v6[5]+1), BadTotalLength},
		"no payload":                  {corrupt(v6, 5, 0), BadTotalLength},
		"half a TCP header":           {corrupt(v4, 3, 30), Truncated},
		"TCP header of 16":            {corrupt(v4, 32, 0x40), BadHeaderLength},
		"TCP header beyond":           {corrupt(v4, 32, 0x60), Truncated},
		"a first fragment":            {corrupt(v4, 6, 0x20), OK},
		"a later fragment":            {corrupt(v4, 7, 1), Fragment},
		"SCTP":                        {corrupt(v4, 9, 132), UnknownProtocol},
		"ICMPv6 in IPv4":              {corrupt(v4, 9, ICMPv6), UnknownProtocol},
		"ICMP in IPv6":                {corrupt(v6, 6, ICMP), UnknownProtocol},
		"no next header":              {corrupt(v6, 6, 59), UnknownProtocol},
		"AH":                          {corrupt(v6, 6, 51), UnknownProtocol},
		"mapped address":              {mapped, BadAddress},
		"loose source route":          {lsrr, SourceRoute},
		"a routing header, used up":   {six(43, 0), OK},
		"a routing header, live":      {six(43, 1), SourceRoute},
		"four headers":                {six(0, 0, 60, 0, 43, 0, 60, 0), OK},
		"five headers":                {six(0, 0, 60, 0, 43, 0, 60, 0, 60, 0), TooManyHeaders},
		"hop-by-hop second":           {six(60, 0, 0, 0), TooManyHeaders},
		"an atomic fragment":          {six(44, 0), OK},
		"a first IPv6 fragment":       {six(44, 1), OK},
		"a later IPv6 fragment":       {six(44, 8), Fragment},
		"an extension header too far": {corrupt(six(60, 0), 41, 200), Truncated},
	} {
		var p Packet
		if got := Decode(c.b, &p); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestDecodeFields(t *testing.T) {
	a, b := netip.MustParseAddr("100.72.1.10"), netip.MustParseAddr("198.19.0.7")
	for _, c := range []struct {
		name     string
		proto    byte
		l4       []byte
		src, dst uint16
		kind     Kind
	}{
		{"UDP", UDP, []byte{1, 2, 3, 4, 0, 8, 0, 0}, 0x102, 0x304, NotICMP},
		{"echo request", ICMP, []byte{8, 0, 0, 0, 5, 6, 0, 1}, 0x506, 0, EchoRequest},
		{"echo reply", ICMP, []byte{0, 0, 0, 0, 5, 6, 0, 1}, 0, 0x506, EchoReply},
		{"redirect", ICMP, []byte{5, 0, 0, 0, 5, 6, 0, 1}, 0, 0, Other},
		{"unreachable", ICMP, []byte{3, 0, 0, 0, 5, 6, 0, 1}, 0, 0, Error},
	} {
		p := decode(t, makePacket(a, b, c.proto, 2, c.l4))
		if p.Src != a || p.Dst != b || p.SrcPort != c.src || p.DstPort != c.dst || p.Kind != c.kind || p.TTL() != 64 || !p.DontFragment() {
			t.Errorf("%s: %+v", c.name, p)
		}
		src, dst, ok := Addrs(p.B)
		if src != a || dst != b || !ok {
			t.Errorf("%s: Addrs gives %v %v %v", c.name, src, dst, ok)
		}
	}
}

func TestClampMSS(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 0))
	mss := func(v uint16) []byte { return []byte{2, 4, byte(v >> 8), byte(v)} }
	for _, c := range []struct {
		name string
		opts []byte
		mtu  int
		want int // at the place of the option; 0: unchanged
	}{
		{"first", mss(1460), 1380, 2},
		{"after one no-operation, so at an odd place", append([]byte{1}, mss(1460)...), 1380, 3},
		{"after other options", append([]byte{8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1}, mss(0xffff)...), 1380, 14},
		{"small enough", mss(1200), 1380, 0},
		{"absent", []byte{1, 1, 1, 1}, 1380, 0},
		{"behind the end", append([]byte{0}, mss(1460)...), 1380, 0},
		{"cut off", []byte{1, 1, 2, 4}, 1380, 0},
		{"of length 0", []byte{2, 0, 5, 180}, 1380, 0},
		{"no room at all", mss(1460), 30, 0},
	} {
		for _, v6 := range []bool{false, true} {
			opts := append(bytes.Clone(c.opts), make([]byte, (4-len(c.opts)%4)%4)...)
			l4 := append(random(r, 20), opts...)
			l4[12], l4[13] = byte(len(l4)/4)<<4, SYN
			b := makePacket(randomAddr(r, v6), randomAddr(r, v6), TCP, 1, append(l4, 1, 2, 3))
			p, was := decode(t, b), bytes.Clone(b)
			if got := p.ClampMSS(c.mtu); got != (c.want != 0) {
				t.Errorf("%s: clamped %v", c.name, got)
			}
			if c.want != 0 {
				limit := uint16(c.mtu - 40)
				if v6 {
					limit -= 20
				}
				binary.BigEndian.PutUint16(was[p.l4+20+c.want:], limit)
				fill(was)
			}
			if !bytes.Equal(b, was) {
				t.Errorf("%s (v6 %v):\n got % x\nwant % x", c.name, v6, b, was)
			}
		}
	}
}

func TestAnswer(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 0))
	for _, v6 := range []bool{false, true} {
		for name, c := range map[string]struct {
			flags   byte
			payload int
			seq     uint32
			ack     uint32
			withAck bool
			ok      bool
		}{
			"data":         {ACK, 100, 7000, 0, false, true},
			"SYN":          {SYN, 0, 0, 5001, true, true},
			"SYN and data": {SYN, 10, 0, 5011, true, true},
			"SYN and ACK":  {SYN | ACK, 0, 7000, 0, false, true},
			"FIN alone":    {FIN, 3, 0, 5004, true, true},
			"RST":          {RST, 0, 0, 0, false, false},
		} {
			l4 := random(r, 20+c.payload)
			l4[12], l4[13] = 0x50, c.flags
			binary.BigEndian.PutUint32(l4[4:], 5000)
			binary.BigEndian.PutUint32(l4[8:], 7000)
			p := decode(t, makePacket(randomAddr(r, v6), randomAddr(r, v6), TCP, 1, l4))
			a, ok := p.Answer()
			if ok != c.ok || ok && (a.Seq != c.seq || a.WithAck != c.withAck || a.WithAck && a.Ack != c.ack) {
				t.Errorf("%s: %+v %v", name, a, ok)
			}
			if !ok {
				continue
			}
			b := AppendReset(nil, a)
			q := decode(t, b)
			if !right(b) || q.Src != p.Dst || q.Dst != p.Src || q.SrcPort != p.DstPort || q.DstPort != p.SrcPort || q.Seq() != c.seq || q.SegLen() != 0 {
				t.Errorf("%s: built % x", name, b)
			}
		}
	}
}

func TestAllocations(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 0))
	for _, c := range protos {
		b := randomPacket(r, c.v6, c.proto, 100)
		var p Packet
		Decode(b, &p)
		there, back := NewRewrite(p.Src, p.Dst, p.Dst, p.Src), NewRewrite(p.Dst, p.Src, p.Src, p.Dst)
		room := make([]byte, 0, ErrorMax)
		e := makeError(randomAddr(r, c.v6), p.Src, b, 100)
		var pe Packet
		var q Quote
		if n := testing.AllocsPerRun(100, func() {
			Decode(b, &p)
			p.ClampMSS(1380)
			there.Apply(&p)
			back.Apply(&p)
			a, _ := p.Answer()
			AppendError(room, p.Dst, &p, TimeExceeded, 0)
			if a.Src.IsValid() {
				AppendReset(room, a)
			}
			if Decode(e, &pe) == OK && pe.Quoted(&q) == OK {
				pe.Translate(&q, pe.Src, pe.Dst, q.Src, q.Dst)
			}
		}); n != 0 {
			t.Errorf("%+v: %v allocations", c, n)
		}
	}
}

func BenchmarkDecodeAndRewrite(b *testing.B) {
	for _, c := range protos {
		b.Run(fmt.Sprintf("v6=%v/%d", c.v6, c.proto), func(b *testing.B) {
			buf := randomPacket(rand.New(rand.NewPCG(7, 0)), c.v6, c.proto, 1200)
			var p Packet
			Decode(buf, &p)
			rw := [2]Rewrite{NewRewrite(p.Src, p.Dst, p.Dst, p.Src), NewRewrite(p.Dst, p.Src, p.Src, p.Dst)}
			b.SetBytes(int64(len(buf)))
			for i := range b.N {
				Decode(buf, &p)
				rw[i&1].Apply(&p)
			}
		})
	}
}
