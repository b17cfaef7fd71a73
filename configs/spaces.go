package configs

import (
	"net/netip"

	"github.com/starferry/starferry/internal/yamlpos"
)

// A space is the class that browsers give an address in Local Network Access: a
// page that came from a public address may load what is local only after asking
// the user, and what is loopback likewise.
type space uint8

const (
	public space = iota
	local
	loopback
)

var spaces = [...]string{"public", "local", "loopback"}

func (s space) String() string { return spaces[s] }

// notPublic are the ranges that Chromium or Firefox take for other than public,
// as measured with Chromium 156 and Firefox ESR 153; where they differ, the
// narrower of the two stands here.
var notPublic = []struct {
	prefix netip.Prefix
	space  space
}{
	{netip.MustParsePrefix("127.0.0.0/8"), loopback},
	{netip.MustParsePrefix("::1/128"), loopback},
	{netip.MustParsePrefix("10.0.0.0/8"), local},
	{netip.MustParsePrefix("100.64.0.0/10"), local},
	{netip.MustParsePrefix("169.254.0.0/16"), local},
	{netip.MustParsePrefix("172.16.0.0/12"), local},
	{netip.MustParsePrefix("192.168.0.0/16"), local},
	{netip.MustParsePrefix("fc00::/7"), local},
	{netip.MustParsePrefix("fe80::/10"), local},
	{netip.MustParsePrefix("2001:db8::/32"), local}, // Chromium; public in Firefox
	{netip.MustParsePrefix("3fff::/20"), local},     // Chromium; public in Firefox
}

var classE = netip.MustParsePrefix("240.0.0.0/4")

func spaceOf(p netip.Prefix) space {
	for _, r := range notPublic {
		if r.prefix.Overlaps(p) {
			return r.space
		}
	}
	return public
}

// checkSpaces looks at the pool that browsers see. Pools of two classes would
// make a page's parts local or not by the family that a connection happened to
// take; a local one gives each steered site a way to the company's own network.
func (r *reader) checkSpaces(m *yamlpos.Map, pool []netip.Prefix) {
	if len(pool) == 0 {
		return
	}
	at := m.Node("pool")
	first := spaceOf(pool[0])
	for _, p := range pool {
		s := spaceOf(p)
		switch {
		case s == loopback:
			at.Errorf("", "%s is loopback: it never leaves the device", p)
		case s != first:
			at.Errorf("take both from one class, such as 198.19.0.0/18 and 2001:2:0:1000::/52",
				"browsers call %s %v and %s %v", pool[0], first, p, s)
		case s == local:
			r.warnLocal(at, p)
		}
		if p.Overlaps(classE) {
			r.warn(at.Pos(), "pool %s: Windows does not send to 240.0.0.0/4; give devices another range", p)
		}
	}
}

func (r *reader) warnLocal(at *yamlpos.Node, p netip.Prefix) {
	r.warn(at.Pos(), "pool %s: browsers call it local: public pages cannot load steered parts without asking, "+
		"and steered pages reach the local network unasked; better is a public range", p)
}
