package listen

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/starferry/starferry/resolver/cookie"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers A questions: big. with 100 addresses, slow. only when let go,
// panic. by panicking, silent. not at all, everything else with one address.
func echo(let <-chan struct{}) Handler {
	return func(_ context.Context, _ *Client, req []byte) []byte {
		var m dns.Msg
		if err := m.Unpack(req); err != nil {
			return nil
		}
		r := new(dns.Msg)
		r.SetReply(&m)
		n := 1
		switch m.Question[0].Name {
		case "big.":
			n = 100
		case "slow.":
			<-let
		case "panic.":
			panic("on purpose")
		case "silent.":
			return nil
		}
		for i := range n {
			rr, _ := dns.NewRR(fmt.Sprintf("%s 60 IN A 192.0.2.%d", m.Question[0].Name, i+1))
			r.Answer = append(r.Answer, rr)
		}
		if o := m.IsEdns0(); o != nil {
			r.SetEdns0(1232, false)
		}
		b, _ := r.Pack()
		return b
	}
}

// serve runs a server on UDP and TCP sockets at addr and returns where they
// are. When the test ends it must stop by itself.
func serve(t *testing.T, s *Server, addr string) (udp, tcp string) {
	t.Helper()
	pc, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Skipf("no socket at %s: %v", addr, err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.ServeUDP(ctx, pc, "test"); err != nil {
			t.Errorf("ServeUDP: %v", err)
		}
	})
	wg.Go(func() {
		if err := s.ServeTCP(ctx, l, "test"); err != nil {
			t.Errorf("ServeTCP: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return pc.LocalAddr().String(), l.Addr().String()
}

func ask(t *testing.T, network, addr string, m *dns.Msg) *dns.Msg {
	t.Helper()
	c := dns.Client{Net: network, Timeout: 5 * time.Second, UDPSize: dns.MaxMsgSize}
	r, _, err := c.Exchange(m, addr)
	if err != nil {
		t.Fatalf("asking %s over %s: %v", m.Question[0].Name, network, err)
	}
	return r
}

func query(name string, edns uint16) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(name, dns.TypeA)
	if edns > 0 {
		m.SetEdns0(edns, false)
	}
	return m
}

func TestAnswers(t *testing.T) {
	udp, tcp := serve(t, &Server{Handle: echo(nil)}, "127.0.0.1:0")
	tests := []struct {
		what, network, name string
		edns                uint16
		cut                 bool
		longest             int
	}{
		{"a short answer", "udp", "www.", 0, false, 512},
		{"a short answer over TCP", "tcp", "www.", 0, false, 65535},
		{"a long answer to an asker without EDNS", "udp", "big.", 0, true, 512},
		{"a long answer to one who takes little", "udp", "big.", 100, true, 512},
		{"a long answer to one who takes more than we send", "udp", "big.", 4096, true, 1232},
		{"a long answer over TCP", "tcp", "big.", 0, false, 65535},
	}
	for _, tt := range tests {
		m := query(tt.name, tt.edns)
		addr := map[string]string{"udp": udp, "tcp": tcp}[tt.network]
		r := ask(t, tt.network, addr, m)
		if r.Truncated != tt.cut {
			t.Errorf("%s: TC is %t, want %t", tt.what, r.Truncated, tt.cut)
		}
		r.Compress = true
		if n := r.Len(); n > tt.longest {
			t.Errorf("%s: %d bytes, want at most %d", tt.what, n, tt.longest)
		}
		if len(r.Answer) == 0 {
			t.Errorf("%s: empty", tt.what)
		}
		if (r.IsEdns0() != nil) != (tt.edns > 0) {
			t.Errorf("%s: EDNS in the answer is %t", tt.what, r.IsEdns0() != nil)
		}
	}
}

func TestWhatIsNoQuestion(t *testing.T) {
	called := false
	s := &Server{Handle: func(context.Context, *Client, []byte) []byte { called = true; return nil }}
	packed := func(change func(*dns.Msg)) []byte {
		m := query("www.example.com.", 0)
		m.Id = 0x1234
		change(m)
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	short := packed(func(*dns.Msg) {})
	tests := []struct {
		what  string
		msg   []byte
		rcode int // -1: silence
		echo  bool
	}{
		{"nothing", nil, -1, false},
		{"eleven bytes", short[:11], -1, false},
		{"an answer", packed(func(m *dns.Msg) { m.Response = true }), -1, false},
		{"a dynamic update", packed(func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), dns.RcodeNotImplemented, true},
		{"a notify", packed(func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }), dns.RcodeNotImplemented, true},
		{"no question", packed(func(m *dns.Msg) { m.Question = nil }), dns.RcodeFormatError, false},
		{"two questions", packed(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), dns.RcodeFormatError, true},
		{"a question that is cut", short[:len(short)-1], dns.RcodeFormatError, false},
		{"a query with an answer in it", packed(func(m *dns.Msg) {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: "a.", Rrtype: 1, Class: 1}, A: net.IP{1, 2, 3, 4}})
		}), dns.RcodeFormatError, true},
	}
	for _, tt := range tests {
		resp := s.answer(t.Context(), &Client{Listener: "test", Transport: UDP}, tt.msg)
		if called {
			t.Fatalf("%s: reached the handler", tt.what)
		}
		if tt.rcode < 0 {
			if resp != nil {
				t.Errorf("%s: answered", tt.what)
			}
			continue
		}
		var r dns.Msg
		if err := r.Unpack(resp); err != nil {
			t.Errorf("%s: unreadable answer: %v", tt.what, err)
			continue
		}
		if r.Rcode != tt.rcode || !r.Response || r.Id != 0x1234 || (len(r.Question) == 1) != tt.echo {
			t.Errorf("%s: got %v", tt.what, &r)
		}
	}
}

