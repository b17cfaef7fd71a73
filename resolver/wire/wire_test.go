package wire

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// ask packs a question as the library does.
func ask(t testing.TB, name string, qtype uint16, change func(*dns.Msg)) []byte {
	t.Helper()
	m := new(dns.Msg).SetQuestion(name, qtype)
	if change != nil {
		change(m)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func edns(m *dns.Msg) { m.SetEdns0(4096, true) }
func cookie(m *dns.Msg) {
	edns(m)
	withOption(m, &dns.EDNS0_COOKIE{Code: 10, Cookie: "0123456789abcdef"})
}

func withOption(m *dns.Msg, o dns.EDNS0) { m.IsEdns0().Option = append(m.IsEdns0().Option, o) }

func TestParse(t *testing.T) {
	change := func(at int, b byte) func([]byte) []byte {
		return func(req []byte) []byte { req[at] = b; return req }
	}
	plain := ask(t, "WWW.Example.com.", dns.TypeA, nil)
	with := ask(t, "www.example.com.", dns.TypeA, edns)
	for _, tt := range []struct {
		what string
		req  []byte
		edit func([]byte) []byte
		ok   bool
	}{
		{"plain", plain, nil, true},
		{"EDNS", with, nil, true},
		{"an option", ask(t, "a.", dns.TypeA, cookie), nil, true},
		{"the root", ask(t, ".", dns.TypeNS, nil), nil, true},
		{"an answer", plain, change(2, 0x81), false},
		{"another opcode", plain, change(2, 0x29), false},
		{"truncated", plain, change(2, 0x03), false},
		{"a response code", plain, change(3, 0x01), false},
		{"two questions", plain, change(5, 2), false},
		{"an answer record", plain, change(7, 1), false},
		{"two additional records", with, change(11, 2), false},
		{"a longer name than there is", plain, change(12, 60), false},
		{"a compressed name", plain, change(12, 0xc0), false},
		{"another class", plain, change(len(plain)-1, 3), false},
		{"garbage behind", plain, func(b []byte) []byte { return append(b, 0) }, false},
		{"cut", plain, func(b []byte) []byte { return b[:len(b)-1] }, false},
		{"version 1", with, change(len(with)-5, 1), false},
		{"an extended response code", with, change(len(with)-6, 1), false},
		{"options longer than they are", with, change(len(with)-1, 4), false},
		{"no OPT", with, change(len(with)-10, 1), false},
		{"nothing", nil, nil, false},
	} {
		req := bytes.Clone(tt.req)
		if tt.edit != nil {
			req = tt.edit(req)
		}
		if _, ok := Parse(req); ok != tt.ok {
			t.Errorf("%s: %t", tt.what, ok)
		}
	}
}

// FuzzParse holds what is read in place to what the library reads.
func FuzzParse(f *testing.F) {
	f.Add(ask(f, "www.example.com.", dns.TypeA, nil))
	f.Add(ask(f, `a\.b\200.Example.`, dns.TypeHTTPS, edns))
	f.Add(ask(f, ".", dns.TypeNS, cookie))
	f.Add([]byte("\x00\x01\x01\x00\x00\x02\x00\x00\x00\x00\x00\x01\x01a\x00\x00\x01\x00\x01\xc0\x0c\x00\x1c\x00\x01\x00\x00\x29\x04\xd0\x00\x01\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, req []byte) {
		readsOPT(t, req)
		refuses(t, req)
		q, ok := Parse(req)
		if !ok {
			return
		}
		var m dns.Msg
		if err := m.Unpack(req); err != nil {
			if q.EDNS && len(q.Options) > 0 {
				return // the library minds what some options say
			}
			t.Fatalf("the library cannot read it: %v", err)
		}
		opt := m.IsEdns0()
		got := Question{Type: q.Type, Class: q.Class, RD: q.RD, AD: q.AD, CD: q.CD, EDNS: q.EDNS, DO: q.DO}
		want := Question{
			Type: m.Question[0].Qtype, Class: m.Question[0].Qclass, RD: m.RecursionDesired, AD: m.AuthenticatedData,
			CD: m.CheckingDisabled, EDNS: opt != nil, DO: opt != nil && opt.Do(),
		}
		if got.Type != want.Type || got.Class != want.Class || got.RD != want.RD || got.AD != want.AD || got.CD != want.CD || got.EDNS != want.EDNS || got.DO != want.DO {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if opt != nil && q.Size != max(MinSize, int(opt.UDPSize())) {
			t.Errorf("size %d, want %d", q.Size, opt.UDPSize())
		}
		name := strings.TrimSuffix(strings.ToLower(m.Question[0].Name), ".")
		if text := string(AppendText(nil, q.Name)); text != name {
			t.Errorf("name %q, want %q", text, name)
		}
		for _, out := range [][]byte{q.AppendShort(nil, 5, false), q.AppendShort([]byte("before"), 0, true)[6:]} {
			checkReply(t, &m, AppendOPT(out, 0, &q, 0, &Explanation{true, 15, "why"}), nil)
		}
	})
}

// readsOPT holds the OPT record of a message to what the library reads.
func readsOPT(t *testing.T, req []byte) {
	t.Helper()
	q, ok := OPT(req)
	var m dns.Msg
	if m.Unpack(req) != nil || !ok && len(m.Extra) > 1 {
		return // the library minds what some options say; of several records the first counts
	}
	opt := m.IsEdns0()
	switch {
	case ok && opt == nil, ok && len(m.Extra) == 1 && (q.DO != opt.Do() || q.Size != max(MinSize, int(opt.UDPSize()))):
		t.Errorf("read %+v of %v", q, opt)
	case !ok && opt != nil && opt.Hdr.Name == "." && opt.Version() == 0 && opt.ExtendedRcode() == 0 && len(m.Question) < 2 && len(m.Answer)+len(m.Ns) == 0:
		t.Errorf("%v is not read", opt)
	}
}

// refuses holds that a refusal can be read, and has an OPT record of our version where
// one of the message was found.
func refuses(t *testing.T, req []byte) {
	t.Helper()
	if len(req) < HeaderLen {
		return
	}
	resp, q := Refusal(req, dns.RcodeFormatError)
	var r dns.Msg
	if err := r.Unpack(resp); err != nil {
		t.Fatalf("an unreadable refusal: %v\n%x", err, resp)
	}
	rcode, opt := dns.RcodeFormatError, r.IsEdns0()
	if q.Version != 0 {
		rcode = dns.RcodeBadVers
	}
	if r.Rcode != rcode || q.EDNS != (opt != nil) || opt != nil && opt.Version() != 0 || resp[0] != req[0] || resp[1] != req[1] || !r.Response {
		t.Errorf("of %+v the refusal is %v", q, &r)
	}
}

// checkReply holds a reply to its question, and its records to those wanted.
func checkReply(t *testing.T, q *dns.Msg, reply []byte, want *dns.Msg) {
	t.Helper()
	var r dns.Msg
	if err := r.Unpack(reply); err != nil {
		t.Fatalf("an unreadable reply: %v\n%x", err, reply)
	}
	if r.Id != q.Id || !r.Response || r.Opcode != 0 || !r.RecursionAvailable || r.RecursionDesired != q.RecursionDesired ||
		r.CheckingDisabled != q.CheckingDisabled || r.Authoritative || r.Zero || len(r.Question) != 1 || r.Question[0] != q.Question[0] {
		t.Errorf("the reply does not fit:\n%v\n%v", q, &r)
	}
	if (r.IsEdns0() != nil) != (q.IsEdns0() != nil) || r.IsEdns0() != nil && (r.IsEdns0().Do() != q.IsEdns0().Do() || r.IsEdns0().UDPSize() != UDPSize) {
		t.Errorf("EDNS does not fit:\n%v\n%v", q, &r)
	}
	if want == nil {
		return
	}
	if r.Rcode != want.Rcode {
		t.Errorf("response code %d, want %d", r.Rcode, want.Rcode)
	}
	for i, pair := range [][2][]dns.RR{{r.Answer, want.Answer}, {r.Ns, want.Ns}, {withoutOPT(r.Extra), withoutOPT(want.Extra)}} {
		if len(pair[0]) != len(pair[1]) {
			t.Fatalf("section %d has %d records, want %d", i, len(pair[0]), len(pair[1]))
		}
		for j := range pair[0] {
			if got, want := pair[0][j].String(), pair[1][j].String(); !strings.EqualFold(got, want) {
				t.Errorf("section %d: got %s, want %s", i, got, want)
			}
		}
	}
}

func withoutOPT(rrs []dns.RR) (out []dns.RR) {
	for _, rr := range rrs {
		if rr.Header().Rrtype != dns.TypeOPT {
			out = append(out, rr)
		}
	}
	return out
}

// say packs an answer of records in presentation form; "--" begins the next
// section.
func say(t testing.TB, req []byte, rcode int, opt bool, records ...string) []byte {
	t.Helper()
	var q dns.Msg
	if err := q.Unpack(req); err != nil {
		t.Fatal(err)
	}
	m := new(dns.Msg).SetRcode(&q, rcode)
	m.Compress, m.RecursionAvailable, m.AuthenticatedData = true, true, true
	sections := []*[]dns.RR{&m.Answer, &m.Ns, &m.Extra}
	for _, r := range records {
		if r == "--" {
			sections = sections[1:]
			continue
		}
		rr, err := dns.NewRR(r)
		if err != nil {
			t.Fatal(err)
		}
		*sections[0] = append(*sections[0], rr)
	}
	if opt {
		m.SetEdns0(1232, true)
		withOption(m, &dns.EDNS0_EDE{InfoCode: 6, ExtraText: "bogus"})
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var said = [][]string{
	{"www.example.com. 60 IN A 192.0.2.1"},
	{"www.example.com. 300 IN CNAME c.example.net.", "c.example.net. 60 IN A 192.0.2.1", "c.example.net. 60 IN A 192.0.2.2", "--", "example.net. 60 IN NS ns.example.net.", "--", "ns.example.net. 60 IN AAAA 2001:db8::1"},
	{"--", "example.com. 300 IN SOA ns.example.com. host.example.com. 1 2 3 4 60"},
	{"www.example.com. 60 IN MX 10 mail.example.com.", "www.example.com. 60 IN SRV 1 2 3 srv.example.com."},
	{"www.example.com. 60 IN HTTPS 1 . alpn=h2 ipv4hint=192.0.2.1", `www.example.com. 60 IN TXT "some text"`},
	{},
}

func TestAnswer(t *testing.T) {
	for _, records := range said {
		for _, opt := range []bool{false, true} {
			up := ask(t, "www.example.com.", dns.TypeA, nil)
			a, ok := ReadAnswer(say(t, up, 0, opt, records...))
			if !ok {
				t.Errorf("%q cannot be read", records)
				continue
			}
			if (a.Why != Explanation{}) != opt || opt && a.Why.Code != 6 {
				t.Errorf("explained by %+v", a.Why)
			}
			for _, change := range []func(*dns.Msg){nil, edns, cookie} {
				req := ask(t, "wWw.eXample.Com.", dns.TypeA, change)
				q, ok := Parse(req)
				if !ok {
					t.Fatal("not plain")
				}
				var m, want dns.Msg
				if m.Unpack(req) != nil || want.Unpack(a.Msg) != nil {
					t.Fatal("unreadable")
				}
				for _, rrs := range [][]dns.RR{want.Answer, want.Ns, want.Extra} {
					for _, rr := range rrs {
						rr.Header().Ttl = min(max(rr.Header().Ttl-7, 60), 200)
					}
				}
				prefix := []byte("some bytes")
				out := a.Append(prefix, &q, Span{Age: 7, Least: 60, Most: 200})
				out = AppendOPT(out, len(prefix), &q, a.Rcode, &Explanation{})
				checkReply(t, &m, out[len(prefix):], &want)
				ad := q.DO || q.AD
				if got := out[len(prefix)+3]&0x20 != 0; got != ad {
					t.Errorf("AD is %t, want %t", got, ad)
				}
				longer := AppendOption(bytes.Clone(out), len(prefix), []byte{0, 12, 0, 3, 0, 0, 0})
				if want := len(out) + 7; q.EDNS && len(longer) != want || !q.EDNS && len(longer) != len(out) {
					t.Errorf("%d bytes with padding, want %d", len(longer), want)
				}
				checkReply(t, &m, longer[len(prefix):], &want)
			}
		}
	}
}

// FuzzAnswer holds what is read of an answer to what the library reads of it,
// and what is made of it for another asker too.
func FuzzAnswer(f *testing.F) {
	for _, records := range said {
		f.Add(say(f, ask(f, "www.example.com.", dns.TypeA, nil), 0, true, records...))
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		a, ok := ReadAnswer(msg)
		if !ok {
			return
		}
		for rr := range a.Records {
			rr.Addr()
			AppendText(nil, AppendName(nil, a.Msg, rr.Name))
		}
		a.Negative()
		trims(t, msg)
		var m dns.Msg
		if err := m.Unpack(msg); err != nil {
			return // records of types that are not looked into may hold anything
		}
		if a.Rcode != m.Rcode || a.AD != m.AuthenticatedData || int(a.Count[0]) != len(m.Answer) || int(a.Count[1]) != len(m.Ns) {
			t.Errorf("read %+v of %v", a, &m)
		}
		i := 0
		for _, rrs := range [][]dns.RR{m.Answer, m.Ns, withoutOPT(m.Extra)} {
			for _, rr := range rrs {
				if ttl := a.ttl(a.TTLs.At(i)); ttl != rr.Header().Ttl && rr.Header().Ttl <= 1<<31-1 {
					t.Errorf("TTL %d, want %d", ttl, rr.Header().Ttl)
				}
				i++
			}
		}
		name := AppendName(nil, msg, HeaderLen)
		if !NameIs(msg, HeaderLen, name) {
			t.Errorf("%q is not itself", name)
		}
		rcode := m.Rcode & 15
		req := ask(t, m.Question[0].Name, m.Question[0].Qtype, edns)
		q, ok := Parse(req)
		if !ok {
			return
		}
		var asked dns.Msg
		if err := asked.Unpack(req); err != nil {
			t.Fatal(err)
		}
		for _, rrs := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
			for _, rr := range rrs {
				h := rr.Header()
				h.Ttl -= min(h.Ttl, 1)
			}
		}
		m.Rcode = rcode
		out := a.Append(nil, &q, Span{Age: 1})
		checkReply(t, &asked, AppendOPT(out, 0, &q, rcode, &Explanation{}), &m)
	})
}

// trims holds what [Answer.Trim] leaves to the answer before it.
func trims(t *testing.T, msg []byte) {
	t.Helper()
	a, _ := ReadAnswer(msg)
	whole := a
	whole.Msg = bytes.Clone(a.Msg)
	a.Trim()
	again, ok := ReadAnswer(a.Msg)
	if !ok || again.Count != a.Count || len(again.TTLs) != len(a.TTLs) {
		t.Errorf("trimmed to %x of %d, read as %d", a.Msg, a.Count, again.Count)
	}
	if a.Count[0] != whole.Count[0] || a.Count[2] != 0 || a.Count[1] != 0 && a.Count[1] != whole.Count[1] || a.Negative() != whole.Negative() {
		t.Errorf("%d records become %d", whole.Count, a.Count)
	}
}

func TestTrim(t *testing.T) {
	up := ask(t, "www.example.com.", dns.TypeA, nil)
	for _, tt := range []struct {
		what    string
		records []string
		want    [3]uint16
	}{
		{"an answer alone", []string{"www.example.com. 60 IN A 192.0.2.1"}, [3]uint16{1, 0, 0}},
		{"records of others", []string{"www.example.com. 60 IN A 192.0.2.1", "--", "example.net. 60 IN NS ns.example.org.", "--", "www.example.net. 60 IN A 192.0.2.66"}, [3]uint16{1, 0, 0}},
		{"a negative answer", []string{"--", "example.com. 60 IN SOA a. b. 1 2 3 4 60", "--", "a. 60 IN A 192.0.2.66"}, [3]uint16{0, 1, 0}},
		{"a wildcard that is proven", []string{"www.example.com. 60 IN A 192.0.2.1", "--", "example.com. 60 IN NSEC x.example.com. A"}, [3]uint16{1, 1, 0}},
	} {
		msg := say(t, up, 0, true, tt.records...)
		a, _ := ReadAnswer(msg)
		if a.Trim(); a.Count != tt.want {
			t.Errorf("%s: %d records stay, want %d", tt.what, a.Count, tt.want)
		}
		trims(t, msg)
	}
}

func TestSettle(t *testing.T) {
	up := ask(t, "www.example.com.", dns.TypeA, nil)
	lives := Lives{Least: 10, Most: 100, Negative: 50, Fail: 5}
	for _, tt := range []struct {
		what    string
		rcode   int
		records []string
		want    uint32
	}{
		{"within bounds", 0, []string{"www.example.com. 60 IN A 192.0.2.1"}, 60},
		{"raised", 0, []string{"www.example.com. 1 IN A 192.0.2.1"}, 10},
		{"lowered", 0, []string{"www.example.com. 1000 IN A 192.0.2.1"}, 100},
		{"negative, not raised", 3, []string{"--", "example.com. 3 IN SOA a. b. 1 2 3 4 60"}, 3},
		{"negative, lowered", 3, []string{"--", "example.com. 900 IN SOA a. b. 1 2 3 4 900"}, 50},
		{"no SOA", 3, nil, 0},
		{"failed", 2, nil, 5},
		{"refused", 5, nil, 5},
	} {
		a, _ := ReadAnswer(say(t, up, tt.rcode, false, tt.records...))
		if got := a.Settle(lives); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.what, got, tt.want)
		}
	}
}

func begun(msg []byte, body int) *records {
	r := new(records)
	r.begin(msg, body)
	return r
}

func TestPointersLeadBack(t *testing.T) {
	head := append(ask(t, "bb.a.", dns.TypeA, nil), 0, 5)
	for _, tt := range []struct {
		what string
		name []byte
		ok   bool
	}{
		{"back to the question", []byte{0xc0, 12}, true},
		{"to its second label", []byte{0xc0, 15}, true},
		{"into a label", []byte{0xc0, 13}, false},
		{"to the question's type", []byte{0xc0, 18}, false},
		{"into the header", []byte{0xc0, 4}, false},
		{"to itself", []byte{0xc0, byte(len(head))}, false},
		{"forward", []byte{0xc0, byte(len(head) + 1), 0}, false},
		{"a label and back", []byte{1, 'b', 0xc0, 12}, true},
		{"a kind that is none", []byte{0x80, 12}, false},
		{"cut", []byte{0xc0}, false},
		{"too long", bytes.Repeat(append([]byte{63}, make([]byte, 63)...), 4), false},
		{"too long with what is pointed to", append(bytes.Repeat(append([]byte{62}, make([]byte, 62)...), 4), 0xc0, 12), false},
	} {
		msg := append(bytes.Clone(head), tt.name...)
		if _, ok := begun(msg, len(head)-2).names.skip(msg, len(head), len(msg)); ok != tt.ok {
			t.Errorf("%s: %t", tt.what, ok)
		}
	}
}

func TestNothingIsAllocated(t *testing.T) {
	req := ask(t, "www.example.com.", dns.TypeA, edns)
	a, _ := ReadAnswer(say(t, req, 0, false, said[1]...))
	out := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() {
		q, ok := Parse(req)
		if !ok {
			t.Error("not plain")
		}
		b := a.Append(out, &q, Span{Age: 1})
		AppendOption(AppendOPT(b, 0, &q, 0, &Explanation{}), 0, []byte{0, 12, 0, 0})
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestAddr(t *testing.T) {
	up := ask(t, "www.example.com.", dns.TypeA, nil)
	a, _ := ReadAnswer(say(t, up, 0, false, "www.example.com. 1 IN A 192.0.2.1", "www.example.com. 1 IN AAAA ::ffff:192.0.2.2", "www.example.com. 1 IN AAAA 2001:db8::1", "www.example.com. 1 IN NS ns."))
	var got []netip.Addr
	for rr := range a.Records {
		if addr, ok := rr.Addr(); ok {
			got = append(got, addr)
		}
	}
	if want := "[192.0.2.1 192.0.2.2 2001:db8::1]"; strings.TrimSpace(strings.Join(strings.Fields(sprint(got)), " ")) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func sprint(addrs []netip.Addr) string {
	var words []string
	for _, a := range addrs {
		words = append(words, a.String())
	}
	return "[" + strings.Join(words, " ") + "]"
}

func BenchmarkReply(b *testing.B) {
	req := ask(b, "www.example.com.", dns.TypeA, edns)
	a, _ := ReadAnswer(say(b, req, 0, false, said[1]...))
	out := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		q, _ := Parse(req)
		AppendOPT(a.Append(out, &q, Span{Age: rand.Uint32N(9)}), 0, &q, 0, &Explanation{})
	}
}

// An OPT record whose owner is not written as the root is none of ours, and stays
// as it is.
func TestOptionsOfOtherOwners(t *testing.T) {
	question := []byte{0, 1, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 1}
	option := []byte{0, 12, 0, 0}
	for owner, grows := range map[string]bool{"\x00": true, "\xc0\x0c": false, "\x01a\x00": false} {
		msg := append(append(bytes.Clone(question), owner...), 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0)
		if got := AppendOption(bytes.Clone(msg), 0, option); (len(got) > len(msg)) != grows || !grows && !bytes.Equal(got, msg) {
			t.Errorf("owner %q: %x became %x", owner, msg, got)
		}
	}
}

func TestAppendLower(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 300 {
		name := make([]byte, n)
		for i := range name {
			name[i] = byte(r.Uint32())
		}
		want := []byte("x")
		for _, c := range name {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			want = append(want, c)
		}
		if got := AppendLower([]byte("x"), name); !bytes.Equal(got, want) {
			t.Errorf("of % x: got % x, want % x", name, got, want)
		}
	}
}
