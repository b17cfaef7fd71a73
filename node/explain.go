package node

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver"
	"github.com/starferry/starferry/state"
	"github.com/starferry/starferry/steer"
)

// An Explanation is why a question would be answered as it would, or a flow
// decided, and the way that the traffic would take. A running node makes one from what it knows, and
// the command line from files; both print it by [Explanation.Lines].
type Explanation struct {
	Name     string      `json:"name"`
	Type     string      `json:"type"`
	Flow     string      `json:"flow,omitempty"` // the service, if it is a flow
	Device   string      `json:"device,omitempty"`
	Identity string      `json:"identity"`
	Steps    []StepTaken `json:"steps"`
	Decision string      `json:"decision"`
	Policy   string      `json:"policy,omitempty"`
	Reason   string      `json:"reason,omitempty"`
	Denied   string      `json:"denied,omitempty"`
	Route    string      `json:"route,omitempty"`           // of a flow, by which conditions on it were judged
	Told     string      `json:"told,omitempty"`            // to the device, with the answer; of a flow that is denied how it is told
	Virtual  string      `json:"virtual_address,omitempty"` // of a steered name
	Label    string      `json:"label,omitempty"`           // of the name, at an egress
	Way      []string    `json:"way,omitempty"`             // the nodes that its traffic may take, one each

	Remedies []policy.Remedy `json:"allowed_if,omitempty"` // what would have to change for it to be allowed

	trace *policy.Trace
	why   string // a flow is denied
}

// A StepTaken is one policy that was looked at.
type StepTaken struct {
	Policy  string `json:"policy"`
	Place   string `json:"place"`
	Hop     string `json:"hop"`
	Matched string `json:"matched"`
	Text    string `json:"text,omitempty"`
}

// Explain decides a question or a flow with a trace.
func Explain(p *policy.Policy, q *policy.Query) (*Explanation, policy.Decision) {
	d, trace := p.Explain(q)
	x := &Explanation{
		Name: q.Name, Type: dns.Type(q.Type).String(), Denied: d.Denied, Reason: d.Then.Reason, Decision: trace.Decision,
		Identity: fmt.Sprintf("%v, by %v", q.Asker.Kind.Strength(), q.Asker.Kind), Told: d.Text(), trace: trace, Remedies: p.Remedies(q),
	}
	if q.Asker.Device != nil {
		x.Device = string(q.Asker.Device.ID)
	}
	if d.Rule != nil {
		x.Policy = d.Rule.Name
	}
	if q.Flow != nil {
		x.flow(*q.Flow, &d)
	}
	for _, s := range trace.Steps {
		t := StepTaken{Hop: s.Hop, Matched: s.Matched.String(), Text: s.Text, Policy: "default"}
		if s.Rule != nil {
			t.Policy, t.Place = s.Rule.Name, s.Pos.String()
		}
		x.Steps = append(x.Steps, t)
	}
	return x, d
}

// Lines are the explanation for people, one fact each.
func (x *Explanation) Lines() []string {
	who := cmp.Or(x.Device, "nobody that is known")
	what := "asked by"
	if x.Flow != "" {
		what = "flow " + x.Flow + " of"
	}
	out := []string{fmt.Sprintf("%s %s, %s %s (identity %s)", x.Name, x.Type, what, who, x.Identity)}
	out = append(out, strings.Split(x.trace.String(), "\n")...)
	if x.why != "" {
		out = append(out, "because: "+x.why)
	}
	if x.Told != "" {
		out = append(out, "told to the device: "+x.Told)
	}
	for _, r := range x.Remedies {
		out = append(out, "would be allowed if "+strings.Join(r.Changes, ", and ")+": "+r.Decision)
	}
	if x.Virtual != "" {
		out = append(out, "virtual address: "+x.Virtual)
	}
	if x.Label != "" {
		out = append(out, "label: "+x.Label)
	}
	for _, w := range x.Way {
		out = append(out, "way: "+w)
	}
	return out
}

// String is the text of Lines.
func (x *Explanation) String() string { return strings.Join(x.Lines(), "\n") + "\n" }

// explainLines answers CH TXT NAME.explain.starferry.
func (g *Gateway) explainLines(name string, qtype uint16, a policy.Asker) []string {
	ctx, cancel := context.WithTimeout(context.Background(), errandTime)
	defer cancel()
	return g.explainAs(ctx, name, qtype, a).Lines()
}

// explainAs decides as the gateway would for an asker, upstream included.
func (g *Gateway) explainAs(ctx context.Context, name string, qtype uint16, a policy.Asker) *Explanation {
	q := &policy.Query{Name: name, Type: qtype, Asker: a, Now: time.Now()}
	x, d := Explain(g.rules.now(), q)
	if d.NeedAnswer {
		g.answer(ctx, q, &d)
		x, d = Explain(g.rules.now(), q)
	}
	if d.Then.Action == policy.Steer && d.Denied == "" && !x.LacksWay(&a, &d.Then) {
		x.Virtual, x.Way = g.wayOf(ctx, name, qtype, d.Then.Route)
		if !slices.ContainsFunc(routeNamed(g.set.Routes, d.Then.Route), g.neighbours.up) {
			x.Way = append(x.Way, "no egress of the route answers now; when_down: "+d.Then.WhenDown.String())
		}
	}
	return x
}

