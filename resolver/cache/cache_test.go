package cache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/resolver/upstream"
	"github.com/starferry/starferry/resolver/wire"
)

// answer makes an answer to a question for name's addresses from records in
// presentation form; those behind "--" go into the authority section.
func answer(t testing.TB, rcode int, records ...string) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion("www.example.com.", dns.TypeA)
	m.Response, m.Rcode, m.Compress = true, rcode, true
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

func question(t testing.TB, name string) Question {
	q, err := upstream.QuestionOf(new(dns.Msg).SetQuestion(name, dns.TypeA))
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// A server says what it is told to say, and counts.
type server struct {
	m     *dns.Msg
	err   error
	slow  time.Duration
	asked int
}

func (s *server) ask(ctx context.Context, _ Question) ([]byte, error) {
	s.asked++
	if s.slow > 0 {
		select {
		case <-time.After(s.slow):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if s.err != nil {
		return nil, s.err
	}
	return s.m.Pack()
}

func TestLifetime(t *testing.T) {
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
		{"REFUSED", answer(t, 5), 5 * time.Second},
	}
	for _, tt := range tests {
		s := &Source{Cache: New(1 << 20), Ask: (&server{m: tt.m}).ask}
		r, err := s.Resolve(t.Context(), question(t, "www.example.com."))
		if got := time.Duration(r.Life) * time.Second; err != nil || got != tt.want {
			t.Errorf("%s lives %v, want %v (%v)", tt.what, got, tt.want, err)
		}
	}
}

// What the resolvers say is authentic is so for those only who trust them, and as
// long as they say so.
func TestAuthentic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, trust := range []bool{false, true} {
			up := &server{m: answer(t, 0, "www.example.com. 60 IN A 192.0.2.1")}
			up.m.AuthenticatedData = true
			s := &Source{Cache: New(1 << 20), Ask: up.ask, Stale: time.Hour, TrustAD: trust}
			ask := func() bool {
				r, err := s.Resolve(t.Context(), question(t, "www.example.com."))
				if err != nil || r.AD != r.Msg().AuthenticatedData {
					t.Errorf("%v, or it depends on the form", err)
				}
				return r.AD
			}
			if fresh, kept := ask(), ask(); fresh != trust || kept != trust {
				t.Errorf("trusted %t: AD is %t, and of what was kept %t", trust, fresh, kept)
			}
			up.err = errors.New("down")
			time.Sleep(time.Minute)
			if ask() {
				t.Error("somebody vouches for a stale answer")
			}
		}
	})
}

func TestBoundsOfLives(t *testing.T) {
	up := &server{m: answer(t, 0, "www.example.com. 5 IN CNAME c.example.com.", "c.example.com. 7200 IN A 192.0.2.1")}
	s := &Source{Cache: New(1 << 20), Ask: up.ask, Lives: wire.Lives{Least: 30, Most: 3600, Negative: 60, Fail: 5}}
	r, err := s.Resolve(t.Context(), question(t, "www.example.com."))
	if m := r.Msg(); err != nil || m.Answer[0].Header().Ttl != 30 || m.Answer[1].Header().Ttl != 3600 {
		t.Errorf("got %v, %v, want TTLs of 30 and 3600", m, err)
	}
}

func TestCountdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &server{m: answer(t, 0, "www.example.com. 300 IN CNAME c.example.com.", "c.example.com. 60 IN A 192.0.2.1")}
		up.m.SetEdns0(1232, false)
		s := &Source{Cache: New(1 << 20), Ask: up.ask}
		start := time.Now()
		for _, step := range []struct {
			at         time.Duration
			ttl, asked int
		}{{0, 60, 1}, {time.Second, 59, 1}, {29500 * time.Millisecond, 30, 1}, {59 * time.Second, 1, 1}, {60 * time.Second, 60, 2}} {
			<-time.After(step.at - time.Since(start))
			m, err := s.Message(t.Context(), new(dns.Msg).SetQuestion("WWW.example.com.", dns.TypeA))
			if err != nil || len(m.Answer) != 2 || m.IsEdns0() != nil {
				t.Fatalf("at %v: %v, %v", step.at, m, err)
			}
			if got := int(m.Answer[1].Header().Ttl); got != step.ttl || up.asked != step.asked {
				t.Errorf("at %v: TTL %d after %d questions, want %d after %d", step.at, got, up.asked, step.ttl, step.asked)
			}
			m.Answer[1].Header().Ttl = 9999 // the answer is ours to spoil
		}
	})
}

