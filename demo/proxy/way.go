package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// headStart is how long an address is tried alone before the next one is
// tried beside it (RFC 8305, section 8, recommends 250 ms).
const headStart = 250 * time.Millisecond

// errRefused is wrapped by the errors of destinations that this proxy does not
// carry, as opposed to those that could not be reached.
var errRefused = errors.New("not carried")

// A refusal is an error that wraps errRefused without saying so.
type refusal struct{ error }

func (refusal) Is(target error) bool { return target == errRefused }
func (r refusal) Unwrap() error      { return r.error }

// open connects to the host, a name or an address, if it is steered.
func (s *server) open(ctx context.Context, host string, port uint16) (net.Conn, error) {
	addrs, err := s.ways(ctx, host)
	if err != nil {
		return nil, err
	}
	return s.race(ctx, addrs, port)
}

// ways returns the virtual addresses of the host, in the order to try them.
func (p *Proxy) ways(ctx context.Context, host string) ([]netip.Addr, error) {
	var all []netip.Addr
	if a, err := netip.ParseAddr(host); err == nil {
		all = []netip.Addr{a}
	} else if all, err = p.Resolve(ctx, host); err != nil {
		return nil, refusal{err}
	}
	if len(all) == 0 {
		return nil, refusal{fmt.Errorf("%q has no address", host)}
	}
	virtual := make([]netip.Addr, 0, len(all))
	for _, a := range all {
		if a = a.Unmap(); a.Zone() == "" && p.Virtual(a) {
			virtual = append(virtual, a)
		}
	}
	if len(virtual) == 0 {
		return nil, refusal{fmt.Errorf("%v is no virtual address: this proxy only carries steered names", all[0])}
	}
	slices.SortStableFunc(virtual, func(a, b netip.Addr) int { return cmp.Compare(b.BitLen(), a.BitLen()) })
	return virtual, nil
}

// race dials the addresses one after the other, each with a head start over
// the next, and returns the first connection that stands.
func (s *server) race(ctx context.Context, addrs []netip.Addr, port uint16) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result)
	var errs []error
	next, running := 0, 0
	wait := time.NewTimer(0)
	defer wait.Stop()
	for next < len(addrs) || running > 0 {
		select {
		case <-wait.C:
			if next == len(addrs) {
				continue
			}
			to := netip.AddrPortFrom(addrs[next], port)
			next, running = next+1, running+1
			wait.Reset(headStart)
			s.tasks.Go(func() {
				c, err := s.Dial(ctx, to)
				select {
				case results <- result{c, err}:
				case <-ctx.Done():
					if err == nil {
						c.Close()
					}
				}
			})
		case r := <-results:
			running--
			if r.err == nil {
				return r.conn, nil
			}
			errs = append(errs, r.err)
			wait.Reset(0)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return nil, errors.Join(errs...)
}
