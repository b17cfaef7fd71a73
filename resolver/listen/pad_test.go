package listen

import (
	"testing"

	"github.com/miekg/dns"
)

func withOptions(name string, opts ...dns.EDNS0) *dns.Msg {
	m := query(name, 1232)
	m.IsEdns0().Option = opts
	return m
}

func TestPadding(t *testing.T) {
	padded := []dns.EDNS0{&dns.EDNS0_PADDING{Padding: make([]byte, 3)}}
	alive := []dns.EDNS0{&dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE}}
	both := append(alive[:1:1], padded...)
	answer := func(records, size int) []byte {
		r := withOptions("www.example.com.")
		r.Response = true
		for range records {
			r.Answer = append(r.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: "www.example.com.", Rrtype: dns.TypeTXT, Class: 1, Ttl: 5}, Txt: []string{"0123456789"}})
		}
		for size > 0 && r.Len() < size {
			n := min(size-r.Len()-4, 60000)
			r.IsEdns0().Option = append(r.IsEdns0().Option, &dns.EDNS0_LOCAL{Code: 65001, Data: make([]byte, max(n, 0))})
		}
		return packed(t, r)
	}
	bare := query("www.example.com.", 0)
	bare.Response = true
	tests := []struct {
		what    string
		terms   terms
		req     *dns.Msg
		resp    []byte
		size    int // that the transport takes
		want    int // 0: unchanged
		options int // that were added
	}{
		{"a padded question", terms{padding: true}, withOptions("a.", padded...), answer(3, 0), maxAnswer, padBlock, 1},
		{"a question that is not", terms{padding: true}, withOptions("a."), answer(3, 0), maxAnswer, 0, 0},
		{"one without EDNS", terms{padding: true}, query("a.", 0), answer(3, 0), maxAnswer, 0, 0},
		{"over plain TCP", terms{keepalive: 100}, withOptions("a.", padded...), answer(3, 0), maxAnswer, 0, 0},
		{"an answer without EDNS", terms{padding: true}, withOptions("a.", padded...), packed(t, bare), maxAnswer, 0, 0},
		{"one that fills the block but for the option", terms{padding: true}, withOptions("a.", padded...), answer(0, padBlock-4), maxAnswer, padBlock, 1},
		{"one that fills it so that the option does not fit", terms{padding: true}, withOptions("a.", padded...), answer(0, padBlock-3), maxAnswer, 2 * padBlock, 1},
		{"one that fills it", terms{padding: true}, withOptions("a.", padded...), answer(0, padBlock), maxAnswer, 2 * padBlock, 1},
		{"no room for the block", terms{padding: true}, withOptions("a.", padded...), answer(3, 0), 300, 300, 1},
		{"no room for the option", terms{padding: true}, withOptions("a.", padded...), answer(0, 298), 300, 0, 0},
		{"one of nearly the greatest length", terms{padding: true}, withOptions("a.", padded...), answer(0, 65530), maxAnswer, maxAnswer, 1},
		{"keepalive", terms{keepalive: 100}, withOptions("a.", alive...), answer(3, 0), maxAnswer, len(answer(3, 0)) + 6, 1},
		{"both", terms{keepalive: 100, padding: true}, withOptions("a.", both...), answer(3, 0), maxAnswer, padBlock, 2},
		{"no answer", terms{keepalive: 100, padding: true}, withOptions("a.", both...), nil, maxAnswer, 0, 0},
	}
	for _, tt := range tests {
		got := tt.terms.finish(packed(t, tt.req), append([]byte(nil), tt.resp...), tt.size)
		if tt.want == 0 {
			tt.want = len(tt.resp)
		}
		if len(got) != tt.want {
			t.Errorf("%s: %d bytes became %d, want %d", tt.what, len(tt.resp), len(got), tt.want)
		}
		if tt.options == 0 {
			continue
		}
		var before, after dns.Msg
		if err := after.Unpack(got); err != nil {
			t.Errorf("%s: %v", tt.what, err)
			continue
		}
		before.Unpack(tt.resp)
		old, opts := before.IsEdns0().Option, after.IsEdns0().Option
		if len(opts) != len(old)+tt.options {
			t.Errorf("%s: options %v became %v", tt.what, old, opts)
		}
		if p, ok := opts[len(opts)-1].(*dns.EDNS0_PADDING); ok {
			for _, b := range p.Padding {
				if b != 0 {
					t.Errorf("%s: padded with %d", tt.what, b)
				}
			}
		}
	}
}

