package resolver

import (
	"net/netip"
	"strings"
	"unicode/utf8"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/resolver/cache"
	"github.com/starferry/starferry/resolver/wire"
)

// udpSize is what we offer to take over UDP (DNS flag day 2020).
const udpSize = 1232

// edeText bounds the text of an extended error: the answer shall fit.
const edeText = 200

// Codes of extended errors beyond those that have a better name in place.
const (
	edeOther    = dns.ExtendedErrorCodeOther
	edeForged   = dns.ExtendedErrorCodeForgedAnswer
	edeBlocked  = dns.ExtendedErrorCodeBlocked
	edeDenied   = dns.ExtendedErrorCodeProhibited
	edeNoAnswer = dns.ExtendedErrorCodeNoReachableAuthority
	edeLinkDown = dns.ExtendedErrorCodeNetworkError
	edeBadType  = 30 // Invalid Query Type
)

// An inbound is a question as it came. Plain ones are read in place, and
// unpacked only if their answer has to be made record by record.
type inbound struct {
	Question
	plain wire.Question // its Req is nil if the question is not plain: then there are options only
	msg   *dns.Msg
	opt   *dns.OPT // nil: the asker does not know EDNS, or the question was not unpacked
}

// read is [parse] for those that answer plain questions without unpacking them.
// It begins with the zero inbound. If it reports false, resp is what to answer.
func (in *inbound) read(req []byte) (resp []byte, ok bool) {
	q, ok := wire.Parse(req)
	if !ok {
		other, resp := parse(req)
		if other == nil {
			return resp, false
		}
		*in = *other
		opt, _ := wire.OPT(req)
		in.plain.Options = opt.Options
		return nil, true
	}
	var text [256]byte // what is written otherwise than it is takes more, and is rare
	in.plain = q
	in.Question = Question{Name: string(wire.AppendText(text[:0], q.Name)), Type: q.Type, Class: q.Class, DO: q.DO, CD: q.CD}
	return nil, true
}

// unpack makes sure that the question is there in the library's form.
func (in *inbound) unpack() {
	if in.msg != nil {
		return
	}
	in.msg = new(dns.Msg)
	if err := in.msg.Unpack(in.plain.Req); err != nil { // an option that only the library minds
		in.msg = &dns.Msg{Question: []dns.Question{{Name: in.Name + ".", Qtype: in.Type, Qclass: in.Class}}}
		in.msg.Id, in.msg.RecursionDesired, in.msg.AuthenticatedData = in.plain.ID(), in.plain.RD, in.plain.AD
	}
	if in.plain.EDNS {
		in.opt = &dns.OPT{}
	}
}

// option returns the data of the first EDNS option of a code; nil if there is
// none.
func (in *inbound) option(code uint16) []byte { return in.plain.Option(code) }

// parse reads a request. If it is none that can be handled, resp is what to
// answer: nil for silence.
func parse(req []byte) (in *inbound, resp []byte) {
	m := new(dns.Msg)
	if err := m.Unpack(req); err != nil || len(m.Question) != 1 {
		return nil, malformed(req, dns.RcodeFormatError)
	}
	if m.Response {
		return nil, nil
	}
	in = &inbound{Question: question(m), msg: m}
	for _, rr := range m.Extra {
		opt, ok := rr.(*dns.OPT)
		if !ok {
			continue
		}
		if in.opt != nil || opt.Hdr.Name != "." { // RFC 6891 section 6.1.1
			return nil, malformed(req, dns.RcodeFormatError)
		}
		in.opt = opt
	}
	if in.opt != nil {
		in.DO = in.opt.Do()
		if in.opt.Version() != 0 {
			return nil, in.pack(&outcome{rcode: dns.RcodeBadVers})
		}
	}
	return in, nil
}

// malformed answers what cannot be read, unless it is an answer itself.
func malformed(req []byte, rcode int) []byte {
	if len(req) < wire.HeaderLen || req[2]&0x80 != 0 {
		return nil
	}
	resp, _ := wire.Refusal(req, rcode)
	return resp
}

// An outcome is what comes of a question, before it is a message.
type outcome struct {
	action     Action
	rcode      int
	sent       sending
	answer, ns []dns.RR
	extra      []dns.RR
	ad         bool // upstream validated the answer

	reply *cache.Reply // what upstream said, as it is, instead of records
	span  wire.Span    // for its TTLs

	ede     bool // there is an extended error
	code    uint16
	text    string
	kept    bool        // the error was kept from before, which is said besides
	options []dns.EDNS0 // for nodes

	route string     // by which it was steered, or would have been
	addr  netip.Addr // of a steered answer
}

