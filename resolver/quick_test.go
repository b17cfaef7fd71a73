package resolver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver/cache"
	"github.com/starferry/starferry/resolver/listen"
	"github.com/starferry/starferry/resolver/packed"
	"github.com/starferry/starferry/resolver/wire"
)

// A quickFleet has a gateway that answers again what it answered before, and
// things about it that change.
type quickFleet struct {
	*fleet
	time   time.Time
	moment uint64
	epoch  uint64
	rules  *policy.Policy
}

func newQuickFleet(t testing.TB) *quickFleet {
	f := &quickFleet{fleet: newFleet(t), time: start, epoch: 1, rules: parsePolicy(t, testPolicy)}
	f.Quick = NewQuick(1 << 20)
	f.Upstream = cached(f.up.resolve)
	f.Now = func() time.Time { return f.time }
	f.Moment = func() Moment { return Moment{Bindings: f.moment} }
	f.Epoch = func() uint64 { return f.epoch }
	f.Policy = func() *policy.Policy { return f.rules }
	f.Repeat = func(r *Record) { again := *r; f.records = append(f.records, &again) }
	return f
}

// fast asks for what was answered before.
func (f *quickFleet) fast(t testing.TB, who string, req []byte) (resp []byte, ok bool) {
	t.Helper()
	q, plain := wire.Parse(req)
	if !plain {
		t.Fatal("not plain")
	}
	q.Size = 1232
	c := &listen.Client{Addr: people[who].from, Listener: "test", Transport: listen.UDP, At: f.time}
	return f.Fast(c, &q, nil)
}

func packQuestion(t testing.TB, name string, qtype uint16, change func(*dns.Msg)) (*dns.Msg, []byte) {
	t.Helper()
	m := new(dns.Msg).SetQuestion(name, qtype)
	if change != nil {
		change(m)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return m, b
}

// What is given again is what was decided: for everybody, every kind of answer,
// with and without EDNS, DO, AD and CD, in any letter case.
func TestFastEqualsHandle(t *testing.T) {
	var names []string
	for _, rr := range newZone(t, testZone).records {
		names = append(names, rr.Header().Name)
	}
	names = append(names, "nothing.test.", "empty.test.", "zero.test.", "closed.test.", "page.test.", "quiet.test.",
		"intranet.corp.test.", "alias.corp.test.", "inward.corp.test.", "www.guest-china.test.", "www.hard-china.test.", "nothing.listed-china.test.")
	changes := map[string]func(*dns.Msg){
		"plain": nil, "EDNS": func(m *dns.Msg) { m.SetEdns0(4096, false) }, "DO": func(m *dns.Msg) { m.SetEdns0(4096, true) },
		"AD": func(m *dns.Msg) { m.AuthenticatedData = true }, "CD": func(m *dns.Msg) { m.CheckingDisabled = true },
		"no RD": func(m *dns.Msg) { m.RecursionDesired = false }, "case": func(m *dns.Msg) { m.Question[0].Name = strings.ToUpper(m.Question[0].Name) },
	}
	again, never := map[Action]int{}, map[Action]int{}
	f := newQuickFleet(t)
	for who, p := range people {
		for _, name := range names {
			for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS, dns.TypeTXT, dns.TypeANY, dns.TypePTR} {
				for what, change := range changes {
					m, req := packQuestion(t, name, qtype, change)
					c := &listen.Client{Addr: p.from, Listener: "test", Transport: listen.UDP}
					f.Handle(t.Context(), c, req) // upstream is asked
					want := f.Handle(t.Context(), c, req)
					action := f.records[len(f.records)-1].Action
					got, ok := f.fast(t, who, req)
					if !ok {
						never[action]++
						continue
					}
					again[action]++
					if render(t, m, got) != render(t, m, want) || headOf(got) != headOf(want) {
						t.Errorf("%s asks %s %s, %s:\n got %s\nwant %s", who, name, dns.TypeToString[qtype], what, render(t, m, got), render(t, m, want))
					}
				}
			}
		}
	}
	for _, a := range []Action{Allowed, Blocked, Overridden, Steered} {
		if again[a] == 0 || again[a] < never[a] {
			t.Errorf("%s: answered again %d times, not %d times", a, again[a], never[a])
		}
	}
	for _, a := range []Action{Denied, Failed, Refused, Local, NoWay, Down} {
		if again[a] > 0 {
			t.Errorf("%s was answered again", a)
		}
	}
}

