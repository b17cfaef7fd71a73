package upstream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// udpSize is the answer that we take over UDP: no fragments (DNS flag day 2020).
const udpSize = 1232

// forgeries is how many answers to other questions than ours are read before
// the question goes over TCP, where guessing is of no use.
const forgeries = 16

var errForged = errors.New("answers to other questions than the one asked")

// exchange asks one server: over UDP, over TCP if it has to be, and without
// EDNS if the server does not know it (RFC 6891 section 7).
func exchange(ctx context.Context, dial Dial, server netip.AddrPort, k key) (*dns.Msg, error) {
	q := k.message(true)
	r, err := send(ctx, dial, server, q)
	if err == nil && r.IsEdns0() == nil && (r.Rcode == dns.RcodeFormatError || r.Rcode == dns.RcodeNotImplemented) {
		r, err = send(ctx, dial, server, k.message(false))
	}
	if err != nil {
		return nil, err
	}
	r.Extra = withoutOPT(r.Extra)
	r.Question = q.Question
	return r, nil
}

// message makes the message that goes out.
func (k key) message(edns bool) *dns.Msg {
	m := &dns.Msg{Question: []dns.Question{k.q}}
	m.Id, m.RecursionDesired, m.CheckingDisabled = dns.Id(), true, k.cd
	if edns {
		m.SetEdns0(udpSize, k.do)
	}
	return m
}

func withoutOPT(rrs []dns.RR) []dns.RR {
	kept := rrs[:0]
	for _, rr := range rrs {
		if rr.Header().Rrtype != dns.TypeOPT {
			kept = append(kept, rr)
		}
	}
	return kept
}

func send(ctx context.Context, dial Dial, server netip.AddrPort, q *dns.Msg) (*dns.Msg, error) {
	wire, err := q.Pack()
	if err != nil {
		return nil, fmt.Errorf("packing: %w", err)
	}
	r, err := over(ctx, dial, "udp", server, q, wire)
	if errors.Is(err, errForged) || err == nil && r.Truncated {
		r, err = over(ctx, dial, "tcp", server, q, wire)
	}
	if err == nil && r.Truncated {
		err = errors.New("a truncated answer over TCP")
	}
	return r, err
}

// over asks over one transport.
func over(ctx context.Context, dial Dial, network string, server netip.AddrPort, q *dns.Msg, wire []byte) (*dns.Msg, error) {
	conn, err := dial(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if network == "tcp" {
		r, err := overTCP(conn, q, wire)
		return r, timedOut(ctx, err)
	}
	r, err := overUDP(conn, q, wire)
	return r, timedOut(ctx, err)
}

// timedOut says of an error that came of our deadline just that.
func timedOut(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return errors.New("no answer in time")
	}
	return err
}

func overUDP(conn net.Conn, q *dns.Msg, wire []byte) (*dns.Msg, error) {
	if _, err := conn.Write(wire); err != nil {
		return nil, err
	}
	buf := make([]byte, 4096)
	for range forgeries {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		r := new(dns.Msg)
		// A message that is cut may be unreadable at its end; the header says so.
		if err := r.Unpack(buf[:n]); (err == nil || r.Truncated) && matches(q, r) {
			return r, nil
		}
	}
	return nil, errForged
}

func overTCP(conn net.Conn, q *dns.Msg, wire []byte) (*dns.Msg, error) {
	b := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(wire)), uint16(len(wire)))
	if _, err := conn.Write(append(b, wire...)); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, buf); err != nil {
		return nil, err
	}
	r := new(dns.Msg)
	if err := r.Unpack(buf); err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if !matches(q, r) {
		return nil, errForged
	}
	return r, nil
}

// matches reports whether r answers q. Only who refuses may leave out the
// question.
func matches(q, r *dns.Msg) bool {
	if !r.Response || r.Id != q.Id || r.Opcode != dns.OpcodeQuery {
		return false
	}
	if len(r.Question) == 0 {
		return failed(r) && len(r.Answer) == 0
	}
	a, b := q.Question[0], r.Question[0]
	return len(r.Question) == 1 && a.Qtype == b.Qtype && a.Qclass == b.Qclass && strings.EqualFold(a.Name, b.Name)
}
