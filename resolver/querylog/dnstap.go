package querylog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	dnstap "github.com/dnstap/golang-dnstap"
	framestream "github.com/farsightsec/golang-framestream"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// tapTimeout is how long a peer may take for a connection, a handshake or for
// what was written to it.
const tapTimeout = 5 * time.Second

// A tap is the sink of dnstap messages in frame streams. The library's own
// writer to sockets waits without end for its peer, so that only its messages
// and its framing are used here.
type tap struct {
	*shelf           // of a file; nil: a connection
	network, address string
	maxSize          int64
	identity         []byte
	version          []byte

	w      *framestream.Writer // nil: not open
	below  io.Closer
	size   int64
	unhook func() bool
	buf    []byte
}

var errDnstapPlaces = errors.New("dnstap goes to one place: a socket, an address or a file")

// newTap returns nil if there is no dnstap.
func newTap(c *Config) (*tap, error) {
	t := &tap{maxSize: c.MaxSize, identity: []byte(c.Dnstap.Identity), version: []byte(c.Dnstap.Version)}
	places := 0
	if c.Dnstap.Socket != "" {
		t.network, t.address = "unix", c.Dnstap.Socket
		places++
	}
	if c.Dnstap.TCP != "" {
		t.network, t.address = "tcp", c.Dnstap.TCP
		places++
	}
	if c.Dnstap.File != "" {
		t.shelf = newShelf(c.Dnstap.File, c)
		places++
	}
	switch {
	case places == 0:
		return nil, nil
	case places > 1:
		return nil, errDnstapPlaces
	}
	return t, nil
}

func (*tap) wantsWire() bool { return true }

func (t *tap) due() <-chan struct{} {
	if t.shelf == nil {
		return nil
	}
	return t.more
}

