package listen

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/resolver/cookie"
	"github.com/starferry/starferry/resolver/guard"
	"github.com/starferry/starferry/resolver/wire"
)

// refuser answers each plain question at once, with REFUSED.
func refuser(_ *Client, q *wire.Question, out []byte) ([]byte, bool) {
	start := len(out)
	out = q.AppendShort(out, dns.RcodeRefused, false)
	return wire.AppendOPT(out, start, q, dns.RcodeRefused, &wire.Explanation{}), true
}

func withGuard(t testing.TB) *Server {
	t.Helper()
	clients, err := guard.NewClients(guard.ClientLimits{PerClient: guard.Limit{Rate: 1, Burst: 3}})
	if err != nil {
		t.Fatal(err)
	}
	responses, err := guard.NewResponses(guard.ResponseLimits{Errors: 2, Window: time.Second, Slip: 2})
	if err != nil {
		t.Fatal(err)
	}
	return &Server{Fast: refuser, Guard: Guard{Clients: clients, Responses: responses, Cookies: cookie.New(), Clock: guard.StartClock()}}
}

func plainly(t testing.TB, options ...dns.EDNS0) []byte {
	t.Helper()
	m := new(dns.Msg).SetQuestion("www.example.", dns.TypeA)
	if len(options) > 0 {
		m.SetEdns0(1232, false).IsEdns0().Option = options
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func from(transport string) *Client {
	return &Client{Addr: netip.MustParseAddrPort("192.0.2.1:5353"), Listener: "test", Transport: transport, At: time.Now()}
}

func cookieIn(t testing.TB, resp []byte) string {
	t.Helper()
	var m dns.Msg
	if err := m.Unpack(resp); err != nil {
		t.Fatal(err)
	}
	if o := m.IsEdns0(); o != nil {
		for _, o := range o.Option {
			if c, ok := o.(*dns.EDNS0_COOKIE); ok {
				return c.Cookie
			}
		}
	}
	return ""
}

func TestCookies(t *testing.T) {
	s := withGuard(t)
	s.Guard.Clients, s.Guard.Responses = nil, nil
	own := "0123456789abcdef"
	got, _ := s.quick(from(UDP), plainly(t, &dns.EDNS0_COOKIE{Code: 10, Cookie: own}), nil, 1232)
	full := cookieIn(t, got)
	if len(full) != 48 || !strings.HasPrefix(full, own) {
		t.Fatalf("cookie %q", full)
	}
	q, _ := wire.Parse(plainly(t, &dns.EDNS0_COOKIE{Code: 10, Cookie: full}))
	if w := s.look(from(UDP), &q); !w.proven || w.state != cookie.Good {
		t.Errorf("who brings it back is %+v", w)
	}
	other := from(UDP)
	other.Addr = netip.MustParseAddrPort("192.0.2.2:5353")
	if w := s.look(other, &q); w.proven || w.state != cookie.Bad {
		t.Errorf("who brings another's is %+v", w)
	}
	got, _ = s.quick(from(UDP), plainly(t, &dns.EDNS0_COOKIE{Code: 10, Cookie: "0123"}), nil, 1232)
	if got[3]&15 != dns.RcodeFormatError {
		t.Errorf("half a cookie gets %d, want FORMERR", got[3]&15)
	}
	if got, _ = s.quick(from(UDP), plainly(t), nil, 1232); cookieIn(t, got) != "" {
		t.Error("a cookie for one who knows none")
	}
}

// Over UDP who gets or asks too much hears now and then that it can come over
// TCP, and nothing else. Who is where it says it is hears what it asks.
func TestRates(t *testing.T) {
	s := withGuard(t)
	var got []string
	for range 6 {
		resp, ok := s.quick(from(UDP), plainly(t), nil, 1232)
		if !ok {
			t.Fatal("not answered at once")
		}
		got = append(got, heard(t, resp))
	}
	if got, want := strings.Join(got, " "), "all all silence cut silence cut"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for i := range 5 {
		resp, _ := s.quick(from(TCP), plainly(t), nil, 65535)
		if len(resp) == 0 || resp[2]&2 != 0 {
			t.Errorf("question %d over TCP got %x", i, resp)
		}
	}
}

// Whatever is wrong with a question, or odd: if it has an OPT record so has the
// answer (RFC 6891 section 6.1.1), with a cookie for those who sent one. And a
// cookie may be all that is asked for (RFC 7873 section 5.4).
func TestOptionsOfOddQuestions(t *testing.T) {
	const own = "0123456789abcdef"
	s := withGuard(t)
	s.Guard.Clients, s.Guard.Responses = nil, nil
	s.Handle = func(_ context.Context, _ *Client, req []byte) []byte {
		var m dns.Msg
		if err := m.Unpack(req); err != nil {
			t.Error(err)
		}
		r := new(dns.Msg).SetReply(&m)
		r.SetEdns0(1232, false)
		b, err := r.Pack()
		if err != nil {
			t.Error(err)
		}
		return b
	}
	first, _ := s.quick(from(UDP), plainly(t, &dns.EDNS0_COOKIE{Code: 10, Cookie: own}), nil, 1232)
	good := cookieIn(t, first)
	for _, tt := range []struct {
		what, cookie string // "-": no OPT
		change       func(m *dns.Msg)
		rcode        int
		full         bool // a whole cookie comes back
	}{
		{"an opcode", own, func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }, dns.RcodeNotImplemented, true},
		{"an opcode without a cookie", "", func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented, false},
		{"an opcode without OPT", "-", func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented, false},
		{"an answer in it", own, func(m *dns.Msg) {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: ".", Rrtype: 1, Class: 1}, A: []byte{1, 2, 3, 4}}}
		}, dns.RcodeFormatError, true},
		{"no question, a client's cookie", own, func(m *dns.Msg) { m.Question = nil }, dns.RcodeSuccess, true},
		{"no question, a good cookie", good, func(m *dns.Msg) { m.Question = nil }, dns.RcodeSuccess, true},
		{"no question, a bad cookie", own + own + own, func(m *dns.Msg) { m.Question = nil }, dns.RcodeBadCookie, true},
		{"no question, half a cookie", "01", func(m *dns.Msg) { m.Question = nil }, dns.RcodeFormatError, false},
		{"no question, no cookie", "", func(m *dns.Msg) { m.Question = nil }, dns.RcodeFormatError, false},
		{"another class", own, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeSuccess, true},
		{"another class, half a cookie", "01", func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeFormatError, false},
	} {
		m := new(dns.Msg).SetQuestion("www.example.", dns.TypeA)
		if tt.cookie != "-" {
			m.SetEdns0(1232, false)
		}
		if len(tt.cookie) > 1 {
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: 10, Cookie: tt.cookie}}
		}
		tt.change(m)
		req, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		var r dns.Msg
		resp := s.answer(t.Context(), from(UDP), req)
		if err := r.Unpack(resp); err != nil || r.Rcode != tt.rcode || (r.IsEdns0() != nil) != (tt.cookie != "-") {
			t.Errorf("%s: got %v, %v; want %s", tt.what, &r, err, dns.RcodeToString[tt.rcode])
		}
		if got := cookieIn(t, resp); (len(got) == 48 && got[:16] == own) != tt.full {
			t.Errorf("%s: cookie %q", tt.what, got)
		}
	}
}

