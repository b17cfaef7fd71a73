package cache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// answer makes an answer to a question for name's addresses from records in
// presentation form; those behind "--" go into the authority section.
func answer(t testing.TB, rcode int, records ...string) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion("www.example.com.", dns.TypeA)
	m.Response, m.Rcode = true, rcode
	section := &m.Answer
	for _, r := range records {
		if r == "--" {
			section = &m.Ns
			continue
		}
		rr, err := dns.NewRR(r)
		if err != nil {
			t.Fatal(err)
		}
		*section = append(*section, rr)
	}
	return m
}

const soa = "example.com. %d IN SOA ns.example.com. host.example.com. 1 2 3 4 %d"

func TestLifetime(t *testing.T) {
	cut := answer(t, 0, "www.example.com. 60 IN A 192.0.2.1")
	cut.Truncated = true
	tests := []struct {
		what string
		m    *dns.Msg
		want time.Duration
	}{
		{"an address", answer(t, 0, "www.example.com. 60 IN A 192.0.2.1"), time.Minute},
		{"the least of a chain counts", answer(t, 0, "www.example.com. 60 IN CNAME c.example.com.", "c.example.com. 20 IN A 192.0.2.1"), 20 * time.Second},
		{"a TTL of zero", answer(t, 0, "www.example.com. 0 IN A 192.0.2.1"), 0},
		{"a week", answer(t, 0, "www.example.com. 604800 IN A 192.0.2.1"), 24 * time.Hour},
		{"a TTL with its top bit set", answer(t, 0, "www.example.com. 4294967295 IN A 192.0.2.1"), 0},
		{"NXDOMAIN, by the SOA's minimum", answer(t, 3, "--", fmt.Sprintf(soa, 300, 30)), 30 * time.Second},
		{"NXDOMAIN, by the SOA's TTL", answer(t, 3, "--", fmt.Sprintf(soa, 30, 300)), 30 * time.Second},
		{"NXDOMAIN for a week", answer(t, 3, "--", fmt.Sprintf(soa, 604800, 604800)), 3 * time.Hour},
		{"NXDOMAIN without SOA", answer(t, 3), 0},
		{"NODATA", answer(t, 0, "--", fmt.Sprintf(soa, 300, 60)), time.Minute},
		{"NODATA without SOA", answer(t, 0), 0},
		{"a chain that ends in nothing", answer(t, 0, "www.example.com. 20 IN CNAME c.example.com.", "--", fmt.Sprintf(soa, 300, 60)), 20 * time.Second},
		{"a chain that ends in nothing, without SOA", answer(t, 0, "www.example.com. 20 IN CNAME c.example.com."), 0},
		{"SERVFAIL", answer(t, 2), 5 * time.Second},
		{"REFUSED", answer(t, 5), 0},
		{"a truncated answer", cut, 0},
	}
	for _, tt := range tests {
		if got := lifetime(tt.m); got != tt.want {
			t.Errorf("%s lives %v, want %v", tt.what, got, tt.want)
		}
	}
}

func TestCountdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(1 << 20)
		asked := 0
		resolve := c.Before("default", func(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
			asked++
			m := answer(t, 0, "www.example.com. 300 IN CNAME c.example.com.", "c.example.com. 60 IN A 192.0.2.1")
			m.SetEdns0(1232, false)
			return m, nil
		})
		start := time.Now()
		for _, step := range []struct {
			at         time.Duration
			ttl, asked int
		}{{0, 60, 1}, {time.Second, 59, 1}, {29500 * time.Millisecond, 30, 1}, {59 * time.Second, 1, 1}, {60 * time.Second, 60, 2}} {
			<-time.After(step.at - time.Since(start))
			q := new(dns.Msg).SetQuestion("WWW.example.com.", dns.TypeA)
			m, err := resolve(t.Context(), q)
			if err != nil || len(m.Answer) != 2 {
				t.Fatalf("at %v: %v, %v", step.at, m, err)
			}
			if got := int(m.Answer[1].Header().Ttl); got != step.ttl || asked != step.asked {
				t.Errorf("at %v: TTL %d after %d questions, want %d after %d", step.at, got, asked, step.ttl, step.asked)
			}
			m.Answer[1].Header().Ttl = 9999 // the answer is ours to spoil
		}
	})
}

func TestNegativeAnswersAreNotProlonged(t *testing.T) {
	c, now := New(1<<20), time.Unix(0, 0)
	m := answer(t, 3, "--", fmt.Sprintf(soa, 3600, 30))
	k := KeyOf("g", m)
	c.Store(k, m, now)
	got := c.Lookup(k, now.Add(20*time.Second))
	if got == nil || got.Ns[0].Header().Ttl != 10 {
		t.Errorf("got %v, want 10 seconds left", got)
	}
}

