package listen

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/resolver/wire"
)

// known answers questions for names that begin with k at once, with one address.
func known(_ *Client, q *wire.Question, out []byte) ([]byte, bool) {
	if q.Name[1] != 'k' {
		return out, false
	}
	n := len(out)
	out = append(out, q.Req[:q.End]...)
	out = append(out, 0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 192, 0, 2, 1)
	b := out[n:]
	b[2] |= 0x80
	b[3], b[7], b[11] = 0x80, 1, 0
	if q.EDNS {
		out = append(out, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0)
		out[n+11] = 1
	}
	return out, true
}

func packed(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// framed returns questions for these names as they go over a connection.
func framed(t testing.TB, names ...string) []byte {
	t.Helper()
	var out []byte
	for _, n := range names {
		b := packed(t, query(n, 0))
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(b))), b...)
	}
	return out
}

// inBubble serves in-memory connections until the returned function is called.
func inBubble(t *testing.T, s *Server) (dial func() net.Conn, end func()) {
	l := make(pipes)
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		if err := s.ServeTCP(ctx, l, "test"); err != nil {
			t.Errorf("ServeTCP: %v", err)
		}
	})
	dial = func() net.Conn {
		near, far := net.Pipe()
		l <- far
		return near
	}
	return dial, func() { cancel(); done.Wait() }
}

func TestWhatComesTogetherIsAnsweredWithOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, end := inBubble(t, &Server{Handle: echo(nil), Fast: known})
		defer end()
		conn := dial()
		defer conn.Close()
		all := framed(t, "k1.", "k2.", "k3.", "k4.")
		conn.Write(all[:len(all)-5]) // the last is not whole
		b := make([]byte, 65536)
		n, err := conn.Read(b) // of one write at most
		if err != nil {
			t.Fatal(err)
		}
		answers := 0
		for rest := b[:n]; len(rest) > 0; answers++ {
			var m dns.Msg
			l := int(binary.BigEndian.Uint16(rest))
			if err := m.Unpack(rest[2 : 2+l]); err != nil || len(m.Answer) != 1 {
				t.Fatalf("answer %d: %v, %v", answers, &m, err)
			}
			rest = rest[2+l:]
		}
		if answers != 3 {
			t.Errorf("%d answers with one write, want 3", answers)
		}
		conn.Write(all[len(all)-5:])
		if r, err := (&dns.Conn{Conn: conn}).ReadMsg(); err != nil || r.Question[0].Name != "k4." {
			t.Errorf("got %v, %v", r, err)
		}
	})
}

// Bytes one at a time keep no connection open for longer than twice the idle time.
func TestSlowQuestionsCloseTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, end := inBubble(t, &Server{Handle: echo(nil), Limits: Limits{Idle: 10 * time.Second}})
		defer end()
		conn := dial()
		defer conn.Close()
		start, sent := time.Now(), 0
		for _, b := range bytes.Repeat(framed(t, "www."), 10) {
			if _, err := conn.Write([]byte{b}); err != nil {
				break
			}
			sent++
			time.Sleep(8 * time.Second)
		}
		if d := time.Since(start); d > 21*time.Second {
			t.Errorf("closed after %v and %d bytes", d, sent)
		}
	})
}

// A connection over which much is asked, so that there is always a part of
// the next question, is no slow one.
func TestBusyConnectionsStayOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, end := inBubble(t, &Server{Handle: echo(nil), Fast: known, Limits: Limits{Idle: 10 * time.Second}})
		defer end()
		conn := dial()
		defer conn.Close()
		go io.Copy(io.Discard, conn)
		all := bytes.Repeat(framed(t, "k1."), 30)
		step := len(framed(t, "k1."))
		for i := 7; i+step < len(all); i += step {
			if _, err := conn.Write(all[i-7 : i-7+step]); err != nil {
				t.Fatalf("closed after %d questions: %v", i/step, err)
			}
			time.Sleep(5 * time.Second)
		}
	})
}

func TestAClientThatDoesNotReadIsClosed(t *testing.T) {
	for _, name := range []string{"k1.", "www."} {
		synctest.Test(t, func(t *testing.T) {
			var why string
			s := &Server{Handle: echo(nil), Fast: known, Limits: Limits{Write: 5 * time.Second}, Dropped: func(_, w string) { why = w }}
			dial, end := inBubble(t, s)
			conn := dial()
			defer conn.Close()
			start := time.Now()
			var err error
			for err == nil && time.Since(start) < time.Minute {
				_, err = conn.Write(framed(t, name))
				time.Sleep(time.Second)
			}
			if d := time.Since(start); err == nil || d > 12*time.Second {
				t.Errorf("%s: after %v: %v", name, d, err)
			}
			end()
			if why != Unsent {
				t.Errorf("%s: counted %q", name, why)
			}
		})
	}
}

func TestKeepaliveIsToldOverConnectionsOnly(t *testing.T) {
	udp, tcp := serve(t, &Server{Handle: echo(nil), Fast: known, Limits: Limits{Idle: 12 * time.Second}}, "127.0.0.1:0")
	tests := []struct {
		network, addr, name string
		asked               bool
		want                int // -1: none
	}{
		{"tcp", tcp, "www.", true, 120},
		{"tcp", tcp, "k1.", true, 120},
		{"tcp", tcp, "k1.", false, -1},
		{"udp", udp, "www.", true, -1},
		{"udp", udp, "k1.", true, -1},
	}
	for _, tt := range tests {
		m := query(tt.name, 1232)
		if tt.asked {
			m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE})
		}
		got := -1
		for _, o := range ask(t, tt.network, tt.addr, m).IsEdns0().Option {
			if k, ok := o.(*dns.EDNS0_TCP_KEEPALIVE); ok {
				got = int(k.Timeout)
			}
		}
		if got != tt.want {
			t.Errorf("%+v: told %d", tt, got)
		}
	}
}