func (t *tap) tidy(ctx context.Context) error {
	if t.shelf == nil {
		return nil
	}
	err := t.shelf.tidy(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (t *tap) ready(ctx context.Context) error {
	if t.w != nil && !t.stands() {
		if err := t.close(); err != nil {
			return err
		}
	}
	switch {
	case t.w != nil:
		return nil
	case t.shelf != nil:
		return t.create()
	default:
		return t.dial(ctx)
	}
}

// stands reports whether what is open can be gone on with: a file must have the
// name of the log still, and all that was written to it.
func (t *tap) stands() bool {
	f, ok := t.below.(*os.File)
	if !ok {
		return true
	}
	if st, err := f.Stat(); err == nil && !st.Mode().IsRegular() {
		return true
	}
	now, is := t.holds(f, t.size)
	return is && now >= t.size
}

// emptyStream is how long a stream without a message is: its beginning and its end.
const emptyStream = 54

// create begins a file. A stream has one beginning, so that one that is there
// is put aside, unless it has no message: a node that fails to start and is
// started again must not push out what is kept.
func (t *tap) create() error {
	if st, err := os.Lstat(t.file); err == nil && st.Mode().IsRegular() && st.Size() > emptyStream {
		if err := t.putAside(); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(t.file, os.O_WRONLY|os.O_CREATE|os.O_APPEND|os.O_TRUNC, fileMode)
	if err != nil {
		return err
	}
	return t.begin(f, f, false)
}

// dial connects to the peer. The connection lasts no longer than ctx has time,
// and once that is done no longer than a farewell.
func (t *tap) dial(ctx context.Context) error {
	d := net.Dialer{Timeout: tapTimeout}
	c, err := d.DialContext(ctx, t.network, t.address)
	if err != nil {
		return err
	}
	b := &bounded{Conn: c}
	if last, ok := ctx.Deadline(); ok {
		b.last.Store(&last)
	} else {
		t.unhook = context.AfterFunc(ctx, b.bound)
	}
	return t.begin(b, b, true)
}

// A bounded is a connection that can be given a last deadline.
type bounded struct {
	net.Conn
	last atomic.Pointer[time.Time]
}

func (b *bounded) bound() {
	t := time.Now().Add(farewell)
	b.last.Store(&t)
	b.Conn.SetDeadline(t)
}

func (b *bounded) before(t time.Time) time.Time {
	if last := b.last.Load(); last != nil && t.After(*last) {
		return *last
	}
	return t
}

func (b *bounded) SetWriteDeadline(t time.Time) error { return b.Conn.SetWriteDeadline(b.before(t)) }
func (b *bounded) SetReadDeadline(t time.Time) error  { return b.Conn.SetReadDeadline(b.before(t)) }

func (t *tap) begin(w io.Writer, below io.Closer, both bool) error {
	fw, err := framestream.NewWriter(w, &framestream.WriterOptions{
		ContentTypes: [][]byte{dnstap.FSContentType}, Bidirectional: both, Timeout: tapTimeout,
	})
	t.below = below
	if err != nil {
		t.drop()
		return fmt.Errorf("beginning a frame stream: %w", err)
	}
	t.w, t.size = fw, 0
	return nil
}

// write counts a record as written when its frames have been handed to the
// system: what a stream loses beyond that, nobody can tell. Of the others a peer
// may have got some before the stream broke; it gets them once more.
func (t *tap) write(batch []entry) (written int, err error) {
	pending := 0
	for i := range batch {
		n, err := t.frames(&batch[i])
		if err != nil {
			return written, errors.Join(err, t.drop())
		}
		if t.size += int64(n); n > 0 {
			pending += n
		}
		if pending < chunk && i < len(batch)-1 {
			continue
		}
		if err := t.w.Flush(); err != nil {
			return written, errors.Join(err, t.drop())
		}
		written, pending = i+1, 0
	}
	if t.shelf != nil && t.size > t.maxSize {
		return written, t.close()
	}
	return written, nil
}

// frames writes the message of the question and, unless the answer was silence,
// that of the answer.
func (t *tap) frames(e *entry) (size int, err error) {
	m := message(&e.Record)
	m.Type, m.QueryMessage = dnstap.Message_CLIENT_QUERY.Enum(), some(e.query)
	if size, err = t.frame(m); err != nil || e.Rcode == Silence {
		return size, err
	}
	m.Type, m.QueryMessage, m.ResponseMessage = dnstap.Message_CLIENT_RESPONSE.Enum(), nil, some(e.reply)
	end := e.Time.Add(e.Took)
	m.ResponseTimeSec, m.ResponseTimeNsec = proto.Uint64(uint64(end.Unix())), proto.Uint32(uint32(end.Nanosecond()))
	m.ProtoReflect().SetUnknown(policy(&e.Record))
	n, err := t.frame(m)
	return size + n, err
}

// some returns nil for no bytes, so that there is no such field.
func some(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

func (t *tap) frame(m *dnstap.Message) (size int, err error) {
	d := dnstap.Dnstap{Type: dnstap.Dnstap_MESSAGE.Enum(), Message: m}
	if len(t.identity) > 0 {
		d.Identity = t.identity
	}
	if len(t.version) > 0 {
		d.Version = t.version
	}
	if t.buf, err = (proto.MarshalOptions{}).MarshalAppend(t.buf[:0], &d); err != nil {
		return 0, fmt.Errorf("encoding a dnstap message: %w", err)
	}
	return t.w.WriteFrame(t.buf)
}

// message returns what the messages of question and answer have in common. An
// address that was hashed is told as its pseudonym.
func message(r *Record) *dnstap.Message {
	m := &dnstap.Message{
		SocketProtocol: protocol(r.Transport),
		QueryTimeSec:   proto.Uint64(uint64(r.Time.Unix())),
		QueryTimeNsec:  proto.Uint32(uint32(r.Time.Nanosecond())),
	}
	if a := r.Client.Addr; a.IsValid() {
		m.SocketFamily = family(a).Enum()
		m.QueryAddress = a.AsSlice()
	}
	if r.Port != 0 {
		m.QueryPort = proto.Uint32(uint32(r.Port))
	}
	return m
}

func family(a netip.Addr) dnstap.SocketFamily {
	if a.Is4() {
		return dnstap.SocketFamily_INET
	}
	return dnstap.SocketFamily_INET6
}

// doq is DNS over QUIC, which the schema got after the library.
const doq dnstap.SocketProtocol = 7

func protocol(transport string) *dnstap.SocketProtocol {
	switch transport {
	case "udp":
		return dnstap.SocketProtocol_UDP.Enum()
	case "tcp":
		return dnstap.SocketProtocol_TCP.Enum()
	case "dot":
		return dnstap.SocketProtocol_DOT.Enum()
	case "doh":
		return dnstap.SocketProtocol_DOH.Enum()
	case "doq":
		return doq.Enum()
	}
	return nil
}

// Fields of the message Policy of the dnstap schema, which is field 15 of
// Message. The library is older than it; what it does not know it carries along.
const (
	fieldPolicy = 15
	policyType  = 1
	policyRule  = 2
	policyHow   = 3
)

// policy encodes which policy decided the answer and what it did.
func policy(r *Record) []byte {
	if r.Policy == "" {
		return nil
	}
	var p []byte
	p = protowire.AppendTag(p, policyType, protowire.BytesType)
	p = protowire.AppendString(p, "starferry")
	p = protowire.AppendTag(p, policyRule, protowire.BytesType)
	p = protowire.AppendString(p, r.Policy)
	p = protowire.AppendTag(p, policyHow, protowire.VarintType)
	p = protowire.AppendVarint(p, policyAction(r))
	b := protowire.AppendTag(nil, fieldPolicy, protowire.BytesType)
	return protowire.AppendBytes(b, p)
}

// policyAction returns what the schema calls what was done. It has no word for
// REFUSED: that is local data.
func policyAction(r *Record) uint64 {
	const nxdomain, nodata, pass, drop, localData = 1, 2, 3, 4, 6
	switch {
	case r.Rcode == Silence:
		return drop
	case r.Action == "allow":
		return pass
	case r.Action != "block" && r.Action != "deny":
		return localData
	case r.Rcode == 3:
		return nxdomain
	case r.Rcode == 0 && len(r.Answer.Addrs) == 0:
		return nodata
	}
	return localData
}

// close ends the stream, and waits for the peer to say that it has all of it.
func (t *tap) close() error {
	if t.w == nil {
		return nil
	}
	err := t.w.Close()
	return errors.Join(err, t.drop())
}

// drop lets go of the stream as it is.
func (t *tap) drop() error {
	if t.unhook != nil {
		t.unhook()
		t.unhook = nil
	}
	err := t.below.Close()
	t.w, t.below = nil, nil
	return err
}
