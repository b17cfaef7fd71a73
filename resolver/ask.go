package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// A Dial makes connections to nodes, like [net.Dialer.Dial] but for addresses
// only. A "udp" connection keeps the boundaries of messages.
type Dial = func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error)

// tries are when a question to a node is sent, and sent again if nothing came
// back; patience is when it is given up. An answer to any of them will do. An
// egress that has only bad news takes up to 2.5 s.
var tries = [...]time.Duration{0, 800 * time.Millisecond, 1800 * time.Millisecond}

const patience = 3 * time.Second

// AskNode asks another node a question: over UDP, and over TCP if the answer
// is truncated or the question too long. The route and the facts are said in
// private options, if there are any. Errors wrap [ErrNoAnswer], or the
// context's error if it is done first.
func AskNode(ctx context.Context, dial Dial, addr netip.AddrPort, q Question, route string, facts Facts) (*NodeReply, error) {
	return askNode(ctx, dial, addr, q, private{route: route, facts: facts})
}

func askNode(ctx context.Context, dial Dial, addr netip.AddrPort, q Question, say private) (*NodeReply, error) {
	m := q.message()
	m.Extra = nil
	m.SetEdns0(udpSize, q.DO)
	opt := m.IsEdns0()
	opt.Option = append(say.options(), &dns.EDNS0_NSID{Code: dns.EDNS0NSID})
	r, err := exchange(ctx, dial, addr, m)
	if err != nil {
		return nil, fmt.Errorf("asking node %s for %s: %w", addr, q.Name, err)
	}
	p, err := readPrivate(r.IsEdns0())
	if err != nil {
		return nil, fmt.Errorf("asking node %s for %s: %w: %w", addr, q.Name, ErrNoAnswer, err)
	}
	reply := &NodeReply{Msg: r, Node: p.node, Journal: p.journal}
	for _, rr := range r.Answer {
		if a, ok := addressOf(rr); ok && rr.Header().Rrtype == q.Type && sameName(rr.Header().Name, q.Name) {
			reply.Addrs = append(reply.Addrs, a)
		}
	}
	return reply, nil
}

// exchange sends a message to a node and returns the answer to it.
func exchange(ctx context.Context, dial Dial, addr netip.AddrPort, m *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, ErrNoAnswer)
	defer cancel()
	m.Id = dns.Id()
	wire, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("packing: %w", err)
	}
	var r *dns.Msg
	if len(wire) <= udpSize {
		r, err = over(ctx, dial, "udp", addr, m, wire, overUDP)
	}
	if len(wire) > udpSize || err == nil && r.Truncated {
		r, err = over(ctx, dial, "tcp", addr, m, wire, overTCP)
	}
	switch {
	case err == nil:
		return r, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, ErrLinkDown):
		return nil, err
	default:
		return nil, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
}

type transport = func(c net.Conn, m *dns.Msg, wire []byte) (*dns.Msg, error)

func over(ctx context.Context, dial Dial, network string, addr netip.AddrPort, m *dns.Msg, wire []byte, t transport) (*dns.Msg, error) {
	conn, err := dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	return t(conn, m, wire)
}

// overUDP sends the question, again and again, and waits for the answer. All
// of it has one id and one port: a late answer to the first is welcome, and
// nobody but the node can speak on a link.
func overUDP(c net.Conn, m *dns.Msg, wire []byte) (*dns.Msg, error) {
	start := time.Now()
	buf := make([]byte, 8192)
	for i := range tries {
		if _, err := c.Write(wire); err != nil {
			return nil, err
		}
		until := patience
		if i+1 < len(tries) {
			until = tries[i+1]
		}
		c.SetReadDeadline(start.Add(until))
		r, err := await(c, buf, m)
		var timeout net.Error
		if err == nil || !errors.As(err, &timeout) || !timeout.Timeout() {
			return r, err
		}
	}
	return nil, errors.New("no answer in time")
}

// await reads until the answer to m comes or the deadline.
func await(c net.Conn, buf []byte, m *dns.Msg) (*dns.Msg, error) {
	for {
		n, err := c.Read(buf)
		if err != nil {
			return nil, err
		}
		r := new(dns.Msg)
		if err := r.Unpack(buf[:n]); (err == nil || r.Truncated) && isReply(m, r) {
			return r, nil
		}
	}
}

func overTCP(c net.Conn, m *dns.Msg, wire []byte) (*dns.Msg, error) {
	b := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(wire)), uint16(len(wire)))
	if _, err := c.Write(append(b, wire...)); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(c, buf); err != nil {
		return nil, err
	}
	r := new(dns.Msg)
	if err := r.Unpack(buf); err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if !isReply(m, r) || r.Truncated {
		return nil, errors.New("an answer to another question")
	}
	return r, nil
}

// isReply reports whether r answers m.
func isReply(m, r *dns.Msg) bool {
	if !r.Response || r.Id != m.Id || len(r.Question) != 1 {
		return false
	}
	a, b := m.Question[0], r.Question[0]
	return a.Qtype == b.Qtype && a.Qclass == b.Qclass && strings.EqualFold(a.Name, b.Name)
}

// NodeName, in class CH, is what nodes ask each other to see whether the link works.
const NodeName = "node.starferry"

// A NodeInfo is what a node says of itself.
type NodeInfo struct {
	Name, Role string
	Journal    uint64
	Version    string
}

// outcome is the answer to CH TXT node.starferry.
func (n NodeInfo) outcome(in *inbound) *outcome {
	o := &outcome{action: Local, options: private{journal: n.Journal, node: n.Name}.options()}
	if in.Type != dns.TypeTXT && in.Type != dns.TypeANY {
		return o
	}
	o.answer = []dns.RR{in.texts([]string{"name=" + n.Name, "role=" + n.Role, fmt.Sprintf("journal=%016x", n.Journal), "version=" + n.Version})}
	return o
}

// Probe asks a node who it is. An answer shows that the link to it works in
// both directions and that its DNS service does. The id of the asking process
// tells the other that this one has restarted.
func Probe(ctx context.Context, dial Dial, addr netip.AddrPort, run uint64) (NodeInfo, error) {
	var n NodeInfo
	r, err := askNode(ctx, dial, addr, Question{Name: NodeName, Type: dns.TypeTXT, Class: dns.ClassCHAOS}, private{run: run})
	if err != nil {
		return n, err
	}
	if len(r.Msg.Answer) != 1 {
		return n, fmt.Errorf("asking node %s who it is: %w: got %s", addr, ErrNoAnswer, dns.RcodeToString[r.Msg.Rcode])
	}
	t, _ := r.Msg.Answer[0].(*dns.TXT)
	if t == nil {
		return n, fmt.Errorf("asking node %s who it is: %w: not a text", addr, ErrNoAnswer)
	}
	for _, s := range t.Txt {
		switch k, v, _ := strings.Cut(s, "="); k {
		case "name":
			n.Name = v
		case "role":
			n.Role = v
		case "journal":
			n.Journal, _ = strconv.ParseUint(v, 16, 64)
		case "version":
			n.Version = v
		}
	}
	return n, nil
}

// AskWay asks a node which way a name takes from there on a route, for those
// who explain.
func AskWay(ctx context.Context, dial Dial, addr netip.AddrPort, name, route string) ([]string, error) {
	q := Question{Name: name + explainSuffix, Type: dns.TypeTXT, Class: dns.ClassCHAOS}
	r, err := AskNode(ctx, dial, addr, q, route, nil)
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, rr := range r.Msg.Answer {
		if t, ok := rr.(*dns.TXT); ok {
			lines = append(lines, t.Txt...)
		}
	}
	return lines, nil
}
