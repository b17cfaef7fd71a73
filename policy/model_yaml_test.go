package policy_test

import (
	"fmt"
	"slices"
	"strings"
)

// yaml writes the policy as an operator would.
func (p modelPolicy) yaml() string {
	var b strings.Builder
	b.WriteString(strings.Replace(head, "lists:\n", modelLists+"\n  rules: {file: "+fileOf(p.filters)+", format: adblock}\n", 1) + more + "policies:\n")
	for _, r := range p.rules {
		fmt.Fprintf(&b, "  - name: %s\n", r.name)
		if r.cond != nil {
			fmt.Fprintf(&b, "    if: %s\n", r.cond.yaml())
		}
		if len(r.demands) > 0 {
			var d []string
			for _, c := range r.demands {
				d = append(d, strings.Replace(strings.Replace(c.demand(), "group:", "groups:", 1), "device:", "devices:", 1))
			}
			fmt.Fprintf(&b, "    require: {%s}\n    deny: {block: %s}\n", strings.Join(d, ", "), blockForm(r.deny))
		}
		if r.own {
			b.WriteString("    cname: ignore\n")
		}
		if r.shadow {
			b.WriteString("    mode: shadow\n")
		}
		if r.ecs {
			b.WriteString("    ecs: 203.0.113.0/24\n")
		}
		for _, w := range strings.Split(r.window, ", ") {
			b.WriteString("    " + w + "\n")
		}
		then := r.then
		switch {
		case then == "steer":
			then = "{steer: there, ports: [tcp/443]}"
		case then == "override":
			then = "{override: {a: 10.9.9.9}}"
		case slices.Contains(blockForms, then):
			then = fmt.Sprintf("{block: %s}", blockForm(then))
		case r.upstream() != "":
			then = fmt.Sprintf("{resolve: %s}", then)
		}
		fmt.Fprintf(&b, "    then: %s\n", then)
	}
	b.WriteString("defaults:\n")
	for _, d := range p.defaults {
		then := d.then
		if then != "allow" {
			then = fmt.Sprintf("{block: %s}", blockForm(then))
		}
		b.WriteString("  - {")
		for _, c := range d.conds {
			fmt.Fprintf(&b, "%s: %s, ", c.op, c.val)
		}
		fmt.Fprintf(&b, "then: %s, learn: %v}\n", then, d.learn)
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
	case "names":
		return fmt.Sprintf("{name: %s}", c.val)
	case "country", "continent", "asn", "cname", "mx", "ns", "ptr", "txt":
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

// modelLists are lists that take names out of what they cover.
const modelLists = `lists:
  excepting: {file: excepting.txt, format: adblock}
  zone:      {file: zone.rpz, format: rpz}`

var blockForms = []string{"refused", "nxdomain", "nodata", "zero-ip", "drop", "page", "address"}

func blockForm(form string) string {
	if form == "address" {
		return "{address: 10.0.0.9}"
	}
	return form
}
