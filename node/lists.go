package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/fetch"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver/upstream"
)

// missingFor is how long a start or a reload waits for lists that there is no
// copy of.
const missingFor = 30 * time.Second

// Lists has copies of the lists that a policy has from other machines. Whoever
// loads the policy calls Want before it reads it, and opens the lists by Open. A
// node that is given them keeps them fresh: a newer list is tried with the whole
// policy, whose tests must pass, and then put in force without a restart.
//
// Nil has no lists.
type Lists struct {
	fetcher *fetch.Fetcher
	rules   *rules // of the node that was given them

	mu             sync.Mutex
	wanted, before []policy.Download // by the policy that was read last, and by the one in force
	newer          *fetch.Newer      // a newer text, while that is tried
}

// NewLists makes those of a gateway or egress.
func NewLists(set *configs.Set, log *slog.Logger) (*Lists, error) {
	n := set.Node()
	cfg := fetch.Config{Dir: n.ListsDir(), Log: log.With("node", n.Name)}
	if set.Gateway != nil {
		for _, u := range set.Gateway.Upstreams {
			if u.Name != defaultGroup {
				continue
			}
			g, err := newGroup(u, new(Surroundings))
			if err != nil {
				return nil, fmt.Errorf("upstream group %s: %w", u.Name, err)
			}
			cfg.Dial = dialBy(g)
		}
	}
	return newLists(cfg)
}

func newLists(cfg fetch.Config) (l *Lists, err error) {
	l = new(Lists)
	cfg.Apply = func(newer *fetch.Newer) error { return l.rules.renew(newer) }
	l.fetcher, err = fetch.New(cfg)
	return l, err
}

// Want says which lists a policy has that is about to be read, and fetches those
// that there is no copy of. If that fails opening them says why.
func (l *Lists) Want(ctx context.Context, all []policy.Download) {
	l.mu.Lock()
	l.wanted = all
	trying := l.newer != nil
	l.mu.Unlock()
	if trying { // it would be asked for once more
		l.fetcher.Set(all)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, missingFor)
	defer cancel()
	l.fetcher.Want(ctx, all) //nolint:errcheck // opening the list says it
}

// Open opens a list by its URL.
func (l *Lists) Open(url string) (r io.ReadCloser, err error) {
	l.mu.Lock()
	open := l.fetcher.Open
	if l.newer != nil {
		open = l.newer.Open
	}
	l.mu.Unlock()
	return open(url)
}

// tellOf says by what newer lists are put in force. The node calls it before it runs.
func (l *Lists) tellOf(r *rules) {
	if l != nil {
		l.rules = r
	}
}

// begin says that a policy will be read, with a newer text if that is not nil.
func (l *Lists) begin(newer *fetch.Newer) {
	if l != nil {
		l.mu.Lock()
		l.newer = newer
		l.mu.Unlock()
	}
}

// end says what became of it. After an error the lists of before are kept.
func (l *Lists) end(err error) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	newer := l.newer
	l.newer = nil
	if err != nil {
		l.fetcher.Set(l.before)
		return
	}
	l.before = l.wanted
	newer.Keep()
	l.fetcher.Keep()
}

func (l *Lists) run(ctx context.Context) error {
	if l == nil {
		<-ctx.Done()
		return nil
	}
	return l.fetcher.Run(ctx)
}

// status says how each list stands.
func (l *Lists) status() (out []control.List) {
	if l == nil {
		return nil
	}
	for _, s := range l.fetcher.Status() {
		out = append(out, control.List{Name: s.Name, URL: s.URL, Entries: s.Entries, Changed: s.Changed, Checked: s.Checked, Next: s.Next, Error: s.Err})
	}
	return out
}

// toConnect is how long one address of a publisher may take to be reached.
const toConnect = 5 * time.Second

// dialBy dials hosts whose addresses the resolvers of a group know: the machine's
// own resolver may be this gateway, which waits for the list. It is asked for what
// they do not know, such as names of the machine's hosts file.
func dialBy(g *upstream.Group) func(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: toConnect}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		var errs []error
		for _, a := range addresses(ctx, g, host) {
			c, err := d.DialContext(ctx, network, net.JoinHostPort(a.String(), port))
			if err == nil {
				return c, nil
			}
			errs = append(errs, err)
		}
		if errs != nil {
			return nil, errors.Join(errs...)
		}
		return d.DialContext(ctx, network, address)
	}
}

// addresses returns those of a host, none if they cannot be found.
func addresses(ctx context.Context, g *upstream.Group, host string) (all []netip.Addr) {
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	for _, t := range []uint16{dns.TypeA, dns.TypeAAAA} {
		r, err := g.Resolve(ctx, new(dns.Msg).SetQuestion(dns.Fqdn(host), t))
		if err != nil {
			continue
		}
		for _, rr := range r.Answer {
			var a netip.Addr
			switch rr := rr.(type) {
			case *dns.A:
				a, _ = netip.AddrFromSlice(rr.A)
			case *dns.AAAA:
				a, _ = netip.AddrFromSlice(rr.AAAA)
			}
			if a.IsValid() {
				all = append(all, a.Unmap())
			}
		}
	}
	return all
}
