package resolver

import (
	"io"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver/listen"
)

// What a response policy zone says reaches the asker: its records, and that the
// answer is to be had over TCP.
func TestZonePolicies(t *testing.T) {
	const text = `$TTL 90
www.allowed.test CNAME rpz-tcp-only.
data.test A 192.0.2.77
data.test MX 10 mail.example.
data.test SRV 1 2 53 .
data.test TXT "two" " words"
*.garden.test CNAME www.allowed.test.
now.test 0 A 192.0.2.78
`
	p, err := policy.Parse("policy.yaml", []byte(`lists: {zone: {file: zone.rpz, format: rpz}, tcp: {file: zone.rpz, format: rpz, select: tcp-only}}
policies:
  - {name: over-tcp, if: {name: {list: tcp}}, then: {block: truncate}}
  - {name: data, then: {override: {list: zone}}}
  - {name: rest, then: allow}
`), func(string) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil })
	if err != nil {
		t.Fatal(err)
	}
	f := newFleet(t)
	f.Policy = func() *policy.Policy { return p }
	for _, tt := range []struct{ asks, want string }{
		{"data.test", "NOERROR 90 A 192.0.2.77; EDE 4 policy data"},
		{"data.test MX", "NOERROR 90 MX 10 mail.example.; EDE 4 policy data"},
		{"data.test SRV", "NOERROR 90 SRV 1 2 53 .; EDE 4 policy data"},
		{"data.test TXT", `NOERROR 90 TXT "two words"; EDE 4 policy data`},
		{"now.test", "NOERROR 0 A 192.0.2.78; EDE 4 policy data"},
		{"data.test AAAA", "NOERROR SOA 10; EDE 4 policy data"},
		{"x.garden.test", "NOERROR 90 CNAME www.allowed.test., www.allowed.test. 300 A 192.0.2.10; EDE 4 policy data"},
	} {
		if got := f.dig(t, "alice", tt.asks); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.asks, got, tt.want)
		}
	}
	for transport, answers := range map[string]int{listen.UDP: 0, listen.TCP: 1} {
		for range 2 { // the second one might come from a cache
			q := new(dns.Msg)
			q.SetQuestion("www.allowed.test.", dns.TypeA)
			q.SetEdns0(1232, false)
			req, err := q.Pack()
			if err != nil {
				t.Fatal(err)
			}
			var r dns.Msg
			err = r.Unpack(f.Handle(t.Context(), &listen.Client{Addr: people["alice"].from, Listener: "test", Transport: transport}, req))
			if err != nil || r.Rcode != dns.RcodeSuccess || len(r.Answer) != answers || r.Truncated != (answers == 0) {
				t.Errorf("over %v: %v, %v", transport, &r, err)
			}
		}
	}
}
