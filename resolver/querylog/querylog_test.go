package querylog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func addrs(texts ...string) (out []netip.Addr) {
	for _, t := range texts {
		out = append(out, netip.MustParseAddr(t))
	}
	return out
}

// full returns a record in which every field says something.
func full() *Record {
	return &Record{
		Time: time.Date(2026, 11, 4, 18, 30, 0, 120, time.UTC), Took: 1500 * time.Microsecond,
		Client: Client{netip.MustParseAddr("192.0.2.7"), 53124, "office", "dot", "alice.dns.example.com"},
		Identity: Identity{
			Device: "alice-laptop", User: "alice", Kind: "wireguard", Strength: "strong",
			Groups: []string{"staff", "china"}, Posture: []Posture{{"baseline", "passed"}, {"strict", "failed"}},
			Source: netip.MustParseAddr("2001:db8::7"),
		},
		Question: Question{Name: `www.example.com`, Type: 28, Class: 1, DO: true, CD: true},
		Verdict: Verdict{
			Action: "steer", Policy: "china", Reason: `the answer is in "CN"`, Route: "sjc-pvg",
			Hops: []Hop{{"www.example.com", nil}, {"cdn.example.net", addrs("203.0.113.1", "203.0.113.2")}},
		},
		Answer: Answer{Rcode: 0, EDE: 15, Addrs: addrs("198.19.0.5"), Cache: "lower", Stale: true, Upstream: "default", Size: 61},
	}
}

// The line is what other programs read: a change here breaks them.
const fullLine = `{"time":"2026-11-04T18:30:00.000000120Z","took_ns":1500000,` +
	`"client":"192.0.2.7","port":53124,"listener":"office","transport":"dot","server_name":"alice.dns.example.com",` +
	`"device":"alice-laptop","user":"alice","identity":"wireguard","strength":"strong","groups":["staff","china"],` +
	`"posture":["baseline=passed","strict=failed"],"source":"2001:db8::7",` +
	`"name":"www.example.com","type":"AAAA","class":"IN","do":true,"cd":true,` +
	`"action":"steer","policy":"china","reason":"the answer is in \"CN\"","route":"sjc-pvg",` +
	`"hops":[{"name":"www.example.com"},{"name":"cdn.example.net","addrs":["203.0.113.1","203.0.113.2"]}],` +
	`"rcode":"NOERROR","ede":15,"answer":["198.19.0.5"],"cache":"lower","stale":true,"upstream":"default","size":61}` + "\n"

func TestLine(t *testing.T) {
	if got := string(full().Append(nil)); got != fullLine {
		t.Errorf("got  %swant %s", got, fullLine)
	}
	least := Record{Time: time.Unix(0, 0), Question: Question{Name: "", Type: 65280, Class: 1}, Verdict: Verdict{Action: "refuse"}, Answer: Answer{Rcode: Silence, EDE: -1}}
	const want = `{"time":"1970-01-01T00:00:00.000000000Z","took_ns":0,"name":"","type":"TYPE65280","class":"IN","action":"refuse","rcode":"none"}` + "\n"
	if got := string(least.Append(nil)); got != want {
		t.Errorf("got  %swant %s", got, want)
	}
}

