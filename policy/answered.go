package policy

import (
	"github.com/starferry/starferry/internal/yamlpos"
	"github.com/starferry/starferry/policy/list"
	"github.com/starferry/starferry/policy/match"
)

// A zoneData is a response policy zone with whose own data an override answers.
type zoneData struct {
	list    string
	answers *list.Answers
}

// readZone reads the list whose answers an override gives; nil after a mistake.
func (c *compiler) readZone(n *yamlpos.Node) *zoneData {
	name := yamlpos.Value(n, "", word)
	if name == "" {
		return nil
	}
	l := c.list(name, n.Pos())
	switch {
	case l == nil || l.failed:
		return nil
	case l.info.Format != "rpz":
		c.file.ErrorAt(n.Pos(), "write the answer here: {a: 192.0.2.1}", "list %q is of format %s, which has no answers: only rpz has", name, l.info.Format)
		return nil
	case l.answers == nil:
		c.load(l, asAnswers, func() (stats list.Stats, sum list.Sum, err error) {
			l.answers, stats, sum, err = c.known.Answers(l.src, l.info.File, c.open)
			return stats, sum, err
		})
	}
	if l.answers == nil {
		return nil
	}
	return &zoneData{name, l.answers}
}

// has makes the condition that the zone has an answer for the name.
func (z *zoneData) has() cond {
	return cond{op: opName, names: z.answers.Names(), words: []string{z.list}, text: "with an answer in list " + z.list, rare: &rare{zone: true}}
}

// within returns the condition of a policy that answers with the zone: where the
// zone has no answer, the policy is as false as if it had said so.
func (z *zoneData) within(when *cond) *cond {
	has := z.has()
	if when != nil {
		has = cond{op: opAll, kids: []cond{has, *when}}.tidy()
	}
	return &has
}

// fill puts into an override by a zone what the zone has for a name.
func (t *Then) fill(name string) {
	a := t.zone.answers.Of(name)
	if a == nil { // of which the policy's condition is that there is one
		return
	}
	t.A, t.AAAA, t.CNAME, t.Records = a.A, a.AAAA, a.CNAME, a.Records
	if len(a.CNAME) > 0 && a.CNAME[0] == '*' {
		t.CNAME, _ = match.Clean(name + a.CNAME[1:]) // one that is too long is none
	}
	if a.TTLSaid {
		t.TTL = a.TTL
	}
}

// overUDP returns the condition of a policy that truncates, which is for
// questions over UDP only: over TCP the policies below it decide.
func overUDP(when *cond) *cond {
	udp := cond{op: opTransport, words: []string{"udp"}, text: "udp"}
	if when != nil {
		udp = cond{op: opAll, kids: []cond{udp, *when}}.tidy()
	}
	return &udp
}