// Who sends an OPT record gets one, whatever is wrong with the rest.
func TestRefusalsHaveOPT(t *testing.T) {
	s := &Server{Handle: func(context.Context, *Client, []byte) []byte { return nil }}
	edited := func(version uint8, edit func(m *dns.Msg)) []byte {
		m := query("a.", 1232)
		m.IsEdns0().SetVersion(version)
		edit(m)
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	twice := func(m *dns.Msg) { m.Question = append(m.Question, dns.Question{Name: "b.c.", Qtype: 1, Qclass: 1}) }
	notify := func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }
	compressed := edited(0, func(m *dns.Msg) { m.Compress = true; m.Question = append(m.Question, m.Question[0], m.Question[0]) })
	for what, tt := range map[string]struct {
		msg   []byte
		rcode int
	}{
		"two questions":                    {edited(0, twice), dns.RcodeFormatError},
		"three that are the same":          {compressed, dns.RcodeFormatError},
		"a notify":                         {edited(0, notify), dns.RcodeNotImplemented},
		"two questions, EDNS version 1":    {edited(1, twice), dns.RcodeBadVers},
		"a notify, EDNS version 3":         {edited(3, notify), dns.RcodeBadVers},
		"two questions, the second is cut": {edited(0, twice)[:12+6+4], -1},
	} {
		var r dns.Msg
		if err := r.Unpack(s.answer(t.Context(), &Client{Listener: "test", Transport: UDP}, tt.msg)); err != nil {
			t.Errorf("%s: unreadable answer: %v", what, err)
			continue
		}
		opt := r.IsEdns0()
		if tt.rcode < 0 {
			if opt != nil || r.Rcode != dns.RcodeFormatError {
				t.Errorf("%s: got %v", what, &r)
			}
			continue
		}
		if opt == nil || opt.Version() != 0 || r.Rcode != tt.rcode || len(r.Question) != 1 || r.Question[0].Name != "a." {
			t.Errorf("%s: got %v", what, &r)
		}
	}
}

func TestPanicIsServfail(t *testing.T) {
	var dropped []string
	s := &Server{Handle: echo(nil), Dropped: func(l, why string) { dropped = append(dropped, l+" "+why) }}
	b, _ := query("panic.", 0).Pack()
	var r dns.Msg
	if err := r.Unpack(s.answer(t.Context(), &Client{Listener: "test", Transport: UDP}, b)); err != nil || r.Rcode != dns.RcodeServerFailure {
		t.Errorf("got %v, %v; want SERVFAIL", r.Rcode, err)
	}
	if len(dropped) != 1 || dropped[0] != "test panic" {
		t.Errorf("counted %q", dropped)
	}
}

// On Linux all of 127/8 is the host's, so that one wildcard socket is asked at
// several addresses. A connected client takes answers from the asked one only.
func TestWildcardAnswersFromTheAskedAddress(t *testing.T) {
	for _, listener := range []string{"0.0.0.0:0", "[::]:0"} {
		udp, _ := serve(t, &Server{Handle: echo(nil)}, listener)
		_, port, _ := net.SplitHostPort(udp)
		hosts := []string{"127.0.0.1", "127.0.0.77"}
		if listener[0] == '[' {
			hosts = append(hosts, "::1")
		}
		for _, h := range hosts {
			ask(t, "udp", net.JoinHostPort(h, port), query("www.", 0))
		}
	}
}

