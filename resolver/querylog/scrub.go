package querylog

import "encoding/binary"

// Of a message, as RFC 1035 and RFC 6891 lay it out.
const (
	headerLen = 12
	typeOPT   = 41
	optionEDE = 15 // RFC 8914
	maxNames  = 128
)

// scrub overwrites with zeros all that the options of a message say, since they
// may tell who asked: client subnets (RFC 7871), cookies (RFC 7873), what a
// forwarder adds for its clients, and the texts of extended errors. Of these the
// code stays. It reports false for what it cannot read to the end.
func scrub(msg []byte) bool {
	if len(msg) < headerLen {
		return false
	}
	at := headerLen
	for range binary.BigEndian.Uint16(msg[4:]) {
		if at = skipName(msg, at); at < 0 || at+4 > len(msg) {
			return false
		}
		at += 4
	}
	records := 0
	for _, section := range []int{6, 8, 10} {
		records += int(binary.BigEndian.Uint16(msg[section:]))
	}
	for range records {
		if at = skipName(msg, at); at < 0 || at+10 > len(msg) {
			return false
		}
		kind, data := binary.BigEndian.Uint16(msg[at:]), at+10
		if at = data + int(binary.BigEndian.Uint16(msg[at+8:])); at > len(msg) {
			return false
		}
		if kind == typeOPT && !scrubOptions(msg[data:at]) {
			return false
		}
	}
	return at == len(msg)
}

func scrubOptions(opts []byte) bool {
	for len(opts) > 0 {
		if len(opts) < 4 {
			return false
		}
		code, end := binary.BigEndian.Uint16(opts), 4+int(binary.BigEndian.Uint16(opts[2:]))
		if end > len(opts) {
			return false
		}
		from := 4
		if code == optionEDE {
			from = min(6, end)
		}
		clear(opts[from:end])
		opts = opts[end:]
	}
	return true
}

// skipName returns where the name that begins at a place ends, or -1.
func skipName(msg []byte, at int) int {
	for range maxNames {
		if at >= len(msg) {
			return -1
		}
		switch n := int(msg[at]); {
		case n == 0:
			return at + 1
		case n >= 0xc0:
			return at + 2
		case n >= 0x40:
			return -1
		default:
			at += 1 + n
		}
	}
	return -1
}