// Who is over its rate is not even refused.
func TestRefusalsAreLimited(t *testing.T) {
	s := withGuard(t)
	m := new(dns.Msg).SetQuestion("www.example.", dns.TypeA)
	m.Opcode = dns.OpcodeUpdate
	req, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if resp := s.answer(t.Context(), from(UDP), req); (resp != nil) != (i < 3) {
			t.Errorf("update %d of a client that may ask 3 questions gets %x", i, resp)
		}
	}
}

// heard says in a word what came back.
func heard(t testing.TB, resp []byte) string {
	t.Helper()
	var m dns.Msg
	switch {
	case len(resp) == 0:
		return "silence"
	case m.Unpack(resp) != nil:
		t.Fatalf("unreadable: %x", resp)
	case m.Truncated && len(m.Answer) == 0:
		return "cut"
	case m.Rcode == dns.RcodeBadCookie && len(m.Answer) == 0 && len(cookieIn(t, resp)) == 48:
		return "badcookie"
	}
	return "all"
}

// Who may be forged and gets too much, or asks too much, is told to bring a cookie
// back, or else to come over TCP; who does so gets all. A victim hears little more
// than was asked in its name.
func TestChallenge(t *testing.T) {
	own := "0123456789abcdef"
	for _, tt := range []struct {
		what           string
		questions, all int
		options        []dns.EDNS0
		want           string
	}{
		{"its network gets too much", 1000, 3, []dns.EDNS0{&dns.EDNS0_COOKIE{Code: 10, Cookie: own}}, "badcookie"},
		{"a bad cookie", 1000, 3, []dns.EDNS0{&dns.EDNS0_COOKIE{Code: 10, Cookie: own + "0123456789abcdef0123456789abcdef"}}, "badcookie"},
		{"no cookie", 1000, 3, nil, "cut"},
		{"it asks too much", 2, 2, []dns.EDNS0{&dns.EDNS0_COOKIE{Code: 10, Cookie: own}}, "badcookie"},
		{"it asks too much without a cookie", 2, 2, nil, "cut"},
	} {
		s := withGuard(t)
		s.Guard.Clients, _ = guard.NewClients(guard.ClientLimits{PerClient: guard.Limit{Rate: 1, Burst: tt.questions}})
		s.Guard.Responses, _ = guard.NewResponses(guard.ResponseLimits{Errors: 3, Slip: 1})
		req := plainly(t, tt.options...)
		for i := range 6 {
			resp, _ := s.quick(from(UDP), req, nil, 1232)
			want := "all"
			if i >= tt.all {
				want = tt.want
			}
			if got := heard(t, resp); got != want {
				t.Errorf("%s: question %d gets %s, want %s", tt.what, i, got, want)
			}
			if len(resp) > len(req)+cookieLen-12 {
				t.Errorf("%s: %d bytes become %d", tt.what, len(req), len(resp))
			}
			if got := cookieIn(t, resp); i == 5 && got != "" {
				req = plainly(t, &dns.EDNS0_COOKIE{Code: 10, Cookie: got})
			}
		}
		for range 2 {
			if resp, _ := s.quick(from(UDP), req, nil, 1232); tt.options != nil && heard(t, resp) != "all" {
				t.Errorf("%s: who brings its cookie back gets %s", tt.what, heard(t, resp))
			}
		}
	}
}