// LacksWay reports whether who asks a gateway cannot send to virtual addresses;
// then the way says so, and what the policy does. A machine with a link may have it up.
func (x *Explanation) LacksWay(a *policy.Asker, then *policy.Then) bool {
	d := a.Device
	if a.Kind == device.ByWireGuard || d != nil && (!d.Key.IsZero() || d.RoutesPool && len(d.Overlay) > 0) {
		return false
	}
	x.Way = []string{"none: who asks has no way to send to virtual addresses, neither a link nor a network that routes the pool; no_way: " + then.NoWay.String()}
	return true
}

// wayOf says which virtual address a steered name has, and which way the
// traffic to it takes.
func (g *Gateway) wayOf(ctx context.Context, name string, qtype uint16, route string) (virtual string, way []string) {
	lease, ok := g.labels.table.Peek(name, qtype == dns.TypeAAAA)
	if ok {
		virtual = lease.Addr().String()
	} else {
		lease, virtual = nil, "none yet; a question for the name leases one"
	}
	for _, e := range routeNamed(g.set.Routes, route) {
		up := g.neighbours.up(e)
		way = append(way, "egress "+e+": "+stands(up, lease, e))
		if up {
			way = append(way, g.beyond(ctx, e, name, route)...)
		}
	}
	return virtual, way
}

// beyond asks an egress which connectors a name can go by.
func (g *Gateway) beyond(ctx context.Context, egress, name, route string) []string {
	p, ok := peerWhere(g.set.Egresses, nameIs(egress))
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	lines, err := resolver.AskWay(ctx, g.trunk.local.DialContext, netip.AddrPortFrom(p.Address[0], dnsPort), name, route)
	if err != nil {
		return []string{egress + " does not say which connectors it has: " + err.Error()}
	}
	for i := range lines {
		lines[i] = egress + ": " + lines[i]
	}
	return lines
}

// connectors says how the connectors of a route stand, and which labels they
// have for a name.
func (e *Egress) connectors(name string, v6 bool, route string) (lines []string) {
	lease, ok := e.labels.table.Peek(name, v6)
	if !ok {
		lease = nil
	}
	for _, c := range routeNamed(e.set.Routes, route) {
		lines = append(lines, "connector "+c+": "+stands(e.neighbours.up(c), lease, c))
	}
	return lines
}

// stands says whether a node answers, and which label it has for a name (lease
// is nil if the name has none here).
func stands(up bool, lease *steer.Lease, node string) string {
	line := upDown(up)
	if lease != nil {
		if n, known := lease.Next(node); known {
			line += ", label " + n.Addr.String()
		}
	}
	return line
}

func upDown(up bool) string {
	if up {
		return "up"
	}
	return "DOWN"
}

// explain answers `starferry explain`.
func (g *Gateway) explain(ctx context.Context, q control.Question) (string, any, error) {
	if g.rules.now() == nil {
		return "", nil, errLoading
	}
	if q.Flow != "" {
		return told(g.explainFlow(ctx, q))
	}
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
		a = askerFrom(e, e.Device.Source())
	}
	x := g.explainAs(ctx, name, t, a)
	return x.String(), x, nil
}

// explain answers `starferry explain` at an egress, which knows devices by
// their opaque ids only, and names by their leases.
func (e *Egress) explain(_ context.Context, q control.Question) (string, any, error) {
	if q.Flow != "" {
		return told(e.explainFlow(q))
	}
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
		entry, err := e.device(q.Device)
		if err != nil {
			return "", nil, err
		}
		query.Asker = askerFrom(entry, netip.Addr{})
	}
	x, d := Explain(e.rules.now(), query)
	if d.Then.Action == policy.Steer && d.Denied == "" {
		x.Way = e.connectors(name, t == dns.TypeAAAA, d.Then.Route)
	}
	return x.String(), x, nil
}

func (e *Egress) device(name string) (*state.Entry, error) {
	entry, known := e.store.Directory().ByID(device.ID(name))
	if !known {
		return nil, fmt.Errorf("%q: %w; an egress knows devices as GATEWAY/ID, with an id that its flow records show, and the gateway's starferry explain --flow", name, errNoDevice)
	}
	return entry, nil
}

// told is an explanation as the control socket gives it.
func told(x *Explanation, err error) (string, any, error) {
	if err != nil {
		return "", nil, err
	}
	return x.String(), x, nil
}

// answer asks upstream for what the policy needs to decide a question.
func (g *Gateway) answer(ctx context.Context, q *policy.Query, undecided *policy.Decision) {
	q.Answered, q.Answer = true, g.dns.handler.Facts(ctx, resolver.Question{Name: q.Name, Type: q.Type, Class: dns.ClassINET}, q.Asker, undecided)
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
