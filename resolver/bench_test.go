package resolver

import (
	"testing"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/resolver/listen"

	"github.com/starferry/starferry/policy"
)

// cachedAllow returns a gateway with a warm cache, and a question that it
// allows.
func cachedAllow(t testing.TB) (*fleet, []byte) {
	f := newFleet(t)
	f.Upstream = cached(f.up.resolve)
	f.Record = nil
	f.Identify = func(*listen.Client, func(uint16) []byte) (policy.Asker, bool) { return people["alice"].asker, true }
	m := new(dns.Msg).SetQuestion("www.allowed.test.", dns.TypeA)
	m.SetEdns0(1232, false)
	req, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	var r dns.Msg
	if err := r.Unpack(f.Handle(t.Context(), &listen.Client{Addr: people["alice"].from, Listener: "bench", Transport: listen.UDP}, req)); err != nil || len(r.Answer) != 1 {
		t.Fatalf("got %v, %v", &r, err)
	}
	return f, req
}