// The least that one address must get: 128 connections, and 256 questions in
// work.
func TestDefaultsSuffice(t *testing.T) {
	let := make(chan struct{})
	var started sync.WaitGroup
	started.Add(256)
	handle := echo(let)
	s := &Server{Handle: func(ctx context.Context, c *Client, req []byte) []byte { started.Done(); return handle(ctx, c, req) }}
	_, tcp := serve(t, s, "127.0.0.1:0")
	var conns []*dns.Conn
	for range 128 {
		conn, err := net.Dial("tcp", tcp)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		conn.Write(framed(t, "slow.", "slow."))
		conns = append(conns, &dns.Conn{Conn: conn})
	}
	started.Wait()
	close(let)
	for i, c := range conns {
		for range 2 {
			if _, err := c.ReadMsg(); err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
		}
	}
}

func TestACutConnectionEnds(t *testing.T) {
	_, tcp := serve(t, &Server{Handle: echo(nil)}, "127.0.0.1:0")
	for _, cut := range []int{1, 2, 9} {
		conn, err := net.Dial("tcp", tcp)
		if err != nil {
			t.Fatal(err)
		}
		conn.Write(framed(t, "www.", "www.")[:len(framed(t, "www."))+cut])
		conn.(*net.TCPConn).CloseWrite()
		b, err := io.ReadAll(conn)
		if err != nil || len(b) < headerLen {
			t.Errorf("cut after %d bytes: %d bytes, %v; want the first answer", cut, len(b), err)
		}
		conn.(*net.TCPConn).SetLinger(0) // a RST
		conn.Close()
	}
}

// A script is a connection that hands out what is to be read in parts, and
// gathers what is written.
type script struct {
	net.Conn
	parts [][]byte
	out   []byte
}

func (s *script) Read(b []byte) (int, error) {
	if len(s.parts) == 0 {
		return 0, io.EOF
	}
	n := copy(b, s.parts[0])
	if s.parts[0] = s.parts[0][n:]; len(s.parts[0]) == 0 {
		s.parts = s.parts[1:]
	}
	return n, nil
}
func (s *script) Write(b []byte) (int, error)      { s.out = append(s.out, b...); return len(b), nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }
func (s *script) Close() error                     { return nil }

// FuzzInbox holds that it does not matter in which parts questions come.
func FuzzInbox(f *testing.F) {
	f.Add(framed(f, "www.", "k1."), uint8(1))
	f.Add(framed(f, "www.example.com.", "k1.", "a."), uint8(7))
	f.Add([]byte{0, 0, 0, 12}, uint8(3))
	f.Fuzz(func(t *testing.T, stream []byte, step uint8) {
		var want [][]byte
		for rest := stream; len(rest) >= 2; {
			n := int(binary.BigEndian.Uint16(rest))
			if n < headerLen || n > 4096 || len(rest) < 2+n {
				break
			}
			want = append(want, rest[2:2+n])
			rest = rest[2+n:]
		}
		s := &script{}
		for rest := stream; len(rest) > 0; {
			n := min(len(rest), int(step)+1)
			s.parts, rest = append(s.parts, rest[:n]), rest[n:]
		}
		in := inbox{longest: 4096, idle: time.Second}
		for {
			req, err := in.next()
			if err == nil && req == nil {
				err = in.read(s)
			}
			if err != nil {
				break
			}
			if req == nil {
				continue
			}
			if len(want) == 0 || !bytes.Equal(req, want[0]) {
				t.Fatalf("got %x, want one of %x", req, want)
			}
			want = want[1:]
		}
		if len(want) > 0 {
			t.Fatalf("%d questions are missing", len(want))
		}
	})
}

func benchStream(t testing.TB) (c *stream, once func()) {
	conn := &script{}
	client := &Client{Transport: DoT}
	s := &Server{Fast: known}
	c = &stream{Server: s, conn: conn, client: client, writer: make(chan struct{}, 1), terms: terms{keepalive: 100, padding: true}, in: inbox{longest: 4096, idle: 10 * time.Second}}
	m := query("k1.example.com.", 1232)
	m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_PADDING{Padding: make([]byte, 40)})
	b := packed(t, m)
	b = append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
	parts := make([][]byte, 1)
	return c, func() {
		conn.out, conn.parts = conn.out[:0], parts
		parts[0] = b
		if c.fill(context.Background()) != nil || c.look(context.Background()) != nil || len(conn.out) != 2+padBlock {
			panic("no answer")
		}
	}
}

// What the fast way itself takes is not a stream's.
func TestAnswersAtOnceAllocateNothing(t *testing.T) {
	c, once := benchStream(t)
	req, out := packed(t, query("k1.example.com.", 1232)), make([]byte, 0, 512)
	own := testing.AllocsPerRun(1000, func() { c.quick(c.client, req, out, maxAnswer) })
	if n := testing.AllocsPerRun(1000, once); n > own {
		t.Errorf("%v allocations, want no more than the %v of the fast way", n, own)
	}
}

func BenchmarkStream(b *testing.B) {
	_, once := benchStream(b)
	b.ReportAllocs()
	for b.Loop() {
		once()
	}
}