func TestNegativeAnswersAreNotProlonged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Source{Cache: New(1 << 20), Ask: (&server{m: answer(t, 3, "--", fmt.Sprintf(soa, 3600, 30))}).ask}
		for _, want := range []uint32{30, 10} {
			r, err := s.Resolve(t.Context(), question(t, "www.example.com."))
			if err != nil || r.Msg().Ns[0].Header().Ttl != want {
				t.Errorf("got %v, want %d seconds left", r.Msg(), want)
			}
			time.Sleep(20 * time.Second)
		}
	})
}

func TestNothingIsShared(t *testing.T) {
	q := question(t, "www.example.com.")
	with := func(change func(*Key)) Key {
		k := Key{"a", q}
		change(&k)
		return k
	}
	keys := []Key{
		{"a", q}, {"b", q},
		with(func(k *Key) { k.DO = true }), with(func(k *Key) { k.CD = true }),
		with(func(k *Key) { k.Type = dns.TypeAAAA }), with(func(k *Key) { k.Class = dns.ClassCHAOS }),
		with(func(k *Key) { k.ECS = netip.MustParsePrefix("203.0.113.0/24") }),
	}
	for i, stored := range keys {
		c := New(1 << 20)
		s := &Source{Cache: c, Group: stored.Group, Ask: (&server{m: answer(t, 0, "www.example.com. 60 IN A 192.0.2.1")}).ask}
		if _, err := s.Resolve(t.Context(), stored.Question); err != nil {
			t.Fatal(err)
		}
		for j, k := range keys {
			if hit := c.find(k, time.Now()) != nil; hit != (i == j) {
				t.Errorf("stored as %+v, looked up as %+v: %t", stored, k, hit)
			}
		}
	}
}

func TestErrorsAreNotKept(t *testing.T) {
	up := &server{err: errors.New("down")}
	s := &Source{Cache: New(1 << 20), Ask: up.ask}
	for range 2 {
		if _, err := s.Resolve(t.Context(), question(t, "a.")); err == nil {
			t.Error("no error")
		}
	}
	if up.asked != 2 {
		t.Errorf("asked %d times, want 2", up.asked)
	}
}

// RFC 8767: when upstream fails, what was good lately is better than nothing.
func TestServeStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good := answer(t, 0, "www.example.com. 60 IN A 192.0.2.1")
		up := &server{m: good}
		s := &Source{Cache: New(1 << 20), Ask: up.ask, Stale: time.Hour}
		ctx, cancel := context.WithCancel(t.Context())
		ask := func(what string, stale bool, ttl uint32, took time.Duration, asked int) {
			t.Helper()
			start := time.Now()
			r, err := s.Resolve(ctx, question(t, "www.example.com."))
			if took = time.Since(start) - took; took != 0 {
				t.Errorf("%s: it took %v more than it should", what, took)
			}
			synctest.Wait()
			if err != nil {
				t.Errorf("%s: %v", what, err)
				return
			}
			if got := r.Msg().Answer[0].Header().Ttl; r.Stale != stale || got != ttl || up.asked != asked {
				t.Errorf("%s: stale %t, TTL %d, asked %d times; want %t, %d, %d", what, r.Stale, got, up.asked, stale, ttl, asked)
			}
		}
		ask("fresh", false, 60, 0, 1)
		up.err = errors.New("down")
		time.Sleep(61 * time.Second)
		ask("upstream fails", true, 30, 0, 2)
		time.Sleep(29 * time.Second)
		ask("not asked again so soon", true, 30, 0, 2)
		time.Sleep(2 * time.Second)
		ask("asked again", true, 30, 0, 3)
		up.err, up.m = nil, answer(t, dns.RcodeServerFailure)
		time.Sleep(31 * time.Second)
		ask("upstream says SERVFAIL", true, 30, 0, 4)
		up.m, up.slow = good, 5*time.Second
		time.Sleep(31 * time.Second)
		ask("upstream takes its time", true, 30, patience, 5)
		time.Sleep(4 * time.Second)
		ask("it came behind", false, 59, 0, 5)
		up.err, up.slow = errors.New("down"), 0
		time.Sleep(time.Hour + 61*time.Second)
		if _, err := s.Resolve(ctx, question(t, "www.example.com.")); err == nil {
			t.Error("an answer that is too old was given")
		}
		cancel()
		s.Wait()
	})
}

func TestPrefetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &server{m: answer(t, 0, "www.example.com. 100 IN A 192.0.2.1")}
		s := &Source{Cache: New(1 << 20), Ask: up.ask, Prefetch: true}
		q := question(t, "www.example.com.")
		ask := func() Reply {
			r, err := s.Resolve(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			return r
		}
		for range 5 {
			ask()
		}
		time.Sleep(91 * time.Second)
		if r := ask(); r.Age != 91 || up.asked != 2 {
			t.Errorf("age %d, asked %d times, want the old answer and a second question", r.Age, up.asked)
		}
		if r := ask(); r.Age != 0 || up.asked != 2 {
			t.Errorf("age %d, asked %d times, want the new answer", r.Age, up.asked)
		}
		time.Sleep(95 * time.Second)
		if ask(); up.asked != 2 {
			t.Error("a name that nobody asks for was prefetched")
		}
		s.Renew(t.Context(), q)
		if synctest.Wait(); up.asked != 3 {
			t.Error("not renewed when told to")
		}
		s.Wait()
	})
}

// Kept gives what there is, and nothing that takes asking, or should be asked for.
func TestKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &server{m: answer(t, 0, "www.example.com. 100 IN A 192.0.2.1")}
		s := &Source{Cache: New(1 << 20), Ask: up.ask, Prefetch: true, Stale: time.Hour}
		q := question(t, "www.example.com.")
		check := func(when string, ok, stale bool, age uint32) {
			t.Helper()
			r, is, err := s.Kept(q)
			if is != ok || err != nil || is && (r.Stale != stale || r.Age != age) {
				t.Errorf("%s: %t, %v, %+v", when, is, err, r)
			}
		}
		resolve := func() {
			s.Resolve(t.Context(), q) //nolint:errcheck // it may fail here
			synctest.Wait()
		}
		if check("at first", false, false, 0); s.Keeps(q) {
			t.Error("something is kept at first")
		}
		resolve()
		if check("then", true, false, 0); !s.Keeps(q) {
			t.Error("nothing is kept")
		}
		check("again", true, false, 0)
		check("a third time", true, false, 0)
		time.Sleep(91 * time.Second)
		check("near its end, and popular", false, false, 0)
		time.Sleep(10 * time.Second)
		check("after its end", false, false, 0)
		if hits, misses := s.Count.Hits.Load(), s.Count.Misses.Load(); hits != 3 || misses != 1 || up.asked != 1 {
			t.Errorf("%d hits, %d misses, asked %d times", hits, misses, up.asked)
		}
		up.m, up.err = nil, upstream.ErrNoAnswer
		resolve()
		check("while upstream does not answer", true, true, 101)
		if n := s.Count.Stale.Load(); n != 2 {
			t.Errorf("%d stale", n)
		}
		q = question(t, "other.example.com.")
		resolve()
		if _, ok, err := s.Kept(q); !ok || !errors.As(err, new(*Failure)) {
			t.Errorf("a failure that holds: %t, %v", ok, err)
		}
		time.Sleep(time.Minute)
		check("a failure that does not", false, false, 0)
		s.Wait()
	})
}