func headOf(msg []byte) string { return fmt.Sprintf("%x", msg[:4]) }

// What changes is felt at the very next question.
func TestFastForgets(t *testing.T) {
	ask := func(name string) []byte {
		_, req := packQuestion(t, name, dns.TypeA, nil)
		return req
	}
	for _, tt := range []struct {
		what, name string
		change     func(f *quickFleet)
		gone       bool
	}{
		{"nothing", "www.allowed.test.", func(*quickFleet) {}, false},
		{"time", "www.allowed.test.", func(f *quickFleet) { f.time = f.time.Add(298 * time.Second) }, false},
		{"the end of its TTL", "www.allowed.test.", func(f *quickFleet) { f.time = f.time.Add(300 * time.Second) }, true},
		{"the policy", "www.allowed.test.", func(f *quickFleet) { f.rules = parsePolicy(t, testPolicy) }, true},
		{"devices, not this one's scope", "www.allowed.test.", func(f *quickFleet) { f.moment++ }, false},
		{"a link, of a steered name", "www.listed-china.test.", func(f *quickFleet) { f.epoch++ }, true},
		{"a link, of a name that is not steered", "www.allowed.test.", func(f *quickFleet) { f.epoch++ }, false},
		{"its own report", "www.listed-china.test.", func(f *quickFleet) {
			f.moment++
			f.Identify = func(*listen.Client, func(uint16) []byte) (policy.Asker, bool) {
				return people["alice, failing"].asker, true
			}
		}, true},
		{"the age of its report", "www.listed-china.test.", func(f *quickFleet) { f.time = f.time.Add(time.Hour) }, true},
		{"the way to send", "www.listed-china.test.", func(f *quickFleet) {
			f.moment++
			f.Identify = func(*listen.Client, func(uint16) []byte) (policy.Asker, bool) { return people["alice"].asker, false }
		}, true},
		{"flushed", "www.allowed.test.", func(f *quickFleet) {
			f.Quick.Flush(func(n string) bool { return n == "\x03www\x07allowed\x04test\x00" })
		}, true},
		{"flushed, another", "www.allowed.test.", func(f *quickFleet) { f.Quick.Flush(func(n string) bool { return n == "\x00" }) }, false},
	} {
		f := newQuickFleet(t)
		req := ask(tt.name)
		c := &listen.Client{Addr: people["alice"].from, Listener: "test", Transport: listen.UDP}
		f.Handle(t.Context(), c, req)
		f.Handle(t.Context(), c, req)
		if _, ok := f.fast(t, "alice", req); !ok {
			t.Fatalf("%s is not answered again", tt.name)
		}
		tt.change(f)
		if _, ok := f.fast(t, "alice", req); ok == tt.gone {
			t.Errorf("%s changes: answered again: %t", tt.what, ok)
		}
	}
}

func TestScopesAreShared(t *testing.T) {
	f := newQuickFleet(t)
	_, req := packQuestion(t, "www.allowed.test.", dns.TypeA, nil)
	for range 2 {
		f.Handle(t.Context(), &listen.Client{Addr: people["alice"].from, Listener: "test", Transport: listen.UDP}, req)
	}
	colleague := people["alice"]
	colleague.from = netip.MustParseAddrPort("100.72.1.99:1")
	f.Identify = func(c *listen.Client, _ func(uint16) []byte) (policy.Asker, bool) { return colleague.asker, true }
	q, _ := wire.Parse(req)
	q.Size = 512
	if _, ok := f.Fast(&listen.Client{Addr: colleague.from, Listener: "test", Transport: listen.UDP, At: start}, &q, nil); !ok {
		t.Error("a colleague who is no different is not answered at once")
	}
	if _, ok := f.fast(t, "bob", req); ok {
		t.Log("bob is no different to the policy") // both are allowed, but their demands differ
	}
}

