package querylog

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"
)

// Append appends the record as one line of JSON, with the newline.
func (r *Record) Append(b []byte) []byte {
	b = append(b, `{"time":"`...)
	b = appendTime(b, r.Time.UTC())
	b = append(b, `","took_ns":`...)
	b = strconv.AppendInt(b, int64(r.Took), 10)
	b = r.Client.append(b)
	b = r.Identity.append(b)
	b = r.Question.append(b)
	b = r.Verdict.append(b)
	b = r.Answer.append(b)
	if r.Privacy != Keep {
		b = appendText(b, "privacy", r.Privacy.String())
	}
	return append(b, '}', '\n')
}

// appendTime appends a time of UTC as RFC 3339 has it, with all nine digits, so
// that lines sort as text. Package time would read a layout for each.
func appendTime(b []byte, t time.Time) []byte {
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	b = append(appendDigits(b, year, 4), '-')
	b = append(appendDigits(b, int(month), 2), '-')
	b = append(appendDigits(b, day, 2), 'T')
	b = append(appendDigits(b, hour, 2), ':')
	b = append(appendDigits(b, minute, 2), ':')
	b = append(appendDigits(b, second, 2), '.')
	return append(appendDigits(b, t.Nanosecond(), 9), 'Z')
}

func appendDigits(b []byte, n, width int) []byte {
	b = append(b, "000000000"[:width]...)
	for i := len(b) - 1; n > 0 && i >= len(b)-width; i-- {
		b[i] = '0' + byte(n%10)
		n /= 10
	}
	return b
}

func (c *Client) append(b []byte) []byte {
	b = appendAddr(b, "client", c.Addr)
	if c.Port != 0 {
		b = appendInt(b, "port", int(c.Port))
	}
	b = appendWord(b, "listener", c.Listener)
	b = appendWord(b, "transport", c.Transport)
	return appendWord(b, "server_name", c.ServerName)
}

func (i *Identity) append(b []byte) []byte {
	b = appendWord(b, "device", i.Device)
	b = appendWord(b, "user", i.User)
	b = appendWord(b, "identity", i.Kind)
	b = appendWord(b, "strength", i.Strength)
	if len(i.Groups) > 0 {
		b = appendKey(b, "groups")
		for n, g := range i.Groups {
			b = appendString(append(b, before(n)), g)
		}
		b = append(b, ']')
	}
	if len(i.Posture) > 0 {
		b = appendKey(b, "posture")
		for n, p := range i.Posture {
			b = append(b, before(n), '"')
			b = appendEscaped(b, p.Profile)
			b = append(b, '=')
			b = append(appendEscaped(b, p.Result), '"')
		}
		b = append(b, ']')
	}
	return appendAddr(b, "source", i.Source)
}

func (q *Question) append(b []byte) []byte {
	b = appendText(b, "name", q.Name)
	b = appendText(b, "type", q.Type.String())
	b = appendText(b, "class", q.Class.String())
	b = appendTrue(b, "do", q.DO)
	return appendTrue(b, "cd", q.CD)
}

func (v *Verdict) append(b []byte) []byte {
	b = appendText(b, "action", v.Action)
	b = appendWord(b, "policy", v.Policy)
	b = appendWord(b, "reason", v.Reason)
	b = appendWord(b, "shadow", v.Shadow)
	b = appendTrue(b, "learned", v.Learn)
	b = appendWord(b, "route", v.Route)
	if len(v.Hops) == 0 {
		return b
	}
	b = appendKey(b, "hops")
	for n := range v.Hops {
		h := &v.Hops[n]
		b = append(b, before(n))
		b = append(b, `{"name":`...)
		b = appendString(b, h.Name)
		b = append(appendAddrs(b, "addrs", h.Addrs), '}')
	}
	return append(b, ']')
}

func (a *Answer) append(b []byte) []byte {
	b = appendText(b, "rcode", a.Rcode.String())
	if a.EDE >= 0 {
		b = appendInt(b, "ede", a.EDE)
	}
	b = appendAddrs(b, "answer", a.Addrs)
	b = appendWord(b, "cache", a.Cache)
	b = appendTrue(b, "stale", a.Stale)
	b = appendWord(b, "upstream", a.Upstream)
	if a.Size != 0 {
		b = appendInt(b, "size", a.Size)
	}
	return b
}

// before returns what stands before the n-th element of a list.
func before(n int) byte {
	if n == 0 {
		return '['
	}
	return ','
}

func appendKey(b []byte, key string) []byte {
	b = append(b, ',', '"')
	b = append(b, key...)
	return append(b, '"', ':')
}

func appendInt(b []byte, key string, n int) []byte {
	return strconv.AppendInt(appendKey(b, key), int64(n), 10)
}

func appendTrue(b []byte, key string, v bool) []byte {
	if !v {
		return b
	}
	return append(appendKey(b, key), "true"...)
}

func appendText(b []byte, key, s string) []byte { return appendString(appendKey(b, key), s) }

func appendWord(b []byte, key, s string) []byte {
	if s == "" {
		return b
	}
	return appendText(b, key, s)
}

func appendAddr(b []byte, key string, a netip.Addr) []byte {
	if !a.IsValid() {
		return b
	}
	return appendAddrText(appendKey(b, key), a)
}

func appendAddrs(b []byte, key string, addrs []netip.Addr) []byte {
	if len(addrs) == 0 {
		return b
	}
	b = appendKey(b, key)
	for n, a := range addrs {
		b = appendAddrText(append(b, before(n)), a)
	}
	return append(b, ']')
}

func appendAddrText(b []byte, a netip.Addr) []byte {
	if a.Zone() != "" { // the name of an interface may hold anything
		return appendString(b, a.String())
	}
	b = append(b, '"')
	if a.IsValid() {
		b = a.AppendTo(b)
	}
	return append(b, '"')
}

func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	return append(appendEscaped(b, s), '"')
}

// appendEscaped appends what stands between the quotes of a JSON string. Besides
// what RFC 8259 section 7 demands, it escapes DEL and the C1 control characters,
// so that a line does no harm to a terminal.
func appendEscaped(b []byte, s string) []byte {
	from := 0
	for i := 0; i < len(s); {
		if c := s[i]; c >= ' ' && c < 0x7f && c != '"' && c != '\\' {
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r >= 0xa0 && (r != utf8.RuneError || n > 1) {
			i += n
			continue
		}
		b = append(b, s[from:i]...)
		switch {
		case r == utf8.RuneError:
			b = append(b, "\uFFFD"...)
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		default:
			b = appendUnicode(b, byte(r))
		}
		i += n
		from = i
	}
	return append(b, s[from:]...)
}

func appendUnicode(b []byte, c byte) []byte {
	const hex = "0123456789abcdef"
	return append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
}

var errNoRecord = errors.New("not a record: it has no time")

// Parse reads a line that [Record.Append] wrote. Keys that it does not know are
// ignored: they are of a later version.
func Parse(line []byte) (Record, error) {
	r := Record{Question: Question{Class: 1}, Answer: Answer{EDE: -1}}
	if err := json.Unmarshal(line, &r); err != nil {
		return Record{}, err
	}
	if r.Time.IsZero() {
		return Record{}, errNoRecord
	}
	if y := r.Time.UTC().Year(); y < 0 || y > 9999 {
		return Record{}, errNoRecord
	}
	r.Time = r.Time.In(time.UTC)
	r.EDE = max(r.EDE, -1)
	return r, nil
}
