package policy_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/starferry/starferry/policy"
)

// decided is all of a decision that the scope stands for.
func decided(d policy.Decision) policy.Decision {
	if d.Denied != "" {
		d.Denied = "denied"
	}
	d.Until = time.Time{}
	return d
}

// within returns a moment from start on that is before until.
func within(r *rand.Rand, start, until time.Time) time.Time {
	if until.IsZero() {
		return start.Add(time.Duration(r.Int64N(int64(1000 * time.Hour))))
	}
	return start.Add(time.Duration(r.Int64N(int64(until.Sub(start)))))
}

// Askers with equal scopes are decided alike until the scopes change, by the
// policy and by what it is for the scope.
func checkScope(t *testing.T, seed uint64) (equal int) {
	r := rand.New(rand.NewPCG(seed, 1))
	src := randomPolicy(r).yaml()
	p := parse(t, src)
	start := pick(r, modelMoments).Add(time.Duration(r.Int64N(int64(4*time.Hour))) - 2*time.Hour)
	for range 30 {
		a, b := queryAt(r, start), queryAt(r, start)
		keyA, untilA := p.Scope([]byte("x"), &a.Asker, start)
		keyB, untilB := p.Scope([]byte("x"), &b.Asker, start)
		if !bytes.Equal(keyA, keyB) {
			continue
		}
		equal++
		scoped := p.For(&a.Asker, start)
		for range 10 {
			qa := queryAt(r, start)
			qb := *qa
			qa.Asker, qa.Now = a.Asker, within(r, start, untilA)
			qb.Asker, qb.Now = b.Asker, within(r, start, untilB)
			da, db := p.Decide(qa), p.Decide(&qb)
			if !reflect.DeepEqual(decided(da), decided(db)) {
				t.Fatalf("seed %d: scope %x, but\n%v at %v for %+v\n%v at %v for %+v\n%s", seed, keyA, &da, qa.Now, qa, &db, qb.Now, qb, src)
			}
			if ds := scoped.Decide(qa); !reflect.DeepEqual(decided(da), decided(ds)) || da.Denied != ds.Denied {
				t.Fatalf("seed %d: for the scope %v, by the policy %v for %+v\n%s", seed, &ds, &da, qa, src)
			} else if u := ds.Until; !untilA.IsZero() && (u.IsZero() || u.After(untilA)) {
				t.Fatalf("seed %d: the scope changes at %v, the decision %v", seed, untilA, u)
			}
		}
	}
	return equal
}

func TestScopeStandsForTheAsker(t *testing.T) {
	policies, equal := uint64(2000), 0
	if testing.Short() {
		policies = 400
	}
	for seed := range policies {
		equal += checkScope(t, seed)
	}
	if equal < int(policies) {
		t.Errorf("only %d equal scopes", equal)
	}
}

func scope(p *policy.Policy, words string) string {
	a := who(words)
	key, _ := p.Scope(nil, &a, noon)
	return string(key)
}

func TestScopesDoNotDifferNeedlessly(t *testing.T) {
	p := parse(t, company)
	for _, same := range [][2]string{
		{"alice staff passing", "bob staff passing"},
		{"alice staff passing", "bob staff other-group passing"},
		{"alice staff failing", "bob staff"}, // neither meets the demand, and no condition looks at posture
		{"alice", "bob other"},
		{"alice staff stale", "alice staff failing"},
	} {
		if a, b := scope(p, same[0]), scope(p, same[1]); a != b {
			t.Errorf("%s: %x, %s: %x", same[0], a, same[1], b)
		}
	}
	for _, other := range [][2]string{
		{"alice staff passing", "alice staff failing"},
		{"alice guests", "alice"},
		{"alice guests", "alice guests office"},
		{"alice guests", "alice guests sourceless"},
	} {
		if a, b := scope(p, other[0]), scope(p, other[1]); a == b {
			t.Errorf("%s and %s: %x", other[0], other[1], a)
		}
	}
	// What nobody looks at, and what is the same in other words, adds nothing.
	for src, bits := range map[string]int{
		`policies: [{name: a, if: {name: x.y, type: A}, then: block}]`:                                                                    0,
		`policies: [{name: a, then: allow}, {name: b, if: {group: staff}, then: allow}]`:                                                  0,
		`policies: [{name: a, if: {groups: [b, a], name: x}, then: block}, {name: b, if: {groups: [a, b]}, then: block}]`:                 2,
		`policies: [{name: a, if: {any: [group: a, group: b, group: c, group: d, group: e]}, then: block}]`:                               2,
		`policies: [{name: a, require: {groups: [a, b]}, if: {name: x}, then: block}, {name: b, require: {groups: [b, a]}, then: allow}]`: 1,
		five("network: [10.0.0.0/8, 10.%d.0.0/16]"):                                                                                       10,
		five("groups: [a, b, c, d, e, e%d]"):                                                                                              10,
		five("all: [group: a, {name: x%d}, group: b]"):                                                                                    4,
		five("group: a, not: {group: b}, name: x%d"):                                                                                      4,
	} {
		key, _ := parse(t, src+"\n").Scope(nil, &policy.Asker{}, noon)
		if want := (bits + 7) / 8; len(key) != want {
			t.Errorf("%s: %d bytes, want %d", src, len(key), want)
		}
	}
}