// Where answers are not limited nobody counts what a victim gets: who asks too much
// hears nothing.
func TestSilence(t *testing.T) {
	s := withGuard(t)
	s.Guard.Responses = nil
	req := plainly(t, &dns.EDNS0_COOKIE{Code: 10, Cookie: "0123456789abcdef"})
	for range 3 {
		s.quick(from(UDP), req, nil, 1232)
	}
	if resp, ok := s.quick(from(UDP), req, nil, 1232); !ok || len(resp) > 0 {
		t.Errorf("got %x", resp)
	}
}

func TestQuickAllocatesNothing(t *testing.T) {
	s := withGuard(t)
	s.Guard.Clients = nil // so that some are answered, some challenged and some dropped
	req := plainly(t, &dns.EDNS0_COOKIE{Code: 10, Cookie: "0123456789abcdef"})
	c, out := from(UDP), make([]byte, 0, 2048)
	if n := testing.AllocsPerRun(1000, func() { s.quick(c, req, out, 1232) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestQuickPanics(t *testing.T) {
	why := ""
	s := &Server{Dropped: func(_, w string) { why = w }, Fast: func(*Client, *wire.Question, []byte) ([]byte, bool) { panic("bad") }}
	if resp, ok := s.quick(from(UDP), plainly(t), nil, 1232); ok || len(resp) > 0 || why != Panicked {
		t.Errorf("got %x, %t, dropped for %q", resp, ok, why)
	}
}

// A kernel's socket is read and written many datagrams at a time: all of them
// are answered, to where they came from, also on a wildcard socket.
func TestBatches(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"} {
		pc, err := net.ListenPacket("udp", at)
		if err != nil {
			t.Skip(err) // no IPv6 here
		}
		s := &Server{Fast: refuser}
		done := make(chan error)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { done <- s.ServeUDP(ctx, pc, "test") }()
		to := *pc.LocalAddr().(*net.UDPAddr)
		if to.IP.IsUnspecified() {
			to.IP = net.IPv6loopback
			if strings.HasPrefix(at, "0") {
				to.IP = net.IPv4(127, 0, 0, 7) // not the one that the kernel would answer from
			}
		}
		conn, err := net.DialUDP("udp", nil, &to)
		if err != nil {
			t.Fatal(err)
		}
		req, buf := plainly(t), make([]byte, 512)
		for answered := false; !answered; { // until the socket has been told to say where questions went to
			conn.Write(req)
			conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			_, err := conn.Read(buf)
			answered = err == nil
		}
		const n = 200
		for i := range n {
			req[0] = byte(i)
			if _, err := conn.Write(req); err != nil {
				t.Fatal(err)
			}
		}
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		seen := map[byte]bool{}
		for range n {
			if _, err := conn.Read(buf); err != nil {
				t.Errorf("%s: after %d answers: %v", at, len(seen), err)
				break
			}
			seen[buf[0]] = true
		}
		if len(seen) != n {
			t.Errorf("%s: %d answers", at, len(seen))
		}
		conn.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		again, err := net.ListenPacket("udp", to.String())
		if err != nil {
			t.Fatalf("the socket is not closed: %v", err)
		}
		again.Close()
	}
}

// Nothing that is wrong with a question gets around the rates.
func TestOddQuestionsAreLimited(t *testing.T) {
	behind := func(more ...byte) []byte { return append(plainly(t), more...) }
	record := behind(0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4)
	record[11] = 1
	available := behind()
	available[3] = 0x80
	for what, req := range map[string][]byte{
		"a malformed cookie": plainly(t, &dns.EDNS0_COOKIE{Code: 10, Cookie: "0123"}), "a record behind": record, "a byte behind": behind(0), "RA": available,
	} {
		s := withGuard(t)
		if what != "a malformed cookie" {
			s.Guard.Clients = nil
		}
		s.Handle = func(_ context.Context, _ *Client, req []byte) []byte {
			var m dns.Msg
			m.Unpack(req) //nolint:errcheck // what was read counts
			b, _ := new(dns.Msg).SetRcode(&m, dns.RcodeRefused).Pack()
			return b
		}
		n := 0
		for range 1000 {
			resp, ok := s.quick(from(UDP), req, nil, 1232)
			if !ok {
				resp = s.reply(t.Context(), "x", &packet{buf: req, addr: from(UDP).Addr})
			}
			if len(resp) > 0 {
				n++
			}
		}
		if n > 600 { // half of them slip, as of plain ones
			t.Errorf("%s: %d of 1000 are answered", what, n)
		}
	}
}