// A sending is how much of an answer is sent.
type sending uint8

const (
	whole   sending = iota
	short           // nothing but that it is truncated, so that the asker comes again over TCP
	nothing         // no answer at all
)

// explained adds an extended error.
func (o *outcome) explained(code uint16, text string) *outcome {
	o.ede, o.code, o.text = true, code, text
	return o
}

// pack makes the answer of an outcome; nil for silence.
func (in *inbound) pack(o *outcome) []byte {
	switch {
	case o.sent == nothing:
		return nil
	case o.reply != nil && in.plain.Req != nil && len(o.options) == 0:
		return in.packReply(o)
	case o.reply != nil:
		m := o.reply.Msg()
		o.answer, o.ns, o.extra, o.ad = m.Answer, m.Ns, m.Extra, o.reply.AD
	}
	in.unpack()
	m := &dns.Msg{Question: in.msg.Question, Answer: o.answer, Ns: o.ns, Extra: o.extra, Compress: true}
	m.Id, m.Response, m.Rcode, m.Truncated = in.msg.Id, true, o.rcode, o.sent == short
	m.RecursionDesired, m.RecursionAvailable = in.msg.RecursionDesired, true
	m.CheckingDisabled = in.CD
	m.AuthenticatedData = o.ad && (in.DO || in.msg.AuthenticatedData) // RFC 6840 section 5.8
	if in.opt != nil {
		m.Extra = append(m.Extra[:len(m.Extra):len(m.Extra)], in.reply(o))
	}
	b, err := m.Pack()
	if err != nil { // upstream's records are what cannot be packed, if anything
		m.Answer, m.Ns, m.Extra, m.Rcode = nil, nil, nil, dns.RcodeServerFailure
		b, _ = m.Pack()
	}
	return b
}

// packReply makes the answer of what upstream said.
func (in *inbound) packReply(o *outcome) []byte {
	b := make([]byte, 0, in.plain.End+len(o.reply.Answer.Msg)-o.reply.Body+16+edeText)
	b = o.reply.Append(b, &in.plain, o.span)
	return wire.AppendOPT(b, 0, &in.plain, o.rcode, &wire.Explanation{Given: o.ede, Code: o.code, Text: shorten(o.text, edeText)})
}

// reply makes the OPT record of an answer.
func (in *inbound) reply(o *outcome) *dns.OPT {
	opt := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
	opt.SetUDPSize(udpSize)
	if in.DO {
		opt.SetDo()
	}
	opt.Option = append(opt.Option, o.options...)
	if o.ede {
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: o.code, ExtraText: shorten(o.text, edeText)})
	}
	if o.kept {
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeCachedError})
	}
	return opt
}

// shorten cuts a text to n bytes and to whole characters.
func shorten(s string, n int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= n {
		return s
	}
	n -= len("…")
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// extended returns the extended error of another node's answer.
func extended(m *dns.Msg) (code uint16, text string, ok bool) {
	if o := m.IsEdns0(); o != nil {
		for _, opt := range o.Option {
			if e, ok := opt.(*dns.EDNS0_EDE); ok {
				return e.InfoCode, e.ExtraText, true
			}
		}
	}
	return 0, "", false
}

// texts makes one TXT record of several strings, in order. A string longer
// than the 255 bytes that one can hold goes on in the next.
func (q Question) texts(lines []string) dns.RR {
	t := &dns.TXT{Hdr: q.header(0)}
	t.Hdr.Rrtype = dns.TypeTXT
	for _, l := range lines {
		l = strings.ToValidUTF8(l, "?")
		for len(l) > 255 {
			n := 255
			for !utf8.RuneStart(l[n]) {
				n--
			}
			t.Txt, l = append(t.Txt, escape(l[:n])), l[n:]
		}
		t.Txt = append(t.Txt, escape(l))
	}
	return t
}

// escape writes a string as the library wants it, which reads backslashes.
func escape(s string) string { return strings.ReplaceAll(s, `\`, `\\`) }

// sameName reports whether a record's owner, as the library writes it, is a
// name as we do.
func sameName(owner, name string) bool {
	return len(owner) == len(name)+1 && strings.EqualFold(owner[:len(name)], name)
}
