package policy_test

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/policy"
)

func (c *modelCond) evalAnswer(h modelHop) truth {
	switch c.op {
	case "cname":
		return among(h.alias, func(n string) bool { return n == c.val || c.val == "{suffix: a.test}" && under(n, "a.test") })
	case "mx":
		return among(values(h.Hop, 15), func(n string) bool {
			return under(n, map[bool]string{true: "mail.test", false: "bad.example"}[c.val == "{suffix: mail.test}"])
		})
	case "ns":
		return among(values(h.Hop, 2), func(n string) bool {
			return n == "bad.example" || c.val == "{list: phishing}" && under(n, "bad.example")
		})
	case "ptr":
		return among(values(h.Hop, 12), func(n string) bool { return n == "a.mail.test" }) // of those that there are
	case "txt":
		return among(values(h.Hop, 16), func(s string) bool { return strings.HasPrefix(s, "v=spf1") })
	}
	best := isFalse
	if len(h.Addrs) == 0 {
		return isUnknown
	}
	for _, a := range h.Addrs {
		best = max(best, c.evalAddress(a.String()))
	}
	return best
}

// among is true if one of the values is so, and unknown if there is none.
func among(values []string, is func(string) bool) truth {
	if len(values) == 0 {
		return isUnknown
	}
	return yes(slices.ContainsFunc(values, is))
}

func values(h policy.Hop, typ uint16) (out []string) {
	for _, v := range h.Values {
		if v.Type == typ {
			out = append(out, v.Text)
		}
	}
	return out
}

func (c *modelCond) evalAddress(a string) truth {
	country := map[string]string{"203.0.113.9": "CN", "192.0.2.1": "US", "2001:db8:c::1": "CN"}[a]
	continent := map[string]string{"CN": "AS", "US": "NA"}[country]
	system := map[string]string{"203.0.113.9": "4134", "10.0.0.1": "AS64512"}[a]
	fact := map[string]string{"country": country, "continent": continent, "asn": system}
	switch {
	case c.op == "answers" && c.val == "china-networks":
		return yes(country == "CN")
	case c.op == "answers" && c.val == "203.0.113.0/24":
		return yes(a == "203.0.113.9")
	case c.op == "answers":
		return yes(a == c.val)
	case fact[c.op] == "":
		return isUnknown
	}
	return yes(has(c.val, fact[c.op]))
}

func under(n, d string) bool { return n == d || strings.HasSuffix(n, "."+d) }

func (c *modelCond) evalLeaf(q *policy.Query, h modelHop) truth {
	val := strings.Trim(c.val, `"`)
	dev := q.Asker.Device
	switch c.op {
	case "exact":
		return yes(h.Name == val)
	case "suffix":
		return yes(under(h.Name, val))
	case "pattern":
		labels, rest, _ := strings.Cut(val, ".")
		front, ok := strings.CutSuffix(h.Name, "."+rest)
		return yes(ok && (labels == "**" || !strings.Contains(front, ".")))
	case "list":
		if val == "rules" {
			return filtered(c.filters, q, h.Name)
		}
		return yes(slices.ContainsFunc(members(val), func(list string) bool { return listed(list, h.Name) }))
	case "names":
		return yes(named(val, h.Name))
	case "category":
		return yes(under(h.Name, "taobao.com") || under(h.Name, "jd.com") || under(h.Name, "phish.example") || under(h.Name, "bad.example"))
	case "regexp":
		switch val {
		case "a":
			return yes(h.Name == "a")
		case `.*\\.jd\\.com`:
			return yes(strings.HasSuffix(h.Name, ".jd.com"))
		}
		return yes((strings.HasPrefix(h.Name, "a.") || strings.HasPrefix(h.Name, "b.")) && strings.HasSuffix(h.Name, ".test"))
	case "group":
		return yes(dev != nil && slices.ContainsFunc(dev.Groups, func(g string) bool { return has(val, g) }))
	case "device":
		return yes(dev != nil && has(val, string(dev.ID)))
	case "kind":
		return yes(has(val, q.Asker.Kind.String()))
	case "identity":
		want, _ := device.ParseStrength(val)
		return yes(q.Asker.Kind.Strength() >= want)
	case "network":
		if !q.Asker.Source.IsValid() {
			return isUnknown
		}
		if val == "china-networks" {
			val = "203.0.113.0/24" // is what the list has of IPv4
		}
		return yes(netip.MustParsePrefix(val).Contains(q.Asker.Source))
	case "type":
		return yes(has(val, map[uint16]string{1: "A", 28: "AAAA", 16: "TXT", 65: "HTTPS", 99: "TYPE99"}[q.Type]))
	}
	return c.evalMore(q, val)
}

