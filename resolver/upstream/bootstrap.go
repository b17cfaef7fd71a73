package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// How long addresses of servers are kept: by their TTL, in these bounds. After
// a failure the old ones serve on for renewAfter.
const (
	minAddrs   = time.Minute
	maxAddrs   = 24 * time.Hour
	renewAfter = 30 * time.Second
)

// A finder finds the addresses of a server that is given by name. It asks the
// bootstrap servers, which have addresses, and nobody else: not the machine's
// resolver, which may be us.
type finder struct {
	host string
	port uint16
	by   *Group // nil: there are no bootstrap servers

	mu    sync.Mutex
	addrs []netip.AddrPort // the one that worked last is the first
	until time.Time
}

// find returns the addresses.
func (f *finder) find(ctx context.Context) ([]netip.AddrPort, error) {
	if f.by == nil {
		return nil, fmt.Errorf("the address of %s is not known: bootstrap servers are needed to find it", f.host)
	}
	f.mu.Lock()
	addrs, fresh := f.addrs, time.Now().Before(f.until)
	f.mu.Unlock()
	if fresh {
		return addrs, nil
	}
	found, ttl, err := f.ask(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err == nil:
		f.addrs, f.until = found, time.Now().Add(ttl)
	case len(f.addrs) > 0:
		f.until = time.Now().Add(renewAfter)
	default:
		return nil, fmt.Errorf("asking the bootstrap servers for %s: %w", f.host, err)
	}
	return f.addrs, nil
}

// ask asks for both kinds of addresses at one time.
func (f *finder) ask(ctx context.Context) (all []netip.AddrPort, ttl time.Duration, err error) {
	var v6 []netip.AddrPort
	var ttl6 time.Duration
	var err6 error
	done := make(chan struct{})
	go func() {
		defer close(done)
		v6, ttl6, err6 = f.lookup(ctx, dns.TypeAAAA)
	}()
	all, ttl, err = f.lookup(ctx, dns.TypeA)
	<-done
	if all = append(all, v6...); len(all) > 0 {
		return all, max(minAddrs, min(maxAddrs, ttl, ttl6)), nil
	}
	if err = errors.Join(err, err6); err == nil {
		err = errors.New("it has no address")
	}
	return nil, 0, err
}

func (f *finder) lookup(ctx context.Context, typ uint16) (addrs []netip.AddrPort, ttl time.Duration, err error) {
	r, err := f.by.Resolve(ctx, new(dns.Msg).SetQuestion(dns.Fqdn(f.host), typ))
	if err != nil {
		return nil, maxAddrs, err
	}
	if r.Rcode != dns.RcodeSuccess {
		return nil, maxAddrs, fmt.Errorf("the answer is %s", dns.RcodeToString[r.Rcode])
	}
	ttl = maxAddrs
	for _, rr := range r.Answer {
		ttl = min(ttl, time.Duration(rr.Header().Ttl)*time.Second)
		var ip net.IP
		switch rr := rr.(type) {
		case *dns.A:
			ip = rr.A
		case *dns.AAAA:
			ip = rr.AAAA
		}
		if a, ok := netip.AddrFromSlice(ip); ok {
			addrs = append(addrs, netip.AddrPortFrom(a.Unmap(), f.port))
		}
	}
	return addrs, ttl, nil
}

// worked puts the address that a connection could be made to first.
func (f *finder) worked(addr netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := []netip.AddrPort{addr}
	for _, a := range f.addrs {
		if a != addr {
			next = append(next, a)
		}
	}
	f.addrs = next // others may still read the old
}

// dialAny connects to one of the addresses: the next one is tried when one
// fails, or has been silent for its part of the time.
func (f *finder) dialAny(ctx context.Context, dial Dial, timeout time.Duration) (net.Conn, error) {
	addrs, err := f.find(ctx)
	if err != nil {
		return nil, err
	}
	var errs []error
	for i, a := range addrs {
		part, cancel := context.WithTimeout(ctx, timeout/time.Duration(2*min(len(addrs), 4)))
		conn, err := dial(part, "tcp", a)
		cancel()
		if err == nil {
			if i > 0 {
				f.worked(a)
			}
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		errs = append(errs, fmt.Errorf("connecting to %s: %w", a, err))
	}
	return nil, said(errs)
}
