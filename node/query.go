package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver/listen"
	"github.com/starferry/starferry/state"
)

// querySize is what is said to be taken over UDP (DNS flag day 2020).
const querySize = 1232

// query answers `starferry query`: it is a question like others, which counts,
// is remembered and takes a lease, but comes over no socket and under no limit.
func (g *Gateway) query(ctx context.Context, q control.Question) (string, error) {
	if g.rules.now() == nil {
		return "", errLoading
	}
	name, t, err := asked(q)
	if err != nil {
		return "", err
	}
	in, err := g.standIn(q.Device)
	if err != nil {
		return "", err
	}
	m := new(dns.Msg).SetQuestion(name+".", t)
	m.SetEdns0(querySize, false)
	m.IsEdns0().Option = in.options
	req, err := m.Pack()
	if err != nil {
		return "", fmt.Errorf("asking for %q: %w", q.Name, err)
	}
	start := time.Now()
	resp := g.dns.handler.Handle(ctx, &in.client, req)
	return shown(in, resp, time.Since(start))
}

// shown writes an answer as dig does, after who asked for it.
func shown(in *standIn, resp []byte, took time.Duration) (string, error) {
	var b strings.Builder
	a := &in.asker
	fmt.Fprintf(&b, ";; asked by %s (identity %v, by %v) from %v over %s\n", a.Device.ID, a.Kind.Strength(), a.Kind, a.Source, in.client.Listener)
	if resp == nil {
		return b.String() + ";; no answer\n", nil
	}
	m := new(dns.Msg)
	if err := m.Unpack(resp); err != nil {
		return "", fmt.Errorf("reading the answer: %w", err)
	}
	fmt.Fprintf(&b, "%s\n;; %d bytes in %v\n", strings.TrimSpace(m.String()), len(resp), took.Round(10*time.Microsecond))
	return b.String(), nil
}

// A standIn is a client that is taken for a device, with the EDNS options of
// its question.
type standIn struct {
	client  listen.Client
	options []dns.EDNS0
	asker   policy.Asker
}

// standIn makes a client that stands for a device: with none, for the only
// network there is. Who it is taken for is found as for all others.
func (g *Gateway) standIn(name string) (*standIn, error) {
	e, err := g.asDevice(name)
	if err != nil {
		return nil, err
	}
	if len(e.Device.LAN) > 0 {
		return g.inNetwork(e)
	}
	in, err := g.asMachine(e.Device)
	if err != nil {
		return nil, err
	}
	if !g.takenFor(in, e) {
		return nil, fmt.Errorf("a question that shows what %s shows is taken for one of %s", e.Device.ID, called(in.asker.Device))
	}
	return in, nil
}

func called(d *device.Device) string {
	if d == nil {
		return "nobody that is known"
	}
	return string(d.ID)
}

// asDevice returns who is meant.
func (g *Gateway) asDevice(name string) (*state.Entry, error) {
	dir := g.store.Directory()
	if name != "" {
		if e, ok := dir.ByID(device.ID(name)); ok {
			return e, nil
		}
		return nil, fmt.Errorf("%q: %w; %s", name, errNoDevice, known(dir))
	}
	var networks []*state.Entry
	for e := range dir.All() {
		if len(e.Device.LAN) > 0 {
			networks = append(networks, e)
		}
	}
	if len(networks) != 1 {
		return nil, fmt.Errorf("who asks? give --device: %s", known(dir))
	}
	return networks[0], nil
}

// known lists devices, but not thousands.
func known(dir *state.Directory) string {
	const most = 20
	var names []string
	more := 0
	for e := range dir.All() {
		if len(names) == most {
			more++
			continue
		}
		names = append(names, string(e.Device.ID))
	}
	text := "known are " + strings.Join(names, ", ")
	switch {
	case len(names) == 0:
		return "none is known"
	case more > 0:
		return fmt.Sprintf("%s and %d more", text, more)
	}
	return text
}

// queryPort is no port of a socket; clients have one.
const queryPort = 53

// asMachine shows the strongest evidence of a device that can be shown here.
// Of its token only a hash is known.
func (g *Gateway) asMachine(d *device.Device) (*standIn, error) {
	in := &standIn{client: g.clientAt(netip.AddrFrom4([4]byte{127, 0, 0, 1}))}
	forwarder := netip.Addr{}
	if f := g.set.DNS.Forwarders; len(f) > 0 {
		forwarder = f[0].Addr()
	}
	switch m := &d.Marks; {
	case !d.Key.IsZero() && len(d.Overlay) > 0:
		in.client = g.clientAt(d.Overlay[0].Addr())
		in.client.Listener = onLink
	case m.ServerName != "" && g.set.DNS.ServerName != "":
		in.client.Transport, in.client.ServerName = listen.DoT, m.ServerName+"."+g.set.DNS.ServerName
	case !m.MAC.IsZero() && forwarder.IsValid():
		in.client = g.clientAt(forwarder)
		in.options = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: optMAC, Data: m.MAC[:]}}
	case m.CPE != "" && forwarder.IsValid():
		in.client = g.clientAt(forwarder)
		in.options = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: optCPE, Data: []byte(m.CPE)}}
	case m.Token != device.TokenHash{}:
		return nil, fmt.Errorf("%s is known by its token, of which only a hash is kept here: ask over HTTPS with the token (kdig +https=/dns-query/TOKEN)", d.ID)
	default:
		return nil, fmt.Errorf("%s: %w", d.ID, errNothingToShow)
	}
	return in, nil
}

var errNothingToShow = errors.New("nothing that it is known by can be shown in a question here")

// clientAt is a client as a listener would tell of it.
func (g *Gateway) clientAt(a netip.Addr) listen.Client {
	name := "control"
	if at := g.set.DNS.Listen; len(at) > 0 {
		name = at[0].String()
	}
	return listen.Client{Addr: netip.AddrPortFrom(a, queryPort), Listener: name, Transport: listen.UDP, At: now()}
}

// inNetwork takes an address of a network that nobody else is known by: one may
// be bound to a device, or belong to a narrower network.
func (g *Gateway) inNetwork(e *state.Entry) (*standIn, error) {
	const tries = 256
	for _, p := range e.Device.LAN {
		a := p.Addr()
		if next := a.Next(); p.Contains(next) {
			a = next // the first is the network's own (RFC 1122 section 3.2.1.3)
		}
		for range tries {
			if in := (&standIn{client: g.clientAt(a)}); g.takenFor(in, e) {
				return in, nil
			}
			if a = a.Next(); !p.Contains(a) {
				break
			}
		}
	}
	return nil, fmt.Errorf("no address of %s is known by it alone", e.Device.ID)
}

// takenFor finds who the client is taken for, and reports whether that is so.
func (g *Gateway) takenFor(in *standIn, e *state.Entry) bool {
	in.asker, _ = g.dns.who.identify(&in.client, in.option)
	return in.asker.Device != nil && in.asker.Device.ID == e.Device.ID
}

func (in *standIn) option(code uint16) []byte {
	for _, o := range in.options {
		if l, ok := o.(*dns.EDNS0_LOCAL); ok && l.Code == code {
			return l.Data
		}
	}
	return nil
}