func TestFreshness(t *testing.T) {
	rr := func(s string) dns.RR {
		r, err := dns.NewRR(s)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	soa := rr("example. 900 IN SOA ns. host. 1 2 3 4 300")
	tests := []struct {
		what       string
		rcode      int
		answer, ns []dns.RR
		want       uint32
	}{
		{"one record", 0, []dns.RR{rr("a. 77 IN A 192.0.2.1")}, nil, 77},
		{"the smallest of several", 0, []dns.RR{rr("a. 77 IN CNAME b."), rr("b. 5 IN A 192.0.2.1"), rr("b. 60 IN A 192.0.2.2")}, nil, 5},
		{"a referral beside it", 0, []dns.RR{rr("a. 77 IN A 192.0.2.1")}, []dns.RR{rr("a. 3 IN NS b.")}, 77},
		{"no such name", dns.RcodeNameError, nil, []dns.RR{soa}, 300},
		{"no such name behind a CNAME", dns.RcodeNameError, []dns.RR{rr("a. 7 IN CNAME b.")}, []dns.RR{soa}, 7},
		{"a SOA with a short TTL", 0, nil, []dns.RR{rr("example. 20 IN SOA ns. host. 1 2 3 4 300")}, 20},
		{"nothing", 0, nil, nil, 0},
		{"a failure", dns.RcodeServerFailure, []dns.RR{rr("a. 77 IN A 192.0.2.1")}, nil, 0},
		{"a TTL that is negative", 0, []dns.RR{rr("a. 4294967295 IN A 192.0.2.1")}, nil, 0},
	}
	for _, tt := range tests {
		m := query("a.", 1232)
		m.Response, m.Rcode, m.Answer, m.Ns = true, tt.rcode, tt.answer, tt.ns
		if got := freshness(packed(t, m)); got != tt.want {
			t.Errorf("%s: %d seconds, want %d", tt.what, got, tt.want)
		}
	}
}

// FuzzFinish holds that whatever is added is read by others, that nothing else
// changes, and that unreadable messages harm nobody.
func FuzzFinish(f *testing.F) {
	req := packed(f, withOptions("www.", &dns.EDNS0_PADDING{Padding: make([]byte, 9)}, &dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE}))
	resp := withOptions("www.")
	resp.Response = true
	f.Add(req, packed(f, resp))
	f.Add(req, req)
	f.Fuzz(func(t *testing.T, req, resp []byte) {
		if len(resp) >= headerLen {
			freshness(resp)
		}
		var before, after dns.Msg
		good := before.Unpack(resp) == nil
		got := terms{keepalive: 100, padding: true}.finish(req, append([]byte(nil), resp...), maxAnswer)
		if len(got) > max(maxAnswer, len(resp)) {
			t.Fatalf("%d bytes became %d", len(resp), len(got))
		}
		if !good || len(got) == len(resp) {
			return
		}
		if err := after.Unpack(got); err != nil {
			t.Fatalf("%v\n%v", err, &before)
		}
		old, opt := before.IsEdns0(), after.IsEdns0()
		if old == nil || opt == nil || len(opt.Option) <= len(old.Option) {
			t.Fatalf("%v became %v", &before, &after)
		}
		if after.Extra[len(after.Extra)-1] != dns.RR(opt) {
			return // two OPT records: of no server of ours
		}
		opt.Option = old.Option
		before.Extra[len(before.Extra)-1] = old
		if a, b := before.String(), after.String(); a != b {
			t.Fatalf("%s\nbecame\n%s", a, b)
		}
	})
}
