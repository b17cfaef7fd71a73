package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver/packed"
	"github.com/starferry/starferry/resolver/wire"
)

// decisions returns what is measured of decisions.
func decisions(names int) (measured, error) {
	hit := repeated()
	first, err := listed(names)
	if err != nil {
		return measured{}, err
	}
	few, _, err := many(50)
	if err != nil {
		return measured{}, err
	}
	lots, cold, err := many(10_000)
	if err != nil {
		return measured{}, err
	}
	return measured{[]func(int){hit, first, few, lots, cold}, func(t []float64) {
		figure("decision_hit", t[0], "ns")
		figure("decision_hit_allocs", allocations(hit), "")
		figure("decision_first", t[1]/1000, "us")
		figure("policies_10000", t[3]/t[2], "x")
		figure("policies_10000_cold", t[4]/t[2], "x")
	}}, nil
}

// A note is as long as what the gateway notes of an answer.
type note [6]uint64

// repeated asks what was decided before, for 10,000 pairs of scope and name.
func repeated() func(i int) {
	now := time.Now() // as questions have it
	kept := packed.New[note](64 << 20)
	type pair struct {
		scope uint32
		q     wire.Question
	}
	var pairs []pair
	for i := range 10_000 {
		p := pair{uint32(1 + i%100), wire.Question{Name: wireName(fmt.Sprintf("www.host-%d.example", i/100)), Type: 1, Class: 1}}
		kept.Put(p.scope, &p.q, &packed.Entry[note]{Stored: now, Expiry: now.Add(time.Hour)})
		pairs = append(pairs, p)
	}
	// A few are pushed out where too many fall together.
	pairs = slices.DeleteFunc(pairs, func(p pair) bool { return kept.Lookup(p.scope, &p.q, now) == nil })
	rand.Shuffle(len(pairs), func(i, k int) { pairs[i], pairs[k] = pairs[k], pairs[i] })
	names := make([]byte, 0, 64*len(pairs)) // at hand, as those of questions that have just been read
	for i := range pairs {
		q := &pairs[i].q
		names = append(names, q.Name...)
		q.Name = names[len(names)-len(q.Name):]
	}
	return func(i int) {
		p := &pairs[i%len(pairs)]
		if kept.Lookup(p.scope, &p.q, now) == nil {
			panic("forgotten")
		}
	}
}

// wireName returns a name as messages have it (RFC 1035, section 3.1).
func wireName(name string) []byte {
	var out []byte
	for label := range strings.SplitSeq(name, ".") {
		out = append(append(out, byte(len(label))), label...)
	}
	return append(out, 0)
}

var asker = policy.Asker{
	Device: &device.Device{ID: "alice", Groups: []string{"staff"}},
	Kind:   device.ByWireGuard,
	Source: netip.MustParseAddr("192.0.2.7"),
}

// listed decides on names that were not seen before, by fifty policies and ten
// lists; every other one is on a list.
func listed(names int) (func(i int), error) {
	var src strings.Builder
	src.WriteString("lists:\n")
	for i := range 10 {
		fmt.Fprintf(&src, "  l%d: {file: l%d, format: plain}\n", i, i)
	}
	src.WriteString("default: allow\npolicies:\n")
	for i := range 10 {
		fmt.Fprintf(&src, "  - {name: list-%d, if: {name: {list: l%d}}, then: {block: nxdomain}}\n", i, i)
		for k := range 4 {
			fmt.Fprintf(&src, "  - {name: site-%d-%d, if: {name: {suffix: s%d-%d.example}, group: staff}, then: {block: nxdomain}}\n", i, k, i, k)
		}
	}
	p, err := policy.Parse("policy.yaml", []byte(src.String()), func(path string) (io.ReadCloser, error) {
		var text strings.Builder
		for i := range names / 10 {
			fmt.Fprintf(&text, "host%d.%s.example\n", i, path)
		}
		return io.NopCloser(strings.NewReader(text.String())), nil
	})
	if err != nil {
		return nil, err
	}
	now := time.Unix(1_700_000_000, 0)
	queries := make([]policy.Query, 1<<16)
	for i := range queries {
		n := rand.IntN(names/10) + i%2*names/10
		queries[i] = policy.Query{Name: fmt.Sprintf("www.host%d.l%d.example", n, rand.IntN(10)), Type: 1, Asker: asker, Now: now}
	}
	return decide(p, queries), nil
}

// many decides on names by so many policies, each of them about one name: on
// names of fifty of them, which tells the cost of finding a policy, and on names
// of all, which adds that most of them are in no cache of the processor.
func many(policies int) (warm, cold func(i int), err error) {
	var src strings.Builder
	src.WriteString("policies:\n")
	for i := range policies {
		fmt.Fprintf(&src, "  - {name: p%d, if: {name: {suffix: s%d.example}, group: staff}, then: {block: nxdomain}}\n", i, i)
	}
	p, err := policy.Parse("policy.yaml", []byte(src.String()), nil)
	if err != nil {
		return nil, nil, err
	}
	ask := func(about int) func(i int) {
		queries := make([]policy.Query, 1<<12)
		for i := range queries {
			queries[i] = policy.Query{Name: fmt.Sprintf("www.s%d.example", rand.IntN(about)*(policies/about)), Type: 1, Asker: asker, Now: time.Unix(1_700_000_000, 0)}
		}
		return decide(p, queries)
	}
	return ask(50), ask(policies), nil
}

// decide decides on the queries as a gateway does that knows the asker's scope.
func decide(p *policy.Policy, queries []policy.Query) func(i int) {
	scoped := p.For(&asker, queries[0].Now)
	return func(i int) { scoped.Decide(&queries[i%len(queries)]) }
}
