// Package cookie is the server's side of DNS cookies (RFC 7873), made so that
// all servers that share a secret know each other's (RFC 9018): a client that
// brings one back can be reached at the address that it asks from, and so needs
// none of the restraint that forged sources need.
//
// A cookie is 16 bytes: version 1, three reserved ones, the time in seconds,
// and SipHash-2-4 of all this, the client's own cookie and its address.
// Nothing is stored for a client.
//
// A cookie that is none of ours, or too old, is no reason to refuse: clients
// move, servers share addresses, secrets change. The asker is answered as one
// that has no cookie yet, and gets one (RFC 7873 section 5.2.4). Only where an
// answer would go to a network that gets too much, BADCOOKIE goes in its place:
// see package guard.
package cookie

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/dchest/siphash"

	"github.com/starferry/starferry/internal/lifecycle"
)

// Code is the option's code in EDNS.
const Code = 10

const (
	clientLen = 8  // RFC 7873 section 4
	serverLen = 16 // ours; others have 8 to 32
	optionLen = 4 + clientLen + serverLen
	version   = 1
)

// How old a cookie may be, how far ahead of our clock, and how old it is when
// a new one takes its place (RFC 9018 section 4.3), in seconds.
const (
	maxAge   = 3600
	maxAhead = 300
	renewAge = 1800
)

// A State is what an option says of the asker.
type State uint8

// The states.
const (
	None       State = iota // there is no option
	Malformed               // its length is impossible: to be answered with FORMERR (RFC 7873 section 5.2.2)
	ClientOnly              // the client has no cookie of ours yet
	Bad                     // the cookie is none of ours, too old, or of another address
	Good                    // the client has got what we sent to this address
)

// String returns the state as logs and metrics call it.
func (s State) String() string {
	return [...]string{"none", "malformed", "client-only", "bad", "good"}[s]
}

// A Secret is what cookies are made with. It has to be secret, and the same on
// all servers that answer at one address.
type Secret [16]byte

// A pair is a secret as SipHash takes it.
type pair struct{ k0, k1 uint64 }

// secrets are the one that cookies are made with, and all that they may have
// been made with.
type secrets []pair

// A Server makes and checks cookies. It is safe for concurrent use.
type Server struct {
	secrets atomic.Pointer[secrets]
}

// New makes a server with a secret of its own, which [Server.Run] changes.
func New() *Server {
	s := new(Server)
	s.set([]Secret{random()})
	return s
}

// NewShared makes a server that makes cookies with the first secret and accepts
// those of all. See [Read].
func NewShared(all ...Secret) (*Server, error) {
	s := new(Server)
	if err := s.Set(all...); err != nil {
		return nil, err
	}
	return s, nil
}

// Set changes the secrets, as when their file has changed.
func (s *Server) Set(all ...Secret) error {
	if len(all) == 0 || len(all) > maxSecrets {
		return fmt.Errorf("%d secrets: want 1 to %d", len(all), maxSecrets)
	}
	s.set(all)
	return nil
}

func (s *Server) set(all []Secret) {
	p := make(secrets, len(all))
	for i, secret := range all {
		p[i] = pair{binary.LittleEndian.Uint64(secret[:8]), binary.LittleEndian.Uint64(secret[8:])}
	}
	s.secrets.Store(&p)
}

// rotatePeriod is within the bounds of RFC 7873 section 7.1: no longer than 36
// days, and best about one.
const rotatePeriod = 24 * time.Hour

// Run gives the server a new secret every day until the context is done. The
// one before stays good, for much longer than the cookies made with it. It is
// not for servers that share their secret: whoever writes that changes it.
func (s *Server) Run(ctx context.Context) error {
	return lifecycle.Every(ctx, rotatePeriod, func() { s.rotate(random()) })
}

func (s *Server) rotate(to Secret) {
	next := secrets{{binary.LittleEndian.Uint64(to[:8]), binary.LittleEndian.Uint64(to[8:])}, (*s.secrets.Load())[0]}
	s.secrets.Store(&next)
}

func random() (s Secret) {
	_, _ = rand.Read(s[:]) // never fails
	return s
}