func TestRepeatsAreRecordedAndCounted(t *testing.T) {
	f := newQuickFleet(t)
	_, req := packQuestion(t, "www.phishing.test.", dns.TypeA, nil)
	f.Handle(t.Context(), &listen.Client{Addr: people["alice"].from, Listener: "test", Transport: listen.UDP}, req)
	f.records = nil
	if _, ok := f.fast(t, "alice", req); !ok || len(f.records) != 1 {
		t.Fatalf("answered %t, %d records", ok, len(f.records))
	}
	r := f.records[0]
	if r.Asker != "alice-laptop" || r.Action != Blocked || r.Policy != "phishing" || r.From != FromPacked || r.EDE != 15 || f.Quick.Hits.Load() != 1 {
		t.Errorf("got %+v", r)
	}
}

// Streams do not say when a question came.
func TestRepeatsHaveTheirTime(t *testing.T) {
	f := newQuickFleet(t)
	_, req := packQuestion(t, "www.phishing.test.", dns.TypeA, nil)
	c := &listen.Client{Addr: people["alice"].from, Listener: "test", Transport: listen.TCP}
	f.Handle(t.Context(), c, req)
	f.records, f.time = nil, start.Add(time.Second)
	q, _ := wire.Parse(req)
	q.Size = 1232
	if _, ok := f.Fast(c, &q, nil); !ok || len(f.records) != 1 {
		t.Fatalf("answered %t, %d records", ok, len(f.records))
	}
	if got := f.records[0].Time; !got.Equal(f.time) {
		t.Errorf("answered again at %v, want %v", got, f.time)
	}
}

