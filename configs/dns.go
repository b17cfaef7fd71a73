package configs

import (
	"net/netip"
	"slices"
	"time"

	"github.com/starferry/starferry/internal/yamlpos"
)

// DNS says how a gateway is asked, and what it does with answers on their way.
type DNS struct {
	Listen       []netip.AddrPort // plain, for offices; the node address is served besides
	TLS          []netip.AddrPort // DNS over TLS (RFC 7858)
	HTTPS        HTTPS
	Certificates []Certificate
	ServerName   string         // a label below it names a device; empty: no name does
	Forwarders   []netip.Prefix // whose EDNS options name devices
	Sockets      int            // UDP sockets of a listener; 0: one for each core
	Limits       Limits
	RateLimit    RateLimit
	Cookies      Cookies
	Cache        Cache
	Local        Local
	Rebinding    Rebinding
	BlockPage    BlockPage
	Chaos        Chaos
}

// listeners returns how policies call the listeners, but for link.
func (d *DNS) listeners() (names []string) {
	for _, at := range slices.Concat(d.Listen, d.TLS, d.HTTPS.Listen, d.HTTPS.BehindProxy) {
		names = append(names, at.String())
	}
	return names
}

// HTTPS is where DNS over HTTPS is served (RFC 8484).
type HTTPS struct {
	Listen         []netip.AddrPort
	Path           string           // begins with a slash and does not end with one; a device's token may follow after one
	BehindProxy    []netip.AddrPort // in plain HTTP, for a reverse proxy
	TrustedProxies []netip.Prefix   // whose X-Forwarded-For is believed; others are refused behind a proxy
}

// A Certificate is a pair of PEM files, read again when they change.
type Certificate struct {
	Cert, Key string // paths
	At        yamlpos.Pos
}

// Limits bound what the clients of one listener can take.
type Limits struct {
	UDPSize        int // bytes of the longest answer
	InWork         int // questions
	InWorkByClient int
	Conns          int
	ConnsByClient  int
	Pipeline       int           // questions in work over one connection
	Idle           time.Duration // after which a connection without questions is closed
}

// A Rate is a token bucket. The zero Rate is no limit.
type Rate struct {
	PerSecond, Burst int
}

// RateLimit bounds what is asked, and how often one answer is given. Its zero
// value is no limit at all.
type RateLimit struct {
	Client    Rate           // questions of an IPv4 address or an IPv6 /64
	Network   Rate           // questions of an IPv4 /24 or an IPv6 /56
	Responses int            // equal answers a second over UDP to an IPv4 /24 or an IPv6 /56; 0: no limit
	Slip      int            // of answers over this limit, each n-th is sent cut off (TC); 0: none
	Exempt    []netip.Prefix // nil: this machine's own, loopback addresses
}

// Cookies says whether EDNS cookies (RFC 7873, RFC 9018) are given out.
type Cookies struct {
	On         bool
	SecretFile string // shared by a fleet; empty: a secret of the node's own
}

// Cache bounds what is kept of answers from outside. With Size 0 nothing is.
type Cache struct {
	Size        int64 // bytes
	MinTTL      time.Duration
	MaxTTL      time.Duration
	MaxNegative time.Duration // of what does not exist (RFC 2308)
	ServeStale  time.Duration // how long after its TTL an answer may still serve where no resolver answers (RFC 8767); 0: not at all
	StaleTTL    time.Duration // of an answer that is served so
	Prefetch    bool          // popular names are asked again before they expire
}

// Local are the names that are answered without asking anybody.
type Local struct {
	Zones      []Zone
	Hosts      []string // paths of files in the form of /etc/hosts
	SpecialUse bool     // the names of RFC 6761 and its like
	Except     []string // suffixes that are asked about all the same
}

// A Zone is a domain whose records are in a master file (RFC 1035 section 5).
type Zone struct {
	Name string // lower case, without the final dot
	File string // path
	At   yamlpos.Pos
}

// Rebinding says which answers are refused because they would lead a public
// name to a private address.
type Rebinding struct {
	Protect  bool
	Except   []string       // suffixes whose names may have private addresses
	Networks []netip.Prefix // that count as private besides those that are
}

// A BlockPage is what people see in place of a blocked site over plain HTTP.
type BlockPage struct {
	Address []netip.Addr     // that blocked names get; empty: there is no such page
	Listen  []netip.AddrPort // empty: somebody else serves it
	Contact string           // whom to ask, shown on the page
}

// Chaos are the answers to questions of class CH about the server itself;
// empty ones are refused.
type Chaos struct {
	Version  string // version.bind, version.server
	Hostname string // hostname.bind, id.server
}

// A QueryLog says where questions and their answers are written down.
type QueryLog struct {
	File     string        // path of JSON lines; empty: none
	MaxSize  int64         // bytes after which another file is begun
	MaxAge   time.Duration // after which another file is begun
	Keep     int           // files besides the one that is written
	Compress bool          // of these
	Dnstap   Dnstap
	Privacy  string // of who asks: keep, hash or drop
	KeyFile  string // path of the key of hash
}

// Dnstap is where frames of dnstap go. The zero Dnstap is nowhere.
type Dnstap struct {
	Network string // unix, tcp or file
	Address string // a path, or host:port of tcp
}
