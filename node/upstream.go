package node

import (
	"context"
	"fmt"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/resolver/cache"
	"github.com/starferry/starferry/resolver/upstream"
)

// cacheBytes bounds what answers of resolvers outside may take of memory.
const cacheBytes = 32 << 20

// An outside asks the resolvers that are not of the fleet, with a cache before.
type outside struct {
	resolve cache.Resolver
	cache   *cache.Cache
}

// newOutside makes the group of the name default, or the only one there is.
func newOutside(groups []configs.Upstream, near *Surroundings) (*outside, error) {
	if len(groups) == 0 {
		return nil, fmt.Errorf("no upstream resolver is set")
	}
	use := groups[0]
	for _, g := range groups {
		if g.Name == "default" {
			use = g
		}
	}
	set := upstream.Config{Strategy: upstream.Failover, Timeout: use.Timeout, Dial: near.Dial}
	for _, a := range use.Servers {
		set.Servers = append(set.Servers, upstream.Server{Addr: a})
	}
	group, err := upstream.New(set)
	if err != nil {
		return nil, err
	}
	c := cache.New(cacheBytes)
	return &outside{c.Before(use.Name, group.Resolve), c}, nil
}

// ask answers a question from the cache or from outside.
func (o *outside) ask(ctx context.Context, m *dns.Msg) (*dns.Msg, error) { return o.resolve(ctx, m) }

// flush forgets what was answered.
func (o *outside) flush() error {
	o.cache.Flush()
	return nil
}