func TestFastAllocatesNothing(t *testing.T) {
	f := newQuickFleet(t)
	f.Repeat = nil
	_, req := packQuestion(t, "www.allowed.test.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, false) })
	c := &listen.Client{Addr: people["alice"].from, Listener: "test", Transport: listen.UDP, At: start}
	for range 2 {
		f.Handle(t.Context(), c, req)
	}
	out := make([]byte, 0, 2048)
	if n := testing.AllocsPerRun(1000, func() {
		q, _ := wire.Parse(req)
		q.Size = 1232
		if _, ok := f.Fast(c, &q, out); !ok {
			t.Error("not answered")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkFast(b *testing.B) {
	f := newQuickFleet(b)
	f.Repeat, f.Quick = nil, NewQuick(32<<20)
	c := &listen.Client{Addr: people["alice"].from, Listener: "test", Transport: listen.UDP, At: start}
	var reqs [][]byte
	for i := range 10_000 {
		_, req := packQuestion(b, fmt.Sprintf("n%d.phishing.test.", i), dns.TypeA, nil)
		f.Handle(b.Context(), c, req)
		reqs = append(reqs, req)
	}
	out := make([]byte, 0, 2048)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		q, _ := wire.Parse(reqs[rand.IntN(len(reqs))])
		q.Size = 1232
		f.Fast(c, &q, out)
	}
}

// Policies that were replaced are not kept by clients that ask no more.
func TestReplacedPoliciesAreLeft(t *testing.T) {
	f := newQuickFleet(t)
	_, req := packQuestion(t, "www.allowed.test.", dns.TypeA, nil)
	c := &listen.Client{Addr: people["alice"].from, Listener: "test", Transport: listen.UDP}
	f.Handle(t.Context(), c, req)
	slot := f.Quick.clients.slot(c)
	if f.Quick.Leave(f.rules); slot.Load() == nil {
		t.Error("who asked by the policy in force is not known any more")
	}
	if f.Quick.Leave(nil); slot.Load() != nil || f.Quick.scopes.policy != nil {
		t.Error("another policy is kept")
	}
}

// What was decided without facts that could not be had is not given again.
func TestDecisionsWithoutFactsAreNotKept(t *testing.T) {
	f := newQuickFleet(t)
	ask, down := f.Upstream, true
	f.Upstream = func(ctx context.Context, group string, q cache.Question) (cache.Reply, error) {
		if down && q.Type != dns.TypeTXT {
			return cache.Reply{}, errors.New("nobody answers")
		}
		return ask(ctx, group, q)
	}
	_, req := packQuestion(t, "www.answer-china.test.", dns.TypeTXT, nil)
	c := &listen.Client{Addr: people["alice"].from, Listener: "test", Transport: listen.UDP}
	for range 2 { // what is asked for once is not kept anyway
		f.Handle(t.Context(), c, req)
		if _, ok := f.fast(t, "alice", req); ok {
			t.Error("it is kept")
		}
	}
}

// While resolvers are silent a stale answer is given again, with the TTL and the
// error of one, but only for a moment: they may be back.
func TestStaleAnswersAreRepeatedForAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newQuickFleet(t)
		f.Now = time.Now
		silent := false
		src := &cache.Source{Cache: cache.New(1 << 20), Stale: time.Hour, Ask: asks(func(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
			if silent {
				return nil, errors.New("silence")
			}
			return f.up.resolve(ctx, m)
		})}
		f.Upstream = func(ctx context.Context, _ string, q cache.Question) (cache.Reply, error) { return src.Resolve(ctx, q) }
		m, req := packQuestion(t, "www.allowed.test.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, false) })
		c := &listen.Client{Addr: people["alice"].from, Listener: "test", Transport: listen.UDP}
		f.Handle(t.Context(), c, req)
		silent = true
		time.Sleep(301 * time.Second)
		want := f.Handle(t.Context(), c, req)
		for range 2 {
			f.time = time.Now()
			got, ok := f.fast(t, "alice", req)
			if !ok || render(t, m, got) != render(t, m, want) || !strings.Contains(render(t, m, got), "30") {
				t.Fatalf("got %t %s, want %s", ok, render(t, m, got), render(t, m, want))
			}
			time.Sleep(overdue - time.Millisecond)
		}
		time.Sleep(time.Millisecond)
		f.time = time.Now()
		if _, ok := f.fast(t, "alice", req); ok {
			t.Error("a stale answer is given again for longer")
		}
	})
}

// The heads of entries, which looking up reads, each lie in one line of the
// processor's cache if the size that Go takes for an entry is whole lines.
func TestEntriesAreWholeLines(t *testing.T) {
	const class = 320 // of runtime/sizeclasses.go; the one before is 288
	if n := unsafe.Sizeof(packed.Entry[memo]{}); n > class || n <= 288 {
		t.Errorf("%d bytes, for which Go takes no %d", n, class)
	}
}

// What is counted of answers is about what they take, to keep to the bytes that
// are given.
func TestQuickCountsWhatItTakes(t *testing.T) {
	const n = 5000
	live := func() int {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // what pools hold lives through one
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	chain := func(_ context.Context, m *dns.Msg) (*dns.Msg, error) {
		r, name := new(dns.Msg).SetReply(m), m.Question[0].Name
		for _, text := range []string{name + " CNAME cdn." + name, "cdn." + name + " A 192.0.2.1", "cdn." + name + " A 192.0.2.2"} {
			rr, err := dns.NewRR(text)
			if err != nil {
				return nil, err
			}
			r.Answer = append(r.Answer, rr)
		}
		return r, nil
	}
	for _, domain := range []string{"allowed.test.", "blocked.test."} {
		f := newQuickFleet(t)
		f.Quick, f.Record, f.Upstream = NewQuick(64<<20), nil, sourceOf(32<<10, chain)
		f.rules = parsePolicy(t, "default: allow\npolicies: [{name: phishing, if: {name: blocked.test}, then: {block: nxdomain, reason: Known phishing site}}]")
		c := &listen.Client{Addr: people["alice"].from, Listener: "test", Transport: listen.UDP}
		ask := func(i int) {
			_, req := packQuestion(t, fmt.Sprintf("www.host%d.%s", i, domain), dns.TypeA, nil)
			f.Handle(t.Context(), c, req) // upstream is asked
			f.Handle(t.Context(), c, req)
		}
		for i := range n { // what else grows is as large as it gets
			ask(-1 - i%100)
		}
		before, counted := live(), f.quickBytes()
		for i := range n {
			ask(i)
		}
		took, counted := live()-before, f.quickBytes()-counted
		if took < counted*3/4 || took > counted*5/4 {
			t.Errorf("%s: %d bytes an answer are counted, and it takes %d", domain, counted/n, took/n)
		}
	}
}

func (f *quickFleet) quickBytes() int {
	_, bytes := f.Quick.Size()
	return bytes
}