// Lists of clients are told apart, and so are times that are written alike.
func TestScopesTellListsAndTimesApart(t *testing.T) {
	p := parse(t, `
lists:
  clients: {file: clients.rpz, format: rpz, select: [client-ip, drop]}
  guests:  {file: clients.rpz, format: rpz, select: [client-ip, nxdomain]}
policies:
  - {name: infected, if: {network: clients}, then: {block: drop}}
  - {name: guests, if: {network: guests}, then: {block: nxdomain}}
  - {name: more, if: {network: [guests, 192.168.0.0/16]}, then: {block: nxdomain}}
  - {name: new, if: {name: x.test}, not_before: "2026-05-04T12:00:10Z", then: allow}
  - {name: newer, if: {name: y.test}, not_before: "2026-05-04T12:00:30Z", then: allow}
`)
	scopes := map[string]string{}
	for source, want := range map[string]string{
		"198.51.100.7": "infected", "198.51.100.66": "default", "10.1.2.3": "guests", "192.168.0.1": "more", "192.0.2.1": "default", "": "default",
	} {
		a := policy.Asker{}
		if source != "" {
			a.Source = netip.MustParseAddr(source)
		}
		key, _ := p.Scope(nil, &a, noon)
		if was, ok := scopes[string(key)]; ok && was != want {
			t.Errorf("%s and %s have one scope", was, want)
		}
		scopes[string(key)] = want
		d := p.Decide(&policy.Query{Name: "z.test", Type: 1, Asker: a, Now: noon})
		if got := decider(&d); got != want {
			t.Errorf("%q: %s, want %s", source, got, want)
		}
	}
	var keys []string
	for _, later := range []time.Duration{0, 20 * time.Second, 40 * time.Second} {
		key, until := p.Scope(nil, &policy.Asker{}, noon.Add(later))
		keys = append(keys, string(key))
		if want := map[time.Duration]time.Time{0: noon.Add(10 * time.Second), 20 * time.Second: noon.Add(30 * time.Second)}[later]; !until.Equal(want) {
			t.Errorf("after %v the scope is good until %v, want %v", later, until, want)
		}
	}
	if keys[0] == keys[1] || keys[1] == keys[2] {
		t.Errorf("scopes of different times are equal: %x", keys)
	}
}

func decider(d *policy.Decision) string {
	if d.Rule == nil {
		return "default"
	}
	return d.Rule.Name
}

// five is a file of five policies that differ in a number.
func five(cond string) string {
	s := "policies:"
	for i := range 5 {
		s += fmt.Sprintf("\n  - {name: p%d, if: {%s}, then: block}", i, fmt.Sprintf(cond, i))
	}
	return s
}

func TestScopeUntil(t *testing.T) {
	p := parse(t, company)
	for words, want := range map[string]time.Time{
		"alice staff passing": noon.Add(10 * time.Minute),
		"alice staff failing": {},
		"alice passing":       {}, // no demand of hers is met anyway
	} {
		a := who(words)
		if _, until := p.Scope(nil, &a, noon); !until.Equal(want) {
			t.Errorf("%s: until %v, want %v", words, until, want)
		}
	}
}

func TestScopeAllocatesNothing(t *testing.T) {
	p := parse(t, fifty())
	key := make([]byte, 0, 64)
	for _, words := range []string{"alice staff passing", "bob guests failing", "nobody"} {
		a := who(words)
		if n := testing.AllocsPerRun(100, func() { key, _ = p.Scope(key[:0], &a, noon) }); n > 0 {
			t.Errorf("%s: %v allocations", words, n)
		}
	}
	if len(key) != 7 { // 12 groups, identity, 12 networks, and the demands of one policy
		t.Errorf("%d bytes", len(key))
	}
}

func BenchmarkScope(b *testing.B) {
	p := parse(b, fifty())
	a := who("alice staff passing")
	key := make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		key, _ = p.Scope(key[:0], &a, noon)
	}
}

func TestECSOf(t *testing.T) {
	fixed := policy.ECS{Subnet: netip.MustParsePrefix("203.0.113.0/24")}
	client := policy.ECS{Client: true}
	for _, tt := range []struct {
		ecs          policy.ECS
		client, want string
	}{
		{policy.ECS{}, "8.8.8.8", ""},
		{fixed, "10.0.0.1", "203.0.113.0/24"},
		{client, "8.8.4.77", "8.8.4.0/24"},
		{client, "::ffff:8.8.4.77", "8.8.4.0/24"},
		{client, "2606:4700:1:2ff:3::9", "2606:4700:1:200::/56"},
		{client, "10.1.2.3", ""},
		{client, "100.72.1.10", ""},
		{client, "fd00::1", ""},
		{client, "fe80::1%eth0", ""},
		{client, "127.0.0.1", ""},
	} {
		got := tt.ecs.Of(netip.MustParseAddr(tt.client))
		if want := tt.want; got.IsValid() != (want != "") || got.IsValid() && got.String() != want {
			t.Errorf("%+v of %s: %v, want %s", tt.ecs, tt.client, got, want)
		}
	}
	if got := client.Of(netip.Addr{}); got.IsValid() {
		t.Errorf("of nobody: %v", got)
	}
}

func TestLogging(t *testing.T) {
	for _, tt := range []struct {
		log     policy.Logging
		blocked bool
		want    int // of ten draws
	}{
		{policy.Logging{}, false, 10},
		{policy.Logging{Kind: policy.LogBlocks}, false, 0},
		{policy.Logging{Kind: policy.LogBlocks}, true, 10},
		{policy.Logging{Kind: policy.LogNone}, true, 0},
		{policy.Logging{Kind: policy.LogSample, N: 5}, true, 2},
		{policy.Logging{Kind: policy.LogSample}, false, 10},
	} {
		got := 0
		for draw := range uint64(10) {
			if tt.log.Wants(tt.blocked, draw) {
				got++
			}
		}
		if got != tt.want {
			t.Errorf("%+v: %d of ten, want %d", tt.log, got, tt.want)
		}
	}
	if d := (policy.Decision{}); d.Log() != (policy.Logging{}) {
		t.Error("what no policy decides is logged")
	}
}
