package stub

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	lookupSize  = 1232                    // bytes that fit one packet anywhere (DNS flag day 2020)
	lookupTries = 2                       // over UDP
	lookupWait  = 3500 * time.Millisecond // for each; a gateway whose way is down says so within three seconds
)

// An Error is an answer that holds no address: a denial, or the news that
// there is none.
type Error struct {
	Name  string
	Rcode string // NOERROR if the name has no addresses
	EDE   uint16 // Extended DNS Error, RFC 8914
	Text  string // of the EDE, "" if there was none
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.Rcode == "NOERROR" {
		fmt.Fprintf(&b, "DNS knows no address of %s", e.Name)
	} else {
		fmt.Fprintf(&b, "DNS answers %s for %s", e.Rcode, e.Name)
	}
	if e.Text != "" {
		fmt.Fprintf(&b, ": %s", e.Text)
	}
	if e.Text != "" || e.EDE != 0 {
		fmt.Fprintf(&b, " (EDE %d %s)", e.EDE, dns.ExtendedErrorCodeToString[e.EDE])
	}
	return b.String()
}

// Lookup returns the addresses of a name, asked of the gateway. What the
// gateway says when it gives none comes as an [Error].
func (s *Stub) Lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	type result struct {
		addrs []netip.Addr
		err   error
	}
	second := make(chan result, 1)
	go func() {
		addrs, err := s.lookup(ctx, name, dns.TypeAAAA)
		second <- result{addrs, err}
	}()
	v4, err4 := s.lookup(ctx, name, dns.TypeA)
	v6 := <-second
	all := append(v4, v6.addrs...)
	switch {
	case len(all) > 0:
		return all, nil
	case saysMore(v6.err, err4):
		return nil, v6.err
	default:
		return nil, err4
	}
}

// saysMore reports whether a tells the reader more than b.
func saysMore(a, b error) bool {
	x, ok := errors.AsType[*Error](a)
	y, yes := errors.AsType[*Error](b)
	return ok && (!yes || x.Text != "" && y.Text == "")
}

// lookup asks for one family. Without an address the error is never nil.
func (s *Stub) lookup(ctx context.Context, name string, qtype uint16) ([]netip.Addr, error) {
	m, err := s.query(ctx, name, qtype)
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, rr := range m.Answer {
		var b []byte
		switch rr := rr.(type) {
		case *dns.A:
			b = rr.A.To4()
		case *dns.AAAA:
			b = rr.AAAA.To16()
		}
		if a, ok := netip.AddrFromSlice(b); ok {
			addrs = append(addrs, a)
		}
	}
	if len(addrs) > 0 && m.Rcode == dns.RcodeSuccess {
		return addrs, nil
	}
	e := &Error{Name: name, Rcode: dns.RcodeToString[m.Rcode]}
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if ede, ok := o.(*dns.EDNS0_EDE); ok && e.Text == "" {
				e.EDE, e.Text = ede.InfoCode, ede.ExtraText
			}
		}
	}
	return nil, e
}

// query asks over UDP, again if that stays silent, and over TCP if the answer
// was cut.
func (s *Stub) query(ctx context.Context, name string, qtype uint16) (*dns.Msg, error) {
	if _, ok := dns.IsDomainName(name); !ok {
		return nil, fmt.Errorf("%q is not a name", name)
	}
	var q dns.Msg
	q.SetQuestion(dns.Fqdn(name), qtype)
	q.SetEdns0(lookupSize, false)
	req, err := q.Pack()
	if err != nil {
		return nil, fmt.Errorf("asking for %q: %w", name, err)
	}
	var m *dns.Msg
	for range lookupTries {
		if m, err = s.parsed(ctx, "udp", req); err == nil || ctx.Err() != nil {
			break
		}
	}
	if err == nil && m.Truncated {
		m, err = s.parsed(ctx, "tcp", req)
	}
	return m, err
}

func (s *Stub) parsed(ctx context.Context, network string, req []byte) (*dns.Msg, error) {
	resp, err := s.exchange(ctx, network, req, lookupWait)
	if err != nil {
		return nil, err
	}
	var m dns.Msg
	if err := m.Unpack(resp); err != nil {
		return nil, fmt.Errorf("reading the gateway's answer: %w", err)
	}
	return &m, nil
}
