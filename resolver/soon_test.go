package resolver

import (
	"bytes"
	"context"
	"reflect"
	"testing"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/resolver/cache"
	"github.com/starferry/starferry/resolver/listen"
	"github.com/starferry/starferry/resolver/wire"
)

// newSoonFleet has a gateway that decides at once what takes no asking, and remembers
// no answers.
func newSoonFleet(t testing.TB) *quickFleet {
	f := newQuickFleet(t)
	f.Quick = NewQuick(0)
	s := &cache.Source{Cache: cache.New(1 << 20), TrustAD: true, Ask: asks(f.up.resolve)}
	f.Upstream = func(ctx context.Context, _ string, q cache.Question) (cache.Reply, error) { return s.Resolve(ctx, q) }
	f.Kept = func(_ string, q cache.Question) (cache.Reply, bool, error) { return s.Kept(q) }
	f.Keeps = s.Keeps
	return f
}

func (f *quickFleet) soon(t *testing.T, who string, req []byte) (resp []byte, ok bool) {
	q, plain := wire.Parse(req)
	if !plain {
		t.Fatal("not plain")
	}
	q.Size = 1232
	return f.Soon(&listen.Client{Addr: people[who].from, Listener: "test", Transport: listen.UDP, At: f.time}, &q, nil)
}

// What is decided at once is what is decided by those who may wait, and is recorded
// like it; and what it takes no asking for is decided at once.
func TestSoonEqualsHandle(t *testing.T) {
	f := newSoonFleet(t)
	f.Keeps = func(cache.Question) bool { return true }
	soon, late := map[Action]int{}, map[Action]int{}
	for who, p := range people {
		for _, rr := range append(newZone(t, testZone).records, blockedNames(t)...) {
			for _, qtype := range []uint16{dns.TypeA, dns.TypeHTTPS, dns.TypeTXT, dns.TypeANY} {
				name := rr.Header().Name
				m, req := packQuestion(t, name, qtype, func(m *dns.Msg) { m.SetEdns0(4096, true) })
				c := &listen.Client{Addr: p.from, Listener: "test", Transport: listen.UDP, At: f.time}
				f.Handle(t.Context(), c, req) // upstream is asked
				want := f.Handle(t.Context(), c, req)
				wanted := f.records[len(f.records)-1]
				f.records = nil
				f.up.took()
				got, ok := f.soon(t, who, req)
				if asked := f.up.took(); asked != "" {
					t.Errorf("%s asks %s %s: somebody had to be asked: %s", who, name, dns.TypeToString[qtype], asked)
				}
				if !ok {
					if late[wanted.Action]++; len(f.records) > 0 {
						t.Errorf("%s asks %s %s: recorded, though it is not answered", who, name, dns.TypeToString[qtype])
					}
					continue
				}
				soon[wanted.Action]++
				if render(t, m, got) != render(t, m, want) || headOf(got) != headOf(want) {
					t.Errorf("%s asks %s %s:\n got %s\nwant %s", who, name, dns.TypeToString[qtype], render(t, m, got), render(t, m, want))
				}
				if len(f.records) != 1 {
					t.Fatalf("%d records", len(f.records))
				}
				r := f.records[0]
				r.Took, wanted.Took, r.Query, r.Reply, wanted.Query, wanted.Reply = 0, 0, nil, nil, nil, nil
				if !reflect.DeepEqual(r, wanted) {
					t.Errorf("%s asks %s %s: recorded\n got %+v\nwant %+v", who, name, dns.TypeToString[qtype], r, wanted)
				}
			}
		}
	}
	for _, a := range []Action{Allowed, Blocked, Overridden, Denied} {
		if soon[a] == 0 || late[a] > 0 {
			t.Errorf("%s: %d at once, %d not", a, soon[a], late[a])
		}
	}
	if soon[Steered] > 0 || late[Steered] == 0 {
		t.Errorf("steered: %d at once, though the chain has to be asked", soon[Steered])
	}
}

// blockedNames are names that the policy says something of and the zone does not have.
func blockedNames(t *testing.T) (rrs []dns.RR) {
	for _, name := range []string{"www.phishing.test.", "zero.test.", "closed.test.", "intranet.corp.test.", "alias.corp.test."} {
		rr, err := dns.NewRR(name + " A 192.0.2.1")
		if err != nil {
			t.Fatal(err)
		}
		rrs = append(rrs, rr)
	}
	return rrs
}

