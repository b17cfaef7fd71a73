package querylog

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	dnstap "github.com/dnstap/golang-dnstap"
)

// A peer takes dnstap from a listener, by the library's own reader.
type peer struct {
	net.Listener
	got   chan *dnstap.Dnstap
	ended chan error
}

func listen(t *testing.T, network, address string) *peer {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{l, make(chan *dnstap.Dnstap, 100), make(chan error, 1)}
	go func() { p.ended <- p.take() }()
	return p
}

// take reads one stream to its end.
func (p *peer) take() error {
	c, err := p.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	p.Close()
	return decode(c, true, p.got)
}

func decode(from io.Reader, both bool, to chan<- *dnstap.Dnstap) error {
	r, err := dnstap.NewReader(from, &dnstap.ReaderOptions{Bidirectional: both})
	if err != nil {
		return err
	}
	d := dnstap.NewDecoder(r, 1<<16)
	for {
		m := new(dnstap.Dnstap)
		if err := d.Decode(m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		to <- m
	}
}

var reply = append(bytes.Clone(question), 0)

func checkPair(t *testing.T, got <-chan *dnstap.Dnstap, r *Record) {
	t.Helper()
	q, a := <-got, <-got
	if string(q.Identity) != "gw-sjc" || string(a.Version) != "starferry 1.2.3" {
		t.Errorf("identity %q, version %q", q.Identity, a.Version)
	}
	m := q.Message
	if m.GetType() != dnstap.Message_CLIENT_QUERY || !bytes.Equal(m.QueryMessage, question) || m.ResponseMessage != nil {
		t.Errorf("question %v", m)
	}
	if m.GetSocketFamily() != dnstap.SocketFamily_INET || m.GetSocketProtocol() != dnstap.SocketProtocol_DOT ||
		!bytes.Equal(m.QueryAddress, r.Client.Addr.AsSlice()) || m.GetQueryPort() != 53124 {
		t.Errorf("asker %v", m)
	}
	if sent := time.Unix(int64(m.GetQueryTimeSec()), int64(m.GetQueryTimeNsec())); !sent.Equal(r.Time) {
		t.Errorf("asked at %v, want %v", sent, r.Time)
	}
	m = a.Message
	if m.GetType() != dnstap.Message_CLIENT_RESPONSE || !bytes.Equal(m.ResponseMessage, reply) || m.QueryMessage != nil {
		t.Errorf("answer %v", m)
	}
	if sent := time.Unix(int64(m.GetResponseTimeSec()), int64(m.GetResponseTimeNsec())); !sent.Equal(r.Time.Add(r.Took)) {
		t.Errorf("answered at %v", sent)
	}
	// Field 15: type 1, rule 2, action 3, which is LOCAL_DATA.
	if want := "\x7a\x14\x0a\x09starferry\x12\x05china\x18\x06"; string(m.ProtoReflect().GetUnknown()) != want {
		t.Errorf("policy %q", m.ProtoReflect().GetUnknown())
	}
}

// await waits for something to be so.
func await(t *testing.T, so func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for !so() {
		if ctx.Err() != nil {
			t.Fatal("it takes too long")
		}
		runtime.Gosched()
	}
}

func tapConfig(d Dnstap) Config {
	d.Identity, d.Version = "gw-sjc", "starferry 1.2.3"
	return Config{Dnstap: d}
}

func TestDnstapOverSockets(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "tap.sock")
	for _, network := range []string{"unix", "tcp"} {
		p := listen(t, network, map[string]string{"unix": socket, "tcp": "127.0.0.1:0"}[network])
		c := tapConfig(Dnstap{Socket: socket})
		if network == "tcp" {
			c = tapConfig(Dnstap{TCP: p.Addr().String()})
		}
		l, end := running(t, c)
		l.Offer(full()) // without messages there is nothing to tell
		l.OfferWire(full(), question, reply)
		checkPair(t, p.got, full())
		silent := full()
		silent.Rcode = Silence
		l.OfferWire(silent, question, nil)
		end()
		if err := <-p.ended; err != nil {
			t.Errorf("the stream was not ended: %v", err)
		}
		if m := <-p.got; m.Message.GetType() != dnstap.Message_CLIENT_QUERY || len(p.got) > 0 {
			t.Errorf("silence is told as %v", m)
		}
		if s := l.Stats()[0]; s != (Stats{Sink: "dnstap", Written: 2}) {
			t.Errorf("%+v", s)
		}
	}
}

// Records wait for a peer that comes later, as many as there is room for.
func TestDnstapPeerComesLater(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "tap.sock")
	c := tapConfig(Dnstap{Socket: socket})
	c.Queue = 2
	l, end := running(t, c)
	for range 5 {
		l.OfferWire(full(), question, reply)
	}
	await(t, func() bool { return l.Stats()[0].Err != "" }) // it has tried
	p := listen(t, "unix", socket)
	l.Reopen() // tries at once
	checkPair(t, p.got, full())
	checkPair(t, p.got, full())
	end()
	if s := l.Stats()[0]; s != (Stats{Sink: "dnstap", Written: 2, Dropped: 3}) {
		t.Errorf("%+v", s)
	}
	if err := <-p.ended; err != nil {
		t.Error(err)
	}
}

