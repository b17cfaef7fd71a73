package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/internal/yamlpos"
)

// A Forward is how a question goes upstream, and what is made of the answer.
type Forward struct {
	Upstream       string // the group of servers that is asked; empty: as the node's settings say
	ECS            ECS
	MinTTL, MaxTTL time.Duration // bounds of the answer's TTLs; zero: none
}

// An ECS is the client subnet that goes upstream with a question (RFC 7871).
// The zero value sends none.
type ECS struct {
	Subnet netip.Prefix // the same for all clients
	Client bool         // the client's own network: the answer is for that one alone
}

// The most that is told of a client's address (RFC 7871, section 11.1).
const (
	ecsBits4 = 24
	ecsBits6 = 56
)

// Of returns the network that is sent for a client; the zero Prefix for none.
// A private address would tell nothing to servers outside but how the company
// numbers its network.
func (e ECS) Of(client netip.Addr) netip.Prefix {
	client = client.Unmap().WithZone("")
	switch {
	case !e.Client:
		return e.Subnet
	case !client.IsGlobalUnicast(), client.IsPrivate(), sharedSpace.Contains(client):
		return netip.Prefix{}
	}
	bits := ecsBits4
	if client.Is6() {
		bits = ecsBits6
	}
	p, _ := client.Prefix(bits) // no address is shorter
	return p
}

// sharedSpace is used behind carriers' NAT and for overlays (RFC 6598).
var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")

// A LogKind says which answers of a policy the query log keeps.
type LogKind uint8

// The kinds of logging.
const (
	LogAll LogKind = iota
	LogBlocks
	LogNone
	LogSample
)

// Logging says what the query log keeps of what a policy decides. The zero
// value keeps all.
type Logging struct {
	Kind LogKind
	N    int // of LogSample: one in N
}

// Wants reports whether the log keeps an answer. blocked is true of blocks and
// denials; draw is a random number, by which samples are drawn.
func (l Logging) Wants(blocked bool, draw uint64) bool {
	switch l.Kind {
	case LogBlocks:
		return blocked
	case LogNone:
		return false
	case LogSample:
		return draw%uint64(max(l.N, 1)) == 0
	default:
		return true
	}
}

// Log says what the query log keeps of the decision; all of what no policy decided.
func (d *Decision) Log() Logging {
	if d.Rule == nil {
		return Logging{}
	}
	return d.Rule.Log
}

// readForward reads what goes with allow and resolve, and refuses it beside other actions.
func readForward(rule *yamlpos.Map, then *Then) {
	keys := []string{"ecs", "ttl"}
	if then.Action != Allow {
		for _, key := range keys {
			if rule.Has(key) && rule.Node("then") != nil {
				rule.KeyErrorf(key, "", "%s goes with allow and resolve only", key)
			}
		}
		return
	}
	then.ECS = yamlpos.Read(rule, "ecs", ECS{}, ecs)
	n := rule.Node("ttl")
	if n == nil {
		return
	}
	m := n.AsMap()
	then.MinTTL = yamlpos.Read(m, "min", 0, ttl)
	then.MaxTTL = yamlpos.Read(m, "max", 0, ttl)
	switch {
	case n.Kind != yamlpos.Mapping:
	case len(m.Keys()) == 0:
		n.Errorf("", "want min, max or both")
	case then.MaxTTL > 0 && then.MinTTL > then.MaxTTL:
		n.Errorf("", "min %v is more than max %v", then.MinTTL, then.MaxTTL)
	}
	m.Done()
}

func (c *compiler) readResolve(n *yamlpos.Node) Then {
	then := Then{Action: Allow}
	if then.Upstream = yamlpos.Value(n, "", device.ParseName); then.Upstream != "" {
		c.policy.upstreams = append(c.policy.upstreams, Ref{then.Upstream, n.Pos()})
	}
	return then
}

// readOwn reads whether a policy is for the asked name alone.
func readOwn(rule *yamlpos.Map, ends bool) bool {
	if ends && rule.Has("cname") {
		rule.KeyErrorf("cname", "it is looked at once for the whole chain", "cname goes with conditions on names or answers")
	}
	return yamlpos.Read(rule, "cname", "check", yamlpos.OneOf("check", "ignore")) == "ignore" && !ends
}

// ecs parses off, client, or a network.
func ecs(s string) (ECS, error) {
	switch s {
	case "off":
		return ECS{}, nil
	case "client":
		return ECS{Client: true}, nil
	}
	p, err := prefix(s)
	if err != nil && looksNamed(s) {
		err = fmt.Errorf("%q is none of off, client and no network", s)
		return ECS{}, yamlpos.Hint(err, yamlpos.DidYouMean(s, []string{"off", "client"}))
	}
	return ECS{Subnet: p}, err
}

// logging parses all, blocks, none and sample(N).
func logging(s string) (Logging, error) {
	const most = 1_000_000
	words := []string{"all", "blocks", "none"}
	rest, sample := strings.CutPrefix(s, "sample")
	if !sample {
		i, err := yamlpos.Index(words...)(s)
		if err != nil {
			err = yamlpos.Hint(fmt.Errorf("%q is none of all, blocks, none, sample(N)", s), yamlpos.DidYouMean(s, words))
		}
		return Logging{Kind: LogKind(i)}, err
	}
	inner, opened := strings.CutPrefix(rest, "(")
	inner, closed := strings.CutSuffix(inner, ")")
	n, err := strconv.Atoi(inner)
	if err == nil && (!opened || !closed || n < 1 || n > most) {
		err = errors.New("out of range")
	}
	if err != nil {
		return Logging{}, yamlpos.Hint(fmt.Errorf("%q is no sample", s), "one in a hundred is sample(100); at most one in a million")
	}
	return Logging{Kind: LogSample, N: n}, nil
}