// What is not known yet is left to those who may wait, and leaves no trace.
func TestSoonAsksNobody(t *testing.T) {
	f := newSoonFleet(t)
	for _, keeps := range []bool{true, false} {
		f.Keeps = func(cache.Question) bool { return keeps }
		for name, want := range map[string]bool{
			"www.allowed.test.": false, "www.listed-china.test.": false, "alias.corp.test.": false, "www.phishing.test.": keeps,
		} {
			f.records = nil
			_, req := packQuestion(t, name, dns.TypeA, nil)
			_, ok := f.soon(t, "alice", req)
			if asked := f.up.took(); ok != want || (len(f.records) > 0) != want || asked != "" {
				t.Errorf("%s, likely %t: answered %t, %d records, asked %q", name, keeps, ok, len(f.records), asked)
			}
		}
	}
}

// A record that is written on the spot is left to those who may wait.
func TestSoonDoesNotWrite(t *testing.T) {
	f := newSoonFleet(t)
	f.Keeps = func(cache.Question) bool { return true }
	_, allowed := packQuestion(t, "www.allowed.test.", dns.TypeA, nil)
	_, blocked := packQuestion(t, "www.phishing.test.", dns.TypeA, nil)
	f.Handle(t.Context(), &listen.Client{Addr: people["alice"].from, Listener: "test", Transport: listen.UDP, At: f.time}, allowed)
	f.Repeat, f.records = nil, nil
	f.Unrecorded = func(as Action) bool { return as == Allowed }
	if _, ok := f.soon(t, "alice", allowed); !ok {
		t.Error("what nobody wants to know is not answered")
	}
	if _, ok := f.soon(t, "alice", blocked); ok || len(f.records) > 0 {
		t.Errorf("answered %t, with %d records", ok, len(f.records))
	}
}

// An answer that does not fit is left to those who cut it.
func TestSoonDoesNotCut(t *testing.T) {
	f := newSoonFleet(t)
	_, req := packQuestion(t, "www.allowed.test.", dns.TypeA, nil)
	c := &listen.Client{Addr: people["alice"].from, Listener: "test", Transport: listen.UDP, At: f.time}
	whole := f.Handle(t.Context(), c, req)
	for _, tt := range []struct {
		size int
		want bool
	}{{len(whole), true}, {len(whole) - 1, false}} {
		f.records = nil
		q, _ := wire.Parse(req)
		q.Size = tt.size
		if _, ok := f.Soon(c, &q, nil); ok != tt.want || (len(f.records) > 0) != tt.want {
			t.Errorf("%d bytes for %d: answered %t, %d records", tt.size, len(whole), ok, len(f.records))
		}
	}
}

// FuzzSoon holds what is decided at once to what is decided by those who may wait, byte
// by byte, for any plain question.
func FuzzSoon(f *testing.F) {
	for _, rr := range newZone(f, testZone).records {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeHTTPS} {
			_, req := packQuestion(f, rr.Header().Name, qtype, func(m *dns.Msg) { m.SetEdns0(1232, qtype == dns.TypeA) })
			f.Add(req)
		}
	}
	fl := newSoonFleet(f)
	fl.Record, fl.Keeps = nil, func(cache.Question) bool { return true }
	f.Fuzz(func(t *testing.T, req []byte) {
		q, plain := wire.Parse(req)
		if !plain {
			return
		}
		q.Size = dns.MaxMsgSize
		c := &listen.Client{Addr: people["alice"].from, Listener: "fuzz", Transport: listen.UDP, At: fl.time}
		fl.Handle(t.Context(), c, req) // upstream is asked
		before := fl.Handle(t.Context(), c, req)
		got, ok := fl.Soon(c, &q, nil)
		if after := fl.Handle(t.Context(), c, req); ok && !bytes.Equal(got, before) && !bytes.Equal(got, after) { // a second may have passed
			t.Errorf("%x: got\n%x\nwant\n%x", req, got, after)
		}
	})
}

// To decide at once shall not cost much more than to find an answer given before.
func BenchmarkSoon(b *testing.B) {
	f := newSoonFleet(b)
	f.Record, f.Repeat = nil, nil
	c := &listen.Client{Addr: people["alice"].from, Listener: "test", Transport: listen.UDP, At: start}
	_, req := packQuestion(b, "www.allowed.test.", dns.TypeA, nil)
	f.Handle(b.Context(), c, req)
	out := make([]byte, 0, 2048)
	b.ReportAllocs()
	for b.Loop() {
		q, _ := wire.Parse(req)
		q.Size = 1232
		if _, ok := f.Soon(c, &q, out); !ok {
			b.Fatal("not answered")
		}
	}
}