func TestPipelinedAnswersOvertake(t *testing.T) {
	let := make(chan struct{})
	_, tcp := serve(t, &Server{Handle: echo(let)}, "127.0.0.1:0")
	conn, err := net.Dial("tcp", tcp)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := dns.Conn{Conn: conn}
	for _, name := range []string{"slow.", "silent.", "www."} {
		if err := c.WriteMsg(query(name, 0)); err != nil {
			t.Fatal(err)
		}
	}
	conn.(*net.TCPConn).CloseWrite() // and still all answers come
	for _, want := range []string{"www.", "slow."} {
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		r, err := c.ReadMsg()
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Question[0].Name; got != want {
			t.Fatalf("got the answer for %s, want %s", got, want)
		}
		if want == "www." {
			close(let)
		}
	}
	if _, err := c.ReadMsg(); err != io.EOF {
		t.Errorf("after the last answer: %v, want the end", err)
	}
}

func TestConnectionsOfAClientAreLimited(t *testing.T) {
	busy := make(chan string, 8)
	s := &Server{Handle: echo(nil), Dropped: func(_, why string) { busy <- why }, Limits: Limits{ConnsPerClient: 2}}
	_, tcp := serve(t, s, "127.0.0.1:0")
	var conns []net.Conn
	for range 3 {
		conn, err := net.Dial("tcp", tcp)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	if why := <-busy; why != Busy {
		t.Errorf("counted %q, want %q", why, Busy)
	}
	conns[2].SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := conns[2].Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("the third connection is open")
	}
	c := dns.Conn{Conn: conns[0]}
	c.WriteMsg(query("www.", 0))
	if _, err := c.ReadMsg(); err != nil {
		t.Errorf("the first connection: %v", err)
	}
}

// A client that has its share in work waits, as many do as may; who comes then is
// told at once that nobody has time.
func TestQuestionsOfAClientAreLimited(t *testing.T) {
	let := make(chan struct{})
	busy := make(chan string, 8)
	s := &Server{Handle: echo(let), Dropped: func(_, why string) { busy <- why }, Limits: Limits{PerClient: 1}}
	udp, _ := serve(t, s, "127.0.0.1:0")
	conn, err := net.Dial("udp", udp)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	c := dns.Conn{Conn: conn}
	for range 1 + waitShare {
		c.WriteMsg(query("slow.", 0))
	}
	c.WriteMsg(query("www.", 1232))
	r, err := c.ReadMsg()
	if err != nil || r.Rcode != dns.RcodeServerFailure || r.Question[0].Name != "www." {
		t.Fatalf("got %v, %v; want SERVFAIL", r, err)
	}
	if o := r.IsEdns0(); o == nil || len(o.Option) != 1 || !strings.Contains(o.Option[0].String(), "in work") {
		t.Errorf("it is not told why: %v", o)
	}
	if len(busy) != 1 || <-busy != Busy {
		t.Errorf("not counted as %q", Busy)
	}
	close(let)
	for range 1 + waitShare {
		if r, err := c.ReadMsg(); err != nil || r.Rcode != dns.RcodeSuccess || r.Question[0].Name != "slow." {
			t.Errorf("of those who waited one got %v, %v", r, err)
		}
	}
}

// A lane is a socket in memory, for exact times.
type lane struct {
	net.PacketConn // nothing else of it is used
	in, out        chan []byte
	ended          chan struct{}
	once           sync.Once
}

func newLane() *lane {
	return &lane{in: make(chan []byte), out: make(chan []byte, 64), ended: make(chan struct{})}
}

func (l *lane) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case m := <-l.in:
		return copy(b, m), &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 53}, nil
	case <-l.ended:
		return 0, nil, net.ErrClosed
	}
}

func (l *lane) WriteTo(b []byte, _ net.Addr) (int, error) {
	l.out <- bytes.Clone(b)
	return len(b), nil
}

func (l *lane) Close() error        { l.once.Do(func() { close(l.ended) }); return nil }
func (l *lane) LocalAddr() net.Addr { return &net.UDPAddr{} }