// FuzzModel holds one shard against the plainest store of its kind: two lists in
// the order of use.
func FuzzModel(f *testing.F) {
	f.Add(uint64(1), uint16(400))
	f.Fuzz(func(t *testing.T, seed uint64, steps uint16) {
		const all = 8 * 1024
		r := rand.New(rand.NewPCG(seed, 0))
		s := new(shard)
		s.init(all)
		var once, again []*entry // latest first
		now := time.Unix(0, 0)
		sum := func(entries []*entry) (n int) {
			for _, e := range entries {
				n += e.size()
			}
			return n
		}
		take := func(from *[]*entry, k Key) *entry {
			for i, e := range *from {
				if e.key == k {
					*from = append((*from)[:i:i], (*from)[i+1:]...)
					return e
				}
			}
			return nil
		}
		promote := func(e *entry) {
			again = append([]*entry{e}, again...)
			for sum(again) > all/5*4 && len(again) > 1 {
				last := again[len(again)-1]
				again, once = again[:len(again)-1], append([]*entry{last}, once...)
			}
		}
		for range steps {
			now = now.Add(time.Duration(r.IntN(3)) * time.Second)
			n := 1 + r.IntN(40)
			k, hash := Key{Question: Question{Name: strings.Repeat("n", n)}}, uint64(n)
			if r.IntN(2) == 0 {
				e := &entry{key: k, hash: hash, answer: wire.Answer{Msg: make([]byte, r.IntN(2000)*(1+r.IntN(6)))}, stored: now, gone: now.Add(time.Duration(r.IntN(20)) * time.Second)}
				s.put(e)
				proven := take(&again, k) != nil
				take(&once, k)
				if e.size() <= all {
					for sum(once)+sum(again)+e.size() > all {
						if len(once) > 0 {
							once = once[:len(once)-1]
						} else {
							again = again[:len(again)-1]
						}
					}
					if proven {
						promote(e)
					} else {
						once = append([]*entry{e}, once...)
					}
				}
			} else {
				found := s.find(hash, k, now)
				e := take(&again, k)
				if e == nil {
					e = take(&once, k)
				}
				live := e != nil && now.Before(e.gone)
				if live {
					promote(e)
				}
				if (found != nil) != live || live && found != e {
					t.Fatalf("found %v for %v, want found=%t", found, k, live)
				}
			}
			if len(once)+len(again) != len(s.entries) || all-sum(once)-sum(again) != s.free || sum(again) != s.proven {
				t.Fatalf("%d entries, %d bytes free, %d proven; want %d, %d, %d", len(s.entries), s.free, s.proven, len(once)+len(again), all-sum(once)-sum(again), sum(again))
			}
		}
	})
}

// A flood of names that nobody asks for again leaves those in use alone.
func TestFloods(t *testing.T) {
	s := &Source{Cache: New(200_000), Ask: (&server{m: answer(t, 0, "www.example.com. 60 IN A 192.0.2.1")}).ask}
	used := func() (n int) {
		for i := range 50 {
			r, err := s.Resolve(t.Context(), question(t, fmt.Sprintf("used-%d.example.com.", i)))
			if err != nil {
				t.Fatal(err)
			}
			if r.Kept {
				n++
			}
		}
		return n
	}
	used()
	used()
	for i := range 10_000 {
		if _, err := s.Resolve(t.Context(), question(t, fmt.Sprintf("flood-%d.example.com.", i))); err != nil {
			t.Fatal(err)
		}
	}
	if n := used(); n < 50 {
		t.Errorf("only %d of 50 names in use are still there", n)
	}
}

func TestBytesAreBoundedAndFlushed(t *testing.T) {
	s := &Source{Cache: New(100_000), Ask: (&server{m: answer(t, 0, "www.example.com. 60 IN A 192.0.2.1")}).ask}
	for i := range 10_000 {
		if _, err := s.Resolve(t.Context(), question(t, fmt.Sprintf("%d.example.com.", i))); err != nil {
			t.Fatal(err)
		}
	}
	n, bytes := s.Cache.Size()
	if n == 0 || n > 100_000/overhead || bytes > 100_000 {
		t.Errorf("%d entries, %d bytes", n, bytes)
	}
	if got := s.Cache.Displaced.Load(); got != uint64(10_000-n) {
		t.Errorf("%d displaced of 10000, and %d are there", got, n)
	}
	if got := s.Cache.Flush(func(name string) bool { return name == question(t, "9999.example.com.").Name }); got != 1 {
		t.Errorf("%d flushed, want the one", got)
	}
	s.Cache.Flush(func(string) bool { return true })
	if n, bytes := s.Cache.Size(); n != 0 || bytes != 0 {
		t.Errorf("%d entries and %d bytes after flushing", n, bytes)
	}
}

func BenchmarkHit(b *testing.B) {
	s := &Source{Cache: New(1 << 20), Ask: (&server{m: answer(b, 0, "www.example.com. 60 IN A 192.0.2.1")}).ask}
	q := question(b, "www.example.com.")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Resolve(b.Context(), q); err != nil {
			b.Fatal(err)
		}
	}
}

func TestHitAllocatesNothing(t *testing.T) {
	s := &Source{Cache: New(1 << 20), Ask: (&server{m: answer(t, 0, "www.example.com. 60 IN A 192.0.2.1")}).ask}
	q := question(t, "www.example.com.")
	if n := testing.AllocsPerRun(100, func() { s.Resolve(t.Context(), q) }); n != 0 { //nolint:errcheck // it cannot fail
		t.Errorf("%v allocations, want none", n)
	}
}