func (c *modelCond) evalMore(q *policy.Query, val string) truth {
	dev := q.Asker.Device
	switch c.op {
	case "user":
		return yes(dev != nil && dev.User != "" && has(val, dev.User))
	case "platform":
		if dev == nil || dev.Platform == "" {
			return isUnknown
		}
		return yes(has(strings.ToLower(val), strings.ToLower(dev.Platform)))
	case "listener":
		return yes(q.Asker.Listener != "" && has(val, q.Asker.Listener))
	case "transport":
		return yes(q.Asker.Transport != "" && strings.Contains(val, q.Asker.Transport))
	case "flow":
		return evalFlow(q, val)
	case "schedule":
		return yes(strings.Contains(val, "office") && inOffice(q.Now) || strings.Contains(val, "night") && inNight(q.Now) || strings.Contains(val, "New_York") && inSmallHours(q.Now))
	case "approval":
		end := map[string]time.Time{"2026-05-04": time.Date(2026, 5, 5, 0, 0, 0, 0, time.UTC), "2026-10-25T02:30:00+01:00": time.Date(2026, 10, 25, 1, 30, 0, 0, time.UTC)}[val]
		return yes(q.Now.Before(end))
	}
	return evalPosture(q, val)
}

func evalFlow(q *policy.Query, val string) truth {
	f := q.Flow
	switch {
	case f == nil:
		return isFalse
	case strings.HasPrefix(val, "{route:"):
		return isUnknown
	}
	return yes(map[string]bool{
		"{protocol: tcp}":                   f.Proto == 6,
		"{port: [80, 8000-8100]}":           f.Port == 80 || f.Port >= 8000 && f.Port <= 8100,
		"{protocol: icmp}":                  f.Proto == 1 || f.Proto == 58,
		"{protocol: [udp, tcp], port: 443}": (f.Proto == 6 || f.Proto == 17) && f.Port == 443,
		"go there, is there":                true,
	}[val])
}

func evalPosture(q *policy.Query, val string) truth {
	v, ok := q.Asker.Verdicts["laptop"]
	switch {
	case !ok || v.Result == posture.Unknown:
		if val == "unknown" {
			return isTrue
		}
		return isUnknown
	case v.Result == posture.Passed && q.Now.Before(v.Expires):
		return yes(val == "passed")
	default:
		return yes(val == "failed")
	}
}

// members are the words of a list, or one alone.
func members(val string) []string {
	words := strings.Split(strings.Trim(val, "[]"), ", ")
	for i, w := range words {
		words[i] = strings.Trim(w, `"`)
	}
	return words
}

// has reports whether a value that is written holds a word.
func has(val, word string) bool { return slices.Contains(members(val), word) }

// listed says what is in the lists of these tests. An exception takes its names
// out of what an adblock list covers, and in a zone the longer name counts.
func listed(list, n string) bool {
	switch list {
	case "china-sites":
		return under(n, "taobao.com") || under(n, "jd.com")
	case "excepting":
		return under(n, "test") && !under(n, "b.a.test")
	case "zone":
		return n == "d.test" || strings.HasSuffix(n, ".a.test") && n != "c.b.a.test"
	}
	return under(n, "phish.example") || under(n, "bad.example")
}

// named says what the mixed forms of names cover.
func named(val, n string) bool {
	switch {
	case strings.HasPrefix(val, "["):
		return n == "d.test" || strings.HasSuffix(n, ".a.test") && strings.Count(n, ".") == 2
	case strings.HasPrefix(val, "{exact"):
		return n == "d.test" || under(n, "b.a.test") || listed("zone", n)
	}
	return strings.HasSuffix(n, ".jd.com") || len(n) > 2 && strings.Contains("abc", n[:1]) && n[1] == '.' ||
		listed("china-sites", n) || listed("phishing", n)
}