// Nobody works on a question that has waited for longer than its asker will have,
// however many there are: those that came later have their turn at once.
func TestWhatHasWaitedTooLongIsNotWorkedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		let := make(chan struct{})
		s := &Server{Handle: echo(let), Limits: Limits{Workers: 1}}
		l := newLane()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.ServeUDP(ctx, l, "test") }()
		send := func(name string) {
			b, err := query(name, 0).Pack()
			if err != nil {
				t.Fatal(err)
			}
			l.in <- b
		}
		send("slow.")
		send("old.")
		send("old.")
		time.Sleep(worth + time.Second) // in the bubble's time
		send("new.")
		close(let)
		synctest.Wait()
		for _, want := range []struct {
			name  string
			rcode int
		}{{"slow.", dns.RcodeSuccess}, {"old.", dns.RcodeServerFailure}, {"old.", dns.RcodeServerFailure}, {"new.", dns.RcodeSuccess}} {
			var m dns.Msg
			if err := m.Unpack(<-l.out); err != nil || m.Question[0].Name != want.name || m.Rcode != want.rcode {
				t.Errorf("got %v, %v, want %v", &m, err, want)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// pipes is a listener of in-memory connections, for exact times.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if c, ok := <-p; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error   { defer func() { _ = recover() }(); close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

func TestIdleConnectionsAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		let := make(chan struct{})
		s := &Server{Handle: echo(let), Limits: Limits{Idle: 10 * time.Second}}
		l := make(pipes)
		ctx, cancel := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() { s.ServeTCP(ctx, l, "test") })
		near, far := net.Pipe()
		l <- far
		start := time.Now()
		c := dns.Conn{Conn: near}
		var closed atomic.Int64
		done.Go(func() {
			c.WriteMsg(query("slow.", 0))
			c.ReadMsg()
			c.ReadMsg()
			closed.Store(int64(time.Since(start)))
		})
		time.AfterFunc(25*time.Second, func() { close(let) }) // longer than the idle time
		time.AfterFunc(time.Minute, cancel)
		done.Wait()
		if got := time.Duration(closed.Load()); got < 25*time.Second || got > 40*time.Second {
			t.Errorf("closed after %v, want up to two idle times after the answer at 25s", got)
		}
	})
}

func TestAnUnlikelyLengthClosesTheConnection(t *testing.T) {
	_, tcp := serve(t, &Server{Handle: echo(nil)}, "127.0.0.1:0")
	for _, n := range []uint16{0, 11, 16385, 65535} {
		conn, err := net.Dial("tcp", tcp)
		if err != nil {
			t.Fatal(err)
		}
		conn.Write(binary.BigEndian.AppendUint16(nil, n))
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("length %d: %v, want the end", n, err)
		}
		conn.Close()
	}
}

func FuzzAnswer(f *testing.F) {
	let := make(chan struct{})
	close(let)
	for _, name := range []string{"www.", "big.", "panic."} {
		b, _ := query(name, 1232).Pack()
		f.Add(b)
	}
	f.Add(make([]byte, 12))
	alone := new(dns.Msg)
	alone.SetEdns0(1232, false).IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: 10, Cookie: "0123456789abcdef"}}
	for _, change := range []func(){func() {}, func() { alone.SetQuestion("www.", dns.TypeA) }, func() { alone.Opcode = dns.OpcodeNotify }} {
		change()
		b, _ := alone.Pack()
		f.Add(b)
	}
	s := &Server{Handle: echo(let), Guard: Guard{Cookies: cookie.New()}}
	f.Fuzz(func(t *testing.T, req []byte) {
		size := 0
		if len(req) >= headerLen {
			size = offered(req)
		}
		resp := s.answer(t.Context(), &Client{Listener: "fuzz", Transport: UDP}, req)
		if resp == nil {
			return
		}
		resp = truncated(resp, min(size, 1232))
		var m dns.Msg
		if err := m.Unpack(resp); err != nil {
			t.Fatalf("unreadable answer: %v", err)
		}
		if id(resp) != id(req) || !m.Response || len(resp) > max(512, min(size, 1232)) {
			t.Fatalf("bad answer %v", &m)
		}
	})
}

func BenchmarkInspect(b *testing.B) {
	req, _ := query("www.example.com.", 1232).Pack()
	b.ReportAllocs()
	for b.Loop() {
		inspect(req)
		offered(req)
	}
}

func TestInspectAllocatesNothing(t *testing.T) {
	req, _ := query("www.example.com.", 1232).Pack()
	if n := testing.AllocsPerRun(100, func() { inspect(req); offered(req) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}