// Append reads the data of a client's COOKIE option, nil if there is none, and
// appends the whole option for the answer: code, length, the client's cookie
// and ours, the same again while it is young. If the state is None or Malformed
// nothing is appended.
func (s *Server) Append(dst, option []byte, client netip.Addr, now time.Time) (opt []byte, state State) {
	if option == nil {
		return dst, None
	}
	if n := len(option); n != clientLen && (n < 16 || n > 40) {
		return dst, Malformed
	}
	at, all := uint32(now.Unix()), *s.secrets.Load()
	in := newInput(option[:clientLen], client)
	state, fresh := ClientOnly, true
	if len(option) > clientLen {
		state, fresh = all.check(&in, option[clientLen:], at)
	}
	dst = append(dst, 0, Code, 0, clientLen+serverLen)
	if !fresh {
		return append(dst, option...), state
	}
	in.stamp(at)
	dst = append(dst, in.b[:clientLen+8]...)
	return binary.LittleEndian.AppendUint64(dst, in.hash(all[0])), state
}

// check judges a cookie of a server, and says whether a fresh one is due.
func (all secrets) check(in *input, cookie []byte, now uint32) (state State, fresh bool) {
	if len(cookie) != serverLen || cookie[0] != version {
		return Bad, true
	}
	// Serial number arithmetic (RFC 1982): the time of a cookie goes round in 2106.
	age := int32(now - binary.BigEndian.Uint32(cookie[4:]))
	if age > maxAge || age < -maxAhead {
		return Bad, true
	}
	// The reserved bytes go in as they came (RFC 9018 section 4.2).
	copy(in.b[clientLen:], cookie[:8])
	want := binary.LittleEndian.Uint64(cookie[8:])
	for i, secret := range all {
		if in.hash(secret) == want { // one comparison of words: takes the same time always
			return Good, i > 0 || age > renewAge || cookie[1]|cookie[2]|cookie[3] != 0
		}
	}
	return Bad, true
}

// An input is what is hashed (RFC 9018 section 4.4): the client's cookie,
// version, reserved bytes, time, and address of 4 or 16 bytes.
type input struct {
	b [clientLen + 8 + 16]byte
	n int
}

func newInput(cookie []byte, client netip.Addr) (in input) {
	copy(in.b[:], cookie)
	if client = client.Unmap(); client.Is4() {
		a := client.As4()
		in.n = clientLen + 8 + copy(in.b[clientLen+8:], a[:])
		return in
	}
	a := client.As16()
	in.n = clientLen + 8 + copy(in.b[clientLen+8:], a[:])
	return in
}

// stamp puts in what we make cookies with.
func (in *input) stamp(now uint32) {
	copy(in.b[clientLen:], []byte{version, 0, 0, 0})
	binary.BigEndian.PutUint32(in.b[clientLen+4:], now)
}

func (in *input) hash(p pair) uint64 { return siphash.Hash(p.k0, p.k1, in.b[:in.n]) }

// maxSecrets are those of a file: the one in use, the one to come, the one that was.
const maxSecrets = 3

// Read reads the secrets that a fleet of servers shares from a file: 32
// hexadecimal digits a line, as Unbound and NSD have it. Cookies are made with
// the first and those of all are good, so that a change in three steps
// breaks none: append the new one on all servers; then swap the two; an hour
// later take the old one away. Empty lines and lines with "#" do not count.
func Read(r io.Reader) ([]Secret, error) {
	b, err := io.ReadAll(io.LimitReader(r, 4096))
	if err != nil {
		return nil, fmt.Errorf("reading cookie secrets: %w", err)
	}
	var all []Secret
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		var s Secret
		if k, err := hex.Decode(s[:], []byte(line[:min(len(line), 2*len(s))])); err != nil || k != len(s) || len(line) != 2*len(s) {
			return nil, fmt.Errorf("cookie secrets: line %d is not a secret of 32 hexadecimal digits", n) // and shall not be in logs
		}
		all = append(all, s)
	}
	if len(all) == 0 || len(all) > maxSecrets {
		return nil, errors.New("cookie secrets: want 1 to 3, the one that cookies are made with first")
	}
	return all, nil
}