// A peer that takes the connection and then nothing holds up neither those who
// offer nor the end.
func TestDnstapPeerStandsStill(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "tap.sock")
	p, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c := tapConfig(Dnstap{Socket: socket})
	c.Queue = 2
	l, end := running(t, c)
	conn, err := p.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 5 {
		l.OfferWire(full(), question, reply)
	}
	start := time.Now()
	end()
	if took := time.Since(start); took > 3*farewell {
		t.Errorf("the end took %v", took)
	}
	if s := l.Stats()[0]; s != (Stats{Sink: "dnstap", Dropped: 3, Lost: 2, Err: s.Err}) {
		t.Errorf("%+v", s)
	}
}

// A lost peer is found again.
func TestDnstapReconnects(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "tap.sock")
	first, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	l, end := running(t, tapConfig(Dnstap{Socket: socket}))
	c, err := first.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dnstap.NewReader(c, &dnstap.ReaderOptions{Bidirectional: true}); err != nil {
		t.Fatal(err)
	}
	c.Close()
	first.Close()
	p := listen(t, "unix", socket)
	await(t, func() bool { // it has noticed
		l.OfferWire(full(), question, reply)
		return l.Stats()[0].Err != ""
	})
	l.Reopen()
	l.OfferWire(full(), question, reply)
	checkPair(t, p.got, full())
	go func() {
		for range p.got {
		}
	}()
	end()
	if err := <-p.ended; err != nil {
		t.Error(err)
	}
	close(p.got)
}

func TestDnstapFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "tap.fstrm")
		for range 2 { // the second start puts the first one's file aside
			l, end := running(t, tapConfig(Dnstap{File: file}))
			time.Sleep(time.Second)
			l.OfferWire(full(), question, reply)
			end()
		}
		files, err := Files(file)
		if err != nil || len(files) != 2 {
			t.Fatal(files, err)
		}
		for _, name := range files {
			f, err := os.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			got := make(chan *dnstap.Dnstap, 10)
			if err := decode(f, false, got); err != nil || len(got) != 2 {
				t.Fatalf("%s: %d messages, %v", name, len(got), err)
			}
			checkPair(t, got, full())
		}
	})
}

// A file of dnstap is put aside for its size, and because a stream has one
// beginning: not for each reload, nor by starts that write nothing.
func TestDnstapFileIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "tap.fstrm")
		c := tapConfig(Dnstap{File: file})
		for _, questions := range []int{3, 0, 0, 0, 1, 0} {
			l, end := running(t, c)
			for range questions {
				l.OfferWire(full(), question, reply)
				time.Sleep(time.Second)
				l.Reopen()
				time.Sleep(time.Second)
			}
			end()
		}
		var got []int
		for _, name := range asides(t, file) {
			got = append(got, messages(t, name))
		}
		if want := []int{6, 2}; !slices.Equal(got, want) {
			t.Errorf("messages in files that were put aside: %d, want %d", got, want)
		}
		if n := messages(t, file); n != 0 {
			t.Errorf("%d messages in the file of the last start", n)
		}
	})
}

// A file that others rename or cut is followed by a whole one.
func TestDnstapFileIsTakenAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "tap.fstrm")
		l, end := running(t, tapConfig(Dnstap{File: file}))
		write := func() {
			l.OfferWire(full(), question, reply)
			time.Sleep(time.Second)
			synctest.Wait()
		}
		write()
		if err := os.Rename(file, file+".1"); err != nil {
			t.Fatal(err)
		}
		write()
		if err := os.Truncate(file, 0); err != nil {
			t.Fatal(err)
		}
		write()
		end()
		if a, b := messages(t, file+".1"), messages(t, file); a != 2 || b != 2 {
			t.Errorf("%d messages in the renamed file, %d in that of the name", a, b)
		}
		if n := len(asides(t, file)); n != 0 {
			t.Errorf("%d files were put aside", n)
		}
	})
}

func asides(t *testing.T, file string) []string {
	t.Helper()
	names, err := aside(file)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// messages counts what is in a file that must be a whole stream.
func messages(t *testing.T, name string) int {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make(chan *dnstap.Dnstap, 10)
	if err := decode(f, false, got); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return len(got)
}

func TestDnstapPrivacy(t *testing.T) {
	hashed, dropped := full(), full()
	newPseudonyms([]byte("key")).hide(hashed, Hash)
	(*pseudonyms)(nil).hide(dropped, Drop)
	if m := message(hashed); m.GetSocketFamily() != dnstap.SocketFamily_INET6 || !strings.HasPrefix(string(m.QueryAddress), "\x01\x00\x00\x00\x00\x00\x00\x00") || m.QueryPort != nil {
		t.Errorf("hash: %v", m)
	}
	if m := message(dropped); m.SocketFamily != nil || m.QueryAddress != nil || m.QueryPort != nil {
		t.Errorf("drop: %v", m)
	}
}

func TestPolicyActions(t *testing.T) {
	for _, c := range []struct {
		action string
		rcode  Rcode
		addrs  int
		want   uint64
	}{
		{"allow", 0, 1, 3}, {"allow", 3, 0, 3}, {"block", 3, 0, 1}, {"deny", 0, 0, 2}, {"block", 0, 1, 6},
		{"block", 5, 0, 6}, {"block", Silence, 0, 4}, {"override", 0, 1, 6}, {"steer", 0, 1, 6},
	} {
		r := Record{Verdict: Verdict{Action: c.action, Policy: "p"}, Answer: Answer{Rcode: c.rcode, Addrs: addrs("::1")[:c.addrs]}}
		if got := policyAction(&r); got != c.want {
			t.Errorf("%s %v: %d, want %d", c.action, c.rcode, got, c.want)
		}
	}
	if policy(&Record{}) != nil {
		t.Error("no policy is told as one")
	}
}
