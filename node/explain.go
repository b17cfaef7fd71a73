package node

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver"
)

// An explanation is why a question would be answered as it would, and the way
// that its traffic would take. It takes no lease and asks no other node.
type explanation struct {
	Name     string      `json:"name"`
	Type     string      `json:"type"`
	Device   string      `json:"device,omitempty"`
	Identity string      `json:"identity"`
	Steps    []stepTaken `json:"steps"`
	Decision string      `json:"decision"`
	Policy   string      `json:"policy,omitempty"`
	Reason   string      `json:"reason,omitempty"`
	Denied   string      `json:"denied,omitempty"`
	Way      []string    `json:"way,omitempty"`
}

// A stepTaken is one policy that was looked at.
type stepTaken struct {
	Policy  string `json:"policy"`
	Place   string `json:"place"`
	Hop     string `json:"hop"`
	Matched string `json:"matched"`
	Text    string `json:"text,omitempty"`
}

// explained decides a question with a trace.
func explained(p *policy.Policy, q *policy.Query) (*explanation, policy.Decision) {
	d, trace := p.Explain(q)
	x := &explanation{
		Name: q.Name, Type: dns.Type(q.Type).String(), Denied: d.Denied, Reason: d.Then.Reason, Decision: trace.Decision,
		Identity: fmt.Sprintf("%v, by %v", q.Asker.Kind.Strength(), q.Asker.Kind),
	}
	if q.Asker.Device != nil {
		x.Device = string(q.Asker.Device.ID)
	}
	if d.Rule != nil {
		x.Policy = d.Rule.Name
	}
	for _, s := range trace.Steps {
		t := stepTaken{Hop: s.Hop, Matched: s.Matched.String(), Text: s.Text, Policy: "default"}
		if s.Rule != nil {
			t.Policy, t.Place = s.Rule.Name, s.Pos.String()
		}
		x.Steps = append(x.Steps, t)
	}
	return x, d
}

// lines are the explanation for people, one fact each.
func (x *explanation) lines() []string {
	who := x.Device
	if who == "" {
		who = "nobody that is known"
	}
	out := []string{fmt.Sprintf("%s %s, asked by %s (identity %s)", x.Name, x.Type, who, x.Identity)}
	for _, s := range x.Steps {
		line := fmt.Sprintf("%s %s: %s", s.Place, s.Policy, s.Matched)
		if s.Hop != x.Name {
			line += " at " + s.Hop
		}
		if s.Text != "" {
			line += ": " + s.Text
		}
		out = append(out, strings.TrimSpace(line))
	}
	decision := "decision: " + x.Decision
	if x.Policy != "" {
		decision += " by policy " + x.Policy
	}
	if x.Denied != "" {
		decision += ": " + x.Denied
	} else if x.Reason != "" {
		decision += ": " + x.Reason
	}
	return append(append(out, decision), x.Way...)
}

// explainLines answers CH TXT NAME.explain.starferry.
func (g *Gateway) explainLines(name string, qtype uint16, a policy.Asker) []string {
	ctx, cancel := context.WithTimeout(context.Background(), errandTime)
	defer cancel()
	return g.explainAs(ctx, name, qtype, a).lines()
}

// explainAs decides as the gateway would for an asker, upstream included.
func (g *Gateway) explainAs(ctx context.Context, name string, qtype uint16, a policy.Asker) *explanation {
	q := &policy.Query{Name: name, Type: qtype, Asker: a, Now: time.Now()}
	x, d := explained(g.rules.now(), q)
	if d.NeedAnswer {
		q.Answered, q.Answer = true, g.dns.handler.Facts(ctx, resolver.Question{Name: name, Type: qtype, Class: dns.ClassINET})
		x, d = explained(g.rules.now(), q)
	}
	if d.Then.Action == policy.Steer && d.Denied == "" {
		x.Way = g.wayOf(name, qtype, d.Then.Route)
	}
	return x
}

// wayOf says which way the traffic to a steered name takes.
func (g *Gateway) wayOf(name string, qtype uint16, route string) (way []string) {
	lease, ok := g.labels.table.Peek(name, qtype == dns.TypeAAAA)
	if ok {
		way = append(way, "virtual address: "+lease.Addr().String())
	} else {
		way = append(way, "virtual address: none yet; a question for the name leases one")
	}
	for _, e := range routeNamed(g.set.Routes, route) {
		line := fmt.Sprintf("egress %s: %s", e, upDown(g.neighbours.up(e)))
		if ok {
			if n, known := lease.Next(e); known {
				line += ", label " + n.Addr.String()
			}
		}
		way = append(way, line)
	}
	return way
}

func upDown(up bool) string {
	if up {
		return "up"
	}
	return "DOWN"
}

// explain answers `starferry explain`.
func (g *Gateway) explain(ctx context.Context, q control.Question) (string, any, error) {
	name, t, err := asked(q)
	if err != nil {
		return "", nil, err
	}
	var a policy.Asker
	if q.Device != "" {
		e, ok := g.store.Directory().ByID(device.ID(q.Device))
		if !ok {
			return "", nil, fmt.Errorf("%q: %w", q.Device, errNoDevice)
		}
		a = policy.Asker{Device: e.Device, Kind: e.Device.Kind, Verdicts: e.Verdicts}
		if len(e.Device.Overlay) > 0 {
			a.Source = e.Device.Overlay[0].Addr()
		}
	}
	x := g.explainAs(ctx, name, t, a)
	return strings.Join(x.lines(), "\n") + "\n", x, nil
}

// explain answers `starferry explain` at an egress, which knows devices by
// their opaque ids only, and names by their leases.
func (e *Egress) explain(_ context.Context, q control.Question) (string, any, error) {
	name, t, err := asked(q)
	if err != nil {
		return "", nil, err
	}
	query := &policy.Query{Name: name, Type: t, Now: time.Now(), Answered: true}
	lease, ok := e.labels.table.Peek(name, t == dns.TypeAAAA)
	if ok {
		query.Answer = lease.Facts()
	}
	if q.Device != "" {
		entry, known := e.store.Directory().ByID(device.ID(q.Device))
		if !known {
			return "", nil, fmt.Errorf("%q: %w; an egress knows devices as GATEWAY/ID, with an id that its flow records show", q.Device, errNoDevice)
		}
		query.Asker = policy.Asker{Device: entry.Device, Kind: entry.Device.Kind, Verdicts: entry.Verdicts}
	}
	x, d := explained(e.rules.now(), query)
	if d.Then.Action == policy.Steer {
		for _, c := range routeNamed(e.set.Routes, d.Then.Route) {
			line := fmt.Sprintf("connector %s: %s", c, upDown(e.neighbours.up(c)))
			if ok {
				if n, known := lease.Next(c); known {
					line += ", label " + n.Addr.String()
				}
			}
			x.Way = append(x.Way, line)
		}
	}
	return strings.Join(x.lines(), "\n") + "\n", x, nil
}

// asked reads the name and type of a question at the control socket.
func asked(q control.Question) (string, uint16, error) {
	name := strings.ToLower(strings.TrimSuffix(q.Name, "."))
	if _, ok := dns.IsDomainName(name); !ok || name == "" {
		return "", 0, fmt.Errorf("%q is no name", q.Name)
	}
	if q.Type == "" {
		return name, dns.TypeA, nil
	}
	t, ok := dns.StringToType[strings.ToUpper(q.Type)]
	if !ok {
		return "", 0, fmt.Errorf("%q is no DNS type", q.Type)
	}
	return name, t, nil
}
