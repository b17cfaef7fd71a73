package policy_test

import (
	"fmt"
	"strings"
)

// yaml writes the policy as an operator would.
func (p modelPolicy) yaml() string {
	var b strings.Builder
	b.WriteString(head + more + "policies:\n")
	for _, r := range p.rules {
		fmt.Fprintf(&b, "  - name: %s\n", r.name)
		if r.cond != nil {
			fmt.Fprintf(&b, "    if: %s\n", r.cond.yaml())
		}
		if len(r.demands) > 0 {
			var d []string
			for _, c := range r.demands {
				d = append(d, strings.Replace(c.demand(), "group:", "groups:", 1))
			}
			fmt.Fprintf(&b, "    require: {%s}\n", strings.Join(d, ", "))
		}
		if r.own {
			b.WriteString("    cname: ignore\n")
		}
		if r.shadow {
			b.WriteString("    mode: shadow\n")
		}
		for _, w := range strings.Split(r.window, ", ") {
			b.WriteString("    " + w + "\n")
		}
		then := r.then
		switch {
		case then == "steer":
			then = "{steer: there, ports: [tcp/443]}"
		case r.upstream() != "":
			then = fmt.Sprintf("{resolve: %s}", then)
		}
		fmt.Fprintf(&b, "    then: %s\n", then)
	}
	b.WriteString("defaults:\n")
	for _, d := range p.defaults {
		fmt.Fprintf(&b, "  - {%s: %s, then: %s, learn: %v}\n", d.cond.op, d.cond.val, map[bool]string{true: "allow", false: "block"}[d.allow], d.learn)
	}
	if len(p.defaults) == 0 {
		b.WriteString("  []\n")
	}
	if p.allow {
		b.WriteString("default: allow\n")
	}
	return b.String()
}

func (c *modelCond) yaml() string {
	switch c.op {
	case "all", "any":
		var kids []string
		for i := range c.kids {
			kids = append(kids, c.kids[i].yaml())
		}
		return fmt.Sprintf("{%s: [%s]}", c.op, strings.Join(kids, ", "))
	case "not":
		return fmt.Sprintf("{not: %s}", c.kids[0].yaml())
	case "exact", "suffix", "pattern", "list", "regexp", "category":
		return fmt.Sprintf("{name: {%s: %s}}", c.op, c.val)
	case "country", "continent", "asn", "cname", "mx", "txt":
		return fmt.Sprintf("{answer: {%s: %s}}", c.op, c.val)
	case "answers":
		return fmt.Sprintf("{answer: {network: %s}}", c.val)
	case "posture":
		return fmt.Sprintf("{posture: {laptop: %s}}", c.val)
	}
	return fmt.Sprintf("{%s: %s}", c.op, c.val)
}

func (c *modelCond) demand() string {
	switch c.op {
	case "posture":
		return "posture: laptop"
	case "approval":
		return "approval: {by: alice, until: " + c.val + "}"
	}
	return c.op + ": " + c.val
}
