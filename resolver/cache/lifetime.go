package cache

import (
	"context"
	"time"

	"github.com/miekg/dns"
)

// lifetime returns how long an answer may be kept; zero: not at all.
func lifetime(m *dns.Msg) time.Duration {
	switch {
	case m.Truncated || !m.Response || len(m.Question) != 1:
		return 0
	case m.Rcode == dns.RcodeServerFailure:
		return maxServfail
	case m.Rcode == dns.RcodeNameError || m.Rcode == dns.RcodeSuccess && !answers(m):
		return negative(m)
	case m.Rcode == dns.RcodeSuccess:
		return least(maxPositive, m.Answer, m.Ns, m.Extra)
	default:
		return 0
	}
}

// answers reports whether the answer holds a record of the type that was
// asked for. A chain of CNAMEs that ends in nothing does not.
func answers(m *dns.Msg) bool {
	t := m.Question[0].Qtype
	for _, rr := range m.Answer {
		if rr.Header().Rrtype == t || t == dns.TypeANY {
			return true
		}
	}
	return false
}

// negative returns how long NXDOMAIN or NODATA may be kept: the lesser of the
// SOA's own TTL and its MINIMUM, and no longer than the CNAMEs before it.
func negative(m *dns.Msg) time.Duration {
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return min(seconds(soa.Minttl), least(maxNegative, m.Answer, m.Ns))
		}
	}
	return 0
}

func seconds(n uint32) time.Duration {
	if n > 1<<31-1 { // RFC 2181 section 8: taken as zero
		return 0
	}
	return time.Duration(n) * time.Second
}

func least(ttl time.Duration, sections ...[]dns.RR) time.Duration {
	for _, rrs := range sections {
		for _, rr := range rrs {
			if h := rr.Header(); h.Rrtype != dns.TypeOPT {
				ttl = min(ttl, seconds(h.Ttl))
			}
		}
	}
	return ttl
}

// A Resolver answers a question; the answer is the caller's.
type Resolver = func(ctx context.Context, m *dns.Msg) (*dns.Msg, error)

// Before returns a resolver that answers from the cache what it can and asks
// next, which is the group of that name, for the rest. Errors are not kept.
func (c *Cache) Before(group string, next Resolver) Resolver {
	return func(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
		k := KeyOf(group, m)
		if r := c.Lookup(k, time.Now()); r != nil {
			r.Id = m.Id
			return r, nil
		}
		r, err := next(ctx, m)
		if err == nil {
			c.Store(k, r, time.Now())
		}
		return r, err
	}
}
