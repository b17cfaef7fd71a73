package node

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/internal/lifecycle"
	"github.com/starferry/starferry/resolver/cache"
	"github.com/starferry/starferry/resolver/upstream"
	dnswire "github.com/starferry/starferry/resolver/wire"
)

// defaultGroup is asked for what no other group claims.
const defaultGroup = "default"

// An outside asks the resolvers that are not of the fleet, in groups, with a
// cache before them.
type outside struct {
	cache   *cache.Cache
	groups  map[string]*group
	domains map[string]*group // by the wire form of the domain that goes there
	renew   chan renewal
}

type group struct {
	*cache.Source
	resolvers *upstream.Group
}

// A renewal is a question that is to be asked again before its answer ends.
type renewal struct {
	source *cache.Source
	q      cache.Question
}

func newOutside(groups []configs.Upstream, set configs.Cache, near *Surroundings) (*outside, error) {
	if set.Size == 0 {
		set.Size = 32 << 20
	}
	o := &outside{cache: cache.New(int(set.Size)), groups: map[string]*group{}, domains: map[string]*group{}, renew: make(chan renewal, 256)}
	for _, u := range groups {
		g, err := newGroup(u, near)
		if err != nil {
			return nil, fmt.Errorf("upstream group %s: %w", u.Name, err)
		}
		in := &group{resolvers: g, Source: &cache.Source{
			Cache: o.cache, Group: u.Name, Ask: g.Exchange, Back: g.Back, Lives: lives(set), Stale: set.ServeStale, StaleTTL: set.StaleTTL, Prefetch: set.Prefetch, TrustAD: u.TrustAD,
		}}
		o.groups[u.Name] = in
		for _, d := range u.Domains {
			name, err := wireName(d)
			if err != nil {
				return nil, fmt.Errorf("upstream group %s: %w", u.Name, err)
			}
			o.domains[name] = in
		}
	}
	return o, nil
}

func newGroup(u configs.Upstream, near *Surroundings) (*upstream.Group, error) {
	return upstream.New(upstream.Config{
		Servers: u.Servers, Strategy: u.Strategy, Timeout: u.Timeout, Bootstrap: u.Bootstrap, TrustAD: u.TrustAD, Dial: near.simulated,
	})
}

// lives returns the bounds of lives; zero for those of the cache itself.
func lives(set configs.Cache) dnswire.Lives {
	if set.MaxTTL == 0 {
		return dnswire.Lives{}
	}
	return dnswire.Lives{
		Least: uint32(set.MinTTL / time.Second), Most: uint32(set.MaxTTL / time.Second),
		Negative: uint32(set.MaxNegative / time.Second), Fail: cache.DefaultLives.Fail,
	}
}

// wireName returns a name in wire form.
func wireName(name string) (string, error) {
	var b [256]byte
	n, err := dns.PackDomainName(dns.CanonicalName(name), b[:], 0, nil, false)
	if err != nil {
		return "", fmt.Errorf("%q is no name: %w", name, err)
	}
	return string(b[:n]), nil
}

// group returns the group that the policy wants, or else the one that has the
// narrowest domain that the name is under.
func (o *outside) group(name string, q cache.Question) (*group, error) {
	if name == "" {
		for rest := q.Name; len(o.domains) > 0; rest = rest[1+rest[0]:] {
			if g := o.domains[rest]; g != nil {
				return g, nil
			}
			if rest == "\x00" {
				break
			}
		}
		name = defaultGroup
	}
	g := o.groups[name]
	if g == nil {
		return nil, fmt.Errorf("there is no upstream group %q", name)
	}
	return g, nil
}

// ask answers a question from the cache or from outside.
func (o *outside) ask(ctx context.Context, name string, q cache.Question) (cache.Reply, error) {
	g, err := o.group(name, q)
	if err != nil {
		return cache.Reply{}, err
	}
	return g.Resolve(ctx, q)
}

// kept answers a question from the cache, if it can at once.
func (o *outside) kept(name string, q cache.Question) (r cache.Reply, ok bool, err error) {
	g, err := o.group(name, q)
	if err != nil {
		return r, true, err
	}
	return g.Kept(q)
}

// keeps reports whether the cache has an answer for a question.
func (o *outside) keeps(q cache.Question) bool {
	g, err := o.group("", q)
	return err == nil && g.Keeps(q)
}

// again has a question asked again, unless there is too much of that.
func (o *outside) again(name string, q cache.Question) {
	g, err := o.group(name, q)
	if err != nil {
		return
	}
	select {
	case o.renew <- renewal{g.Source, q}:
	default:
	}
}

// message answers a question in the library's form by the only group.
func (o *outside) message(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
	for _, g := range o.groups {
		return g.Message(ctx, m)
	}
	return nil, fmt.Errorf("no upstream resolver is set")
}

// tasks are what runs of the groups.
func (o *outside) tasks() []lifecycle.Task {
	tasks := []lifecycle.Task{{Name: "renewing answers", Run: o.run}}
	for name, g := range o.groups {
		tasks = append(tasks, lifecycle.Task{Name: "upstream " + name, Run: g.resolvers.Run})
	}
	return tasks
}

func (o *outside) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			for _, g := range o.groups {
				g.Wait()
			}
			return nil
		case r := <-o.renew:
			r.source.Renew(ctx, r.q)
		}
	}
}

// flush forgets answers: those of a name, with suffix of all under it too, or
// all if there is none.
func (o *outside) flush(name string, suffix bool) (int, error) {
	forget, err := under(name, suffix)
	if err != nil {
		return 0, err
	}
	return o.cache.Flush(forget), nil
}

// under returns what tells names that are to be forgotten: one name, or with
// suffix all under it too; all names if there is none.
func under(name string, suffix bool) (func(string) bool, error) {
	if name == "" {
		return func(string) bool { return true }, nil
	}
	want, err := wireName(name)
	if err != nil {
		return nil, err
	}
	if !suffix {
		return func(n string) bool { return n == want }, nil
	}
	return func(n string) bool {
		for strings.HasSuffix(n, want) {
			if len(n) == len(want) {
				return true
			}
			n = n[1+n[0]:]
		}
		return false
	}, nil
}