func TestNothingIsShared(t *testing.T) {
	m := answer(t, 0, "www.example.com. 60 IN A 192.0.2.1")
	do := m.Copy()
	do.SetEdns0(1232, true)
	cd := m.Copy()
	cd.CheckingDisabled = true
	aaaa := m.Copy()
	aaaa.Question[0].Qtype = dns.TypeAAAA
	ch := m.Copy()
	ch.Question[0].Qclass = dns.ClassCHAOS
	keys := []Key{KeyOf("a", m), KeyOf("b", m), KeyOf("a", do), KeyOf("a", cd), KeyOf("a", aaaa), KeyOf("a", ch)}
	now := time.Unix(0, 0)
	for i, stored := range keys {
		c := New(1 << 20)
		c.Store(stored, m, now)
		for j, k := range keys {
			if hit := c.Lookup(k, now) != nil; hit != (i == j) {
				t.Errorf("stored as %+v, looked up as %+v: %t", stored, k, hit)
			}
		}
	}
}

func TestErrorsAreNotKept(t *testing.T) {
	asked := 0
	resolve := New(1<<20).Before("g", func(context.Context, *dns.Msg) (*dns.Msg, error) { asked++; return nil, errors.New("down") })
	for range 2 {
		if _, err := resolve(t.Context(), new(dns.Msg).SetQuestion("a.", 1)); err == nil {
			t.Error("no error")
		}
	}
	if asked != 2 {
		t.Errorf("asked %d times, want 2", asked)
	}
}

// FuzzModel holds one shard against the plainest store of its kind: a list in
// the order of use.
func FuzzModel(f *testing.F) {
	f.Add(uint64(1), uint16(200))
	f.Fuzz(func(t *testing.T, seed uint64, steps uint16) {
		r := rand.New(rand.NewPCG(seed, 0))
		s := &shard{entries: map[Key]*entry{}, limit: 8 * 1024, free: 8 * 1024}
		s.ring.prev, s.ring.next = &s.ring, &s.ring
		const all = 8 * 1024
		var model []*entry // latest first
		now := time.Unix(0, 0)
		used := func() (n int) {
			for _, e := range model {
				n += e.size()
			}
			return n
		}
		remove := func(k Key) *entry {
			for i, e := range model {
				if e.key == k {
					model = append(model[:i:i], model[i+1:]...)
					return e
				}
			}
			return nil
		}
		for range steps {
			now = now.Add(time.Duration(r.IntN(3)) * time.Second)
			k := Key{Name: strings.Repeat("n", 1+r.IntN(40))}
			if r.IntN(2) == 0 {
				e := &entry{key: k, wire: make([]byte, r.IntN(2000)*(1+r.IntN(6))), stored: now, expiry: now.Add(time.Duration(r.IntN(20)) * time.Second)}
				s.put(e)
				remove(k)
				for e.size() <= all && used()+e.size() > all {
					model = model[:len(model)-1]
				}
				if e.size() <= all {
					model = append([]*entry{e}, model...)
				}
			} else {
				wire, _ := s.find(k, now)
				e := remove(k)
				live := e != nil && now.Before(e.expiry)
				if live {
					model = append([]*entry{e}, model...)
				}
				if (wire != nil) != live || live && len(wire) != len(e.wire) {
					t.Fatalf("found %d bytes of %v, want found=%t", len(wire), k, live)
				}
			}
			if len(model) != len(s.entries) || all-used() != s.free {
				t.Fatalf("%d entries and %d bytes free, want %d and %d", len(s.entries), s.free, len(model), all-used())
			}
		}
	})
}

func TestBytesAreBounded(t *testing.T) {
	c, now := New(100_000), time.Unix(0, 0)
	for i := range 10_000 {
		m := answer(t, 0, "www.example.com. 60 IN A 192.0.2.1")
		m.Question[0].Name = fmt.Sprintf("%d.example.com.", i)
		c.Store(KeyOf("g", m), m, now)
	}
	if n := c.Len(); n == 0 || n > 100_000/overhead {
		t.Errorf("%d entries", n)
	}
	c.Flush()
	if n := c.Len(); n != 0 {
		t.Errorf("%d entries after flushing", n)
	}
}

func BenchmarkLookup(b *testing.B) {
	c, now := New(1<<20), time.Unix(0, 0)
	m := answer(b, 0, "www.example.com. 60 IN A 192.0.2.1")
	k := KeyOf("g", m)
	c.Store(k, m, now)
	b.ReportAllocs()
	for b.Loop() {
		if c.Lookup(k, now) == nil {
			b.Fatal("missed")
		}
	}
}

func TestFindAllocatesNothing(t *testing.T) {
	c, now := New(1<<20), time.Unix(0, 0)
	m := answer(t, 0, "www.example.com. 60 IN A 192.0.2.1")
	k := KeyOf("g", m)
	c.Store(k, m, now)
	if n := testing.AllocsPerRun(100, func() { c.shard(k).find(k, now) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}
