package local

import (
	"strings"

	"github.com/miekg/dns"
)

// A Zone is the records of a domain. It says what exists there: names that it
// does not have do not exist (NXDOMAIN), types that it does not have have no
// data. Wildcards are as RFC 4592 has them. See [ZoneBuilder] for making one.
type Zone struct {
	apex     string
	source   string
	nodes    map[string]*node
	negative *dns.SOA // as negative answers have it (RFC 2308 section 3)
}

// Name returns the name of the zone's apex.
func (z *Zone) Name() string { return z.apex }

// A node is the sets of records at a name, by type. One without any is there
// because of names under it (an empty non-terminal).
type node struct{ sets [][]dns.RR }

func (n *node) set(qtype uint16) []dns.RR {
	for _, s := range n.sets {
		if t := s[0].Header().Rrtype; t == qtype || t == dns.TypeCNAME || qtype == dns.TypeANY {
			return s // a CNAME is alone at its name
		}
	}
	return nil
}

func (z *Zone) answer(a *Answer, name string, qtype uint16) {
	n, wild := z.find(name)
	if n == nil {
		a.end(dns.RcodeNameError, z.negative, z.source)
		return
	}
	set, owner := n.set(qtype), ""
	if set == nil {
		a.end(dns.RcodeSuccess, z.negative, z.source)
		return
	}
	if wild {
		owner = name + "."
	}
	a.add(set, owner, qtype, z.source)
}

// find returns the node of a name, and whether it is that of the wildcard that
// stands for it: the one below the closest name that exists, and no other (RFC
// 4592 section 3.3.1).
func (z *Zone) find(name string) (n *node, wild bool) {
	if n := z.nodes[name]; n != nil {
		return n, false
	}
	for at := name; at != z.apex; {
		at = parent(at)
		if z.nodes[at] != nil || at == "" {
			return z.nodes["*."+at], true
		}
	}
	return nil, false
}

// parent returns a name without its first label, which may hold an escaped dot.
func parent(name string) string {
	i, end := dns.NextLabel(name, 0)
	if end {
		return ""
	}
	return name[i:]
}

// inside reports whether a name is the apex or lies under it.
func inside(name, apex string) bool {
	rest, ok := strings.CutSuffix(name, apex)
	if !ok || rest == "" {
		return ok
	}
	return rest[len(rest)-1] == '.' && !escaped(rest)
}

// escaped reports whether the final dot of a name is part of a label.
func escaped(name string) bool {
	n := 0
	for i := len(name) - 2; i >= 0 && name[i] == '\\'; i-- {
		n++
	}
	return n%2 == 1
}