func TestTime(t *testing.T) {
	for _, at := range []time.Time{{}, time.Unix(0, 999999999), time.Unix(1<<37, 1), time.Date(9999, 12, 31, 23, 59, 59, 100, time.UTC)} {
		if got, want := string(appendTime(nil, at.UTC())), at.UTC().Format("2006-01-02T15:04:05.000000000Z"); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	odd := full()
	odd.Reason = "tab\t quote\" back\\ del\x7f csi\u009b line\u2028 ü 漢 bad\xff"
	odd.Client.Addr = netip.MustParseAddr("fe80::1%eth\"0")
	odd.Rcode, odd.EDE, odd.Type, odd.Class, odd.Privacy = badVers, 0, 4711, 77, Hash
	silent := full()
	silent.Rcode, silent.EDE = Silence, -1
	strange := full()
	strange.Rcode = 3999
	for _, r := range []*Record{full(), odd, silent, strange} {
		line := r.Append(nil)
		got, err := Parse(line)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		r.Reason = strings.ToValidUTF8(r.Reason, "\uFFFD")
		if !reflect.DeepEqual(&got, r) {
			t.Errorf("got  %+v\nwant %+v", got, *r)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(fullLine))
	f.Add([]byte(`{"time":"2026-11-04T18:30:00Z","name":"a","hops":[{"addrs":[""]}],"privacy":"veiled"}`))
	f.Add([]byte(`{"time":"9999-12-31T23:59:59-01:00"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Parse(b)
		if err != nil {
			return
		}
		line := r.Append(nil)
		if bytes.Count(line, []byte("\n")) != 1 {
			t.Fatalf("not one line: %q", line)
		}
		again, err := Parse(line)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if second := again.Append(nil); !bytes.Equal(line, second) {
			t.Fatalf("%s, then %s", line, second)
		}
	})
}

func FuzzReader(f *testing.F) {
	f.Add([]byte(fullLine + "\n{\n" + fullLine))
	f.Add([]byte("\x1f\x8b\x08"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReader(bytes.NewReader(b))
		for n := 0; ; n++ {
			if n > len(b)+2 {
				t.Fatal("more records than bytes")
			}
			if _, _, err := r.Next(); err != nil {
				return
			}
		}
	})
}

func TestReader(t *testing.T) {
	in := fullLine + "\n  \nnonsense\n{}\n" + strings.Repeat("x", maxLine+1) + "\n" + strings.TrimSuffix(fullLine, "\n")
	r := NewReader(strings.NewReader(in))
	n := 0
	for ; ; n++ {
		if _, line, err := r.Next(); err != nil {
			break
		} else if string(line)+"\n" != fullLine {
			t.Errorf("line %q", line)
		}
	}
	if n != 2 || r.Bad() != 3 {
		t.Errorf("%d records and %d bad lines, want 2 and 3", n, r.Bad())
	}
}

// A gate is a sink that writes nothing before it is let.
type gate struct {
	open chan struct{}
	got  int
}

func (*gate) wantsWire() bool             { return true }
func (*gate) ready(context.Context) error { return nil }
func (*gate) close() error                { return nil }

func (g *gate) write(batch []entry) (int, error) {
	if len(batch) > 0 {
		<-g.open
	}
	g.got += len(batch)
	return len(batch), nil
}

func withSink(s sink, count, size int) *Log {
	return &Log{log: quiet(), outlets: []*outlet{{name: "test", sink: s, queue: newQueue(count, size), log: quiet()}}}
}

// A sink that stands still costs those who offer nothing but what they lose, and
// that is counted to the record.
func TestSlowSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan struct{})}
		l := withSink(g, 10, 1<<20)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx) }()
		l.Offer(full()) // not for a sink of messages
		for range 4 {
			l.OfferWire(full(), nil, nil)
		}
		time.Sleep(time.Second) // these are in the sink's hand now
		for range 20 {
			l.OfferWire(full(), []byte("q"), []byte("r"))
		}
		before := l.Stats()[0]
		if want := (Stats{Sink: "test", Waiting: 10, Dropped: 14}); before != want {
			t.Errorf("while it stands still: %+v, want %+v", before, want)
		}
		close(g.open)
		time.Sleep(time.Second)
		if s := l.Stats()[0]; s.Waiting != 0 || s.Written != uint64(before.Waiting) || s.Dropped != before.Dropped {
			t.Errorf("after %+v: %+v", before, s)
		}
		l.OfferWire(full(), nil, nil)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		l.OfferWire(full(), nil, nil)
		if s := l.Stats()[0]; s.Written != uint64(before.Waiting)+1 || s.Dropped != before.Dropped+1 || g.got != int(s.Written) {
			t.Errorf("at the end: %+v, and the sink has %d", s, g.got)
		}
	})
}

func TestBytesAreBounded(t *testing.T) {
	g := &gate{open: make(chan struct{})}
	l := withSink(g, 1000, 10000)
	for range 100 {
		l.OfferWire(full(), make([]byte, 1000), make([]byte, 1000))
	}
	if s := l.Stats()[0]; s.Waiting != 3 || s.Dropped != 97 {
		t.Errorf("%+v", s)
	}
}

// Whatever happens at the same time, no record is unaccounted for.
func TestManyAtOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "q.jsonl")
	l, err := New(Config{File: file, MaxSize: 100000, Keep: 1000, Compress: true, Queue: 500, Privacy: Hash}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	const workers, each = 8, 2000
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			r := full()
			r.Device = fmt.Sprint("device", w)
			for range each {
				l.Offer(r)
			}
		})
	}
	wg.Go(func() {
		for range 10 {
			l.Reopen()
			l.Stats()
		}
	})
	wg.Wait()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	s := l.Stats()[0]
	if s.Written+s.Dropped != workers*each || s.Lost != 0 || s.Waiting != 0 {
		t.Errorf("%+v of %d", s, workers*each)
	}
	if n := len(readAll(t, file)); n != int(s.Written) {
		t.Errorf("%d records in the files, want %d", n, s.Written)
	}
}

// readAll reads all files of a log, in which no line may be bad.
func readAll(t *testing.T, file string) (all []Record) {
	t.Helper()
	files, err := Files(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		r, c, err := Open(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for {
			rec, _, err := r.Next()
			if err != nil {
				break
			}
			all = append(all, rec)
		}
		if r.Bad() > 0 {
			t.Errorf("%s has %d bad lines", name, r.Bad())
		}
	}
	return all
}

func TestNoLog(t *testing.T) {
	var l *Log
	l.Offer(full())
	l.Reopen()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Run(ctx); err != nil || l.Stats() != nil {
		t.Error(err, l.Stats())
	}
}

func TestMistakes(t *testing.T) {
	short := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(short, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		c    Config
		want string
	}{
		{Config{Privacy: Hash, KeyFile: short}, "6 characters"},
		{Config{Privacy: Hash, KeyFile: short + "s"}, "no such file"},
		{Config{Dnstap: Dnstap{Socket: "/x", File: "/y"}}, "one place"},
	} {
		if _, err := New(c.c, quiet()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %s", c.c, err, c.want)
		}
	}
}

// steady offers records and takes them as a sink does.
func steady(l *Log, q []byte) func() {
	r, n := full(), 0
	return func() {
		l.OfferWire(r, q, q)
		if n++; n%1000 == 0 {
			for _, o := range l.outlets {
				batch := o.queue.takeAll()
				o.queue.done(batch, len(batch))
			}
		}
	}
}

func TestOfferAllocs(t *testing.T) {
	for _, p := range []Privacy{Keep, Hash, Drop} {
		l, err := New(Config{File: "unused", Dnstap: Dnstap{Socket: "unused"}, Privacy: p}, quiet())
		if err != nil {
			t.Fatal(err)
		}
		offer := steady(l, question)
		for range 3000 {
			offer()
		}
		if n := testing.AllocsPerRun(3000, offer); n != 0 {
			t.Errorf("%v: %v allocations", p, n)
		}
		if s := l.Stats()[1]; s.Dropped > 0 {
			t.Errorf("%+v", s)
		}
	}
}

func BenchmarkOffer(b *testing.B) {
	for _, p := range []Privacy{Keep, Hash, Drop} {
		b.Run(p.String(), func(b *testing.B) {
			l, err := New(Config{File: "unused", Privacy: p}, quiet())
			if err != nil {
				b.Fatal(err)
			}
			offer := steady(l, nil)
			b.ReportAllocs()
			for b.Loop() {
				offer()
			}
		})
	}
}

func BenchmarkAppend(b *testing.B) {
	r, buf := full(), make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		buf = r.Append(buf[:0])
	}
}
