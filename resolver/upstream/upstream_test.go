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
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// A world is the servers that there are, in memory. Each gets the messages as
// they were sent and returns those that it answers with; nil is silence.
type world struct {
	t       *testing.T
	servers map[string]func(network string, q *dns.Msg) []*dns.Msg

	refusesTCP bool

	mu    sync.Mutex
	wg    sync.WaitGroup
	asked []string // server and transport of each question
	ids   map[uint16]bool
}

func (w *world) dial(_ context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
	server := w.servers[addr.String()]
	if server == nil || w.refusesTCP && network == "tcp" {
		return nil, syscall.ECONNREFUSED
	}
	near, far := net.Pipe()
	w.wg.Go(func() {
		defer far.Close()
		buf := make([]byte, 65536)
		for {
			n, err := w.read(network, far, buf)
			if err != nil {
				return
			}
			q := new(dns.Msg)
			if err := q.Unpack(buf[:n]); err != nil {
				w.t.Errorf("unreadable question: %v", err)
				return
			}
			w.note(addr.String()+" "+network, q)
			for _, r := range server(network, q) {
				b, err := r.Pack()
				if err != nil {
					w.t.Errorf("packing: %v", err)
				}
				if network == "tcp" {
					b = append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
				}
				far.Write(b)
			}
		}
	})
	return near, nil
}

// group makes a group of servers of the world.
func (w *world) group(strategy Strategy, servers ...string) *Group {
	return newGroup(w.t, Config{Strategy: strategy, Dial: w.dial}, servers...)
}

func newGroup(t testing.TB, c Config, servers ...string) *Group {
	t.Helper()
	for _, name := range servers {
		s, err := ParseServer(name)
		if err != nil {
			t.Fatal(err)
		}
		c.Servers = append(c.Servers, s)
	}
	g, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func (w *world) read(network string, c net.Conn, buf []byte) (int, error) {
	if network == "udp" {
		return c.Read(buf)
	}
	var l [2]byte
	if _, err := io.ReadFull(c, l[:]); err != nil {
		return 0, err
	}
	return io.ReadFull(c, buf[:binary.BigEndian.Uint16(l[:])])
}

func (w *world) note(what string, q *dns.Msg) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, what)
	if w.ids == nil {
		w.ids = map[uint16]bool{}
	}
	w.ids[q.Id] = true
	if o := q.IsEdns0(); o != nil && len(o.Option) > 0 {
		w.t.Errorf("options went out: %v", o)
	}
}

func reply(q *dns.Msg, rcode int, records ...string) *dns.Msg {
	r := new(dns.Msg).SetRcode(q, rcode)
	for _, s := range records {
		rr, err := dns.NewRR(s)
		if err != nil {
			panic(err)
		}
		r.Answer = append(r.Answer, rr)
	}
	if o := q.IsEdns0(); o != nil {
		r.SetEdns0(1232, o.Do())
		r.IsEdns0().Option = append(r.IsEdns0().Option, &dns.EDNS0_LOCAL{Code: 65311, Data: make([]byte, 8)})
	}
	return r
}

// The servers of the tests.
func good(_ string, q *dns.Msg) []*dns.Msg {
	return []*dns.Msg{reply(q, 0, "www.example.com. 60 IN A 192.0.2.1")}
}
func silent(string, *dns.Msg) []*dns.Msg { return nil }

// lossy is reached, or heard, over TCP only.
func lossy(network string, q *dns.Msg) []*dns.Msg {
	if network == "udp" {
		return nil
	}
	return good(network, q)
}
func failing(_ string, q *dns.Msg) []*dns.Msg {
	return []*dns.Msg{reply(q, dns.RcodeServerFailure)}
}
func refusing(_ string, q *dns.Msg) []*dns.Msg {
	r := reply(q, dns.RcodeRefused)
	r.Question = nil
	return []*dns.Msg{r}
}
func nxdomain(_ string, q *dns.Msg) []*dns.Msg { return []*dns.Msg{reply(q, dns.RcodeNameError)} }
func long(network string, q *dns.Msg) []*dns.Msg {
	r := reply(q, 0, "www.example.com. 60 IN A 192.0.2.2")
	if network == "udp" {
		r.Truncated, r.Answer = true, nil
	}
	return []*dns.Msg{r}
}
func old(_ string, q *dns.Msg) []*dns.Msg {
	if q.IsEdns0() != nil {
		r := reply(q, dns.RcodeFormatError)
		r.Extra = nil
		return []*dns.Msg{r}
	}
	return good("", q)
}

// forged answers first come to other questions, the right one comes last.
func forged(n int) func(network string, q *dns.Msg) []*dns.Msg {
	return func(network string, q *dns.Msg) (all []*dns.Msg) {
		if network == "tcp" {
			return good(network, q)
		}
		for i := range n {
			r := reply(q, 0, "www.example.com. 60 IN A 203.0.113.66")
			switch i % 4 {
			case 0:
				r.Id++
			case 1:
				r.Question[0].Name = "www.example.net."
			case 2:
				r.Question[0].Qtype = dns.TypeAAAA
			case 3:
				r.Response = false
			}
			all = append(all, r)
		}
		return append(all, good(network, q)...)
	}
}

func TestResolve(t *testing.T) {
	type servers = []func(string, *dns.Msg) []*dns.Msg
	tests := []struct {
		what    string
		servers servers // nil: refuses connections
		rcode   int     // -1: an error
		answer  string
		took    time.Duration
		asked   string
	}{
		{"one that works", servers{good}, 0, "192.0.2.1", 0, "1 udp"},
		{"NXDOMAIN is an answer", servers{nxdomain, good}, 3, "", 0, "1 udp"},
		{"truncated", servers{long}, 0, "192.0.2.2", 0, "1 udp, 1 tcp"},
		{"one that does not know EDNS", servers{old}, 0, "192.0.2.1", 0, "1 udp, 1 udp"},
		{"a silent one", servers{silent}, -1, "", 2 * time.Second, "1 udp, 1 udp, 1 udp, 1 tcp"},
		{"a silent one before one that works", servers{silent, good}, 0, "192.0.2.1", 400 * time.Millisecond, "1 udp, 2 udp"},
		{"none there before one that works", servers{nil, good}, 0, "192.0.2.1", 0, "2 udp"},
		{"SERVFAIL before one that works", servers{failing, good}, 0, "192.0.2.1", 0, "1 udp, 2 udp"},
		{"REFUSED before one that works", servers{refusing, good}, 0, "192.0.2.1", 0, "1 udp, 2 udp"},
		{"SERVFAIL everywhere", servers{failing, failing}, 2, "", 0, "1 udp, 2 udp"},
		{"SERVFAIL and silence", servers{failing, silent}, 2, "", 2 * time.Second, "1 udp, 2 udp, 2 udp, 2 tcp"},
		{"forged answers before the right one", servers{forged(8)}, 0, "192.0.2.1", 0, "1 udp"},
		{"many forged answers", servers{forged(100)}, 0, "192.0.2.1", 0, "1 udp, 1 tcp"},
		{"one that only TCP reaches", servers{lossy}, 0, "192.0.2.1", 1500 * time.Millisecond, "1 udp, 1 udp, 1 udp, 1 tcp"},
		{"one of several that only TCP reaches", servers{lossy, silent}, 0, "192.0.2.1", 1600 * time.Millisecond, "1 udp, 2 udp, 1 udp, 2 udp, 1 tcp"},
		{"none at all", servers{}, -1, "", 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &world{t: t, servers: map[string]func(string, *dns.Msg) []*dns.Msg{}}
				var names []string
				for i, s := range tt.servers {
					names = append(names, fmt.Sprintf("192.0.2.%d", i+1))
					if s != nil {
						w.servers[names[i]+":53"] = s
					}
				}
				g := w.group(Failover, names...)
				start := time.Now()
				q := new(dns.Msg).SetQuestion("WWW.example.com.", dns.TypeA)
				q.SetEdns0(4096, true)
				for _, code := range []uint16{65310, 65311, 65312, 65001, 65073, 65074} {
					q.IsEdns0().Option = append(q.IsEdns0().Option, &dns.EDNS0_LOCAL{Code: code, Data: []byte{1}})
				}
				q.IsEdns0().Option = append(q.IsEdns0().Option, &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: net.IP{198, 51, 100, 0}})
				r, err := g.Resolve(t.Context(), q)
				if took := time.Since(start); took != tt.took {
					t.Errorf("took %v, want %v", took, tt.took)
				}
				w.wg.Wait()
				if got := strings.NewReplacer("192.0.2.", "", ":53", "").Replace(strings.Join(w.asked, ", ")); got != tt.asked {
					t.Errorf("asked %s, want %s", got, tt.asked)
				}
				if tt.rcode < 0 {
					if !errors.Is(err, ErrNoAnswer) {
						t.Errorf("got %v, %v; want an error", r, err)
					}
					return
				}
				if err != nil || r.Rcode != tt.rcode || r.Id != q.Id || r.IsEdns0() != nil {
					t.Fatalf("got %v, %v", r, err)
				}
				if tt.answer != "" && (len(r.Answer) != 1 || r.Answer[0].(*dns.A).A.String() != tt.answer) {
					t.Errorf("got %v, want %s", r.Answer, tt.answer)
				}
			})
		})
	}
}

// Whoever trusts servers asks for their word, also over TCP.
func TestTrusted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, trust := range []bool{false, true} {
			asked := 0
			w := &world{t: t, servers: map[string]func(string, *dns.Msg) []*dns.Msg{"192.0.2.1:53": func(network string, q *dns.Msg) []*dns.Msg {
				if asked++; q.AuthenticatedData != trust {
					t.Errorf("trusted: %t, asked over %s: %v", trust, network, q)
				}
				return long(network, q)
			}}}
			g := newGroup(t, Config{Dial: w.dial, TrustAD: trust}, "192.0.2.1")
			if _, err := g.Exchange(t.Context(), www); err != nil || asked != 2 {
				t.Errorf("asked %d times: %v", asked, err)
			}
			w.wg.Wait()
		}
	})
}

func TestAServerThatFailedIsAskedLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := "192.0.2.1:53", "192.0.2.2:53"
		w := &world{t: t, servers: map[string]func(string, *dns.Msg) []*dns.Msg{b: good}}
		g := w.group(Failover, a, b)
		resolve := func(want ...string) {
			t.Helper()
			w.asked = nil
			if _, err := g.Resolve(t.Context(), new(dns.Msg).SetQuestion("a.", 1)); err != nil {
				t.Fatal(err)
			}
			w.wg.Wait()
			if fmt.Sprint(w.asked) != fmt.Sprint(want) {
				t.Errorf("asked %q, want %q", w.asked, want)
			}
		}
		w.servers[a] = silent
		resolve(a+" udp", b+" udp")
		w.servers[a] = good
		resolve(b + " udp")
		if s := g.Status(); s[0].Failures != 1 || s[1].Failures != 0 {
			t.Errorf("status %+v", s)
		}
		<-time.After(minPenalty)
		resolve(a + " udp")
		if s := g.Status(); s[0].Failures != 0 {
			t.Errorf("status %+v", s)
		}
	})
}

// Who has a name can put records there that nobody can read: servers are no worse
// for passing them on, and are asked for other names as before.
func TestAnUnreadableRecordIsNoFailureOfTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := "192.0.2.1:53", "192.0.2.2:53"
		unreadable := func(_ string, q *dns.Msg) []*dns.Msg {
			r := reply(q, 0)
			r.Answer = []dns.RR{&dns.RFC3597{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeHTTPS, Class: 1}, Rdata: "00"}}
			return []*dns.Msg{r}
		}
		w := &world{t: t, servers: map[string]func(string, *dns.Msg) []*dns.Msg{a: unreadable, b: unreadable}}
		g := w.group(Failover, a, b)
		if _, err := g.Resolve(t.Context(), new(dns.Msg).SetQuestion("odd.", dns.TypeHTTPS)); !errors.Is(err, errUnreadable) {
			t.Errorf("error %v", err)
		}
		for _, s := range g.Status() {
			if !s.Up {
				t.Errorf("%s is down: %v", s.Server, s.Err)
			}
		}
		w.servers[a] = func(_ string, q *dns.Msg) []*dns.Msg {
			r := reply(q, 0)
			r.Answer = []dns.RR{&dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}} // no message has that
			return []*dns.Msg{r}
		}
		if _, err := g.Resolve(t.Context(), new(dns.Msg).SetQuestion("broken.", dns.TypeHTTPS)); err == nil || g.Status()[0].Up {
			t.Errorf("what sends no messages is up; error %v", err)
		}
		w.wg.Wait()
	})
}

func TestEqualQuestionsGoOutOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, servers: map[string]func(string, *dns.Msg) []*dns.Msg{
			"192.0.2.1:53": func(n string, q *dns.Msg) []*dns.Msg { <-time.After(time.Second / 4); return good(n, q) },
		}}
		g := w.group(Fastest, "192.0.2.1")
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				q := new(dns.Msg).SetQuestion([]string{"www.example.com.", "WWW.EXAMPLE.com."}[i%2], dns.TypeA)
				r, err := g.Resolve(t.Context(), q)
				if err != nil || r.Id != q.Id || len(r.Answer) != 1 {
					t.Errorf("got %v, %v", r, err)
					return
				}
				r.Answer[0].Header().Ttl = uint32(i) // must not be shared: -race sees it
			})
		}
		wg.Wait()
		w.wg.Wait()
		if len(w.asked) != 1 {
			t.Errorf("went out %d times", len(w.asked))
		}
	})
}

func TestIdsAreFresh(t *testing.T) {
	w := &world{t: t, servers: map[string]func(string, *dns.Msg) []*dns.Msg{"192.0.2.1:53": good}}
	g := w.group(Fastest, "192.0.2.1")
	for range 50 {
		if _, err := g.Resolve(t.Context(), new(dns.Msg).SetQuestion("a.", 1)); err == nil {
			continue
		}
	}
	w.wg.Wait()
	if len(w.ids) < 40 {
		t.Errorf("%d different ids in 50 questions", len(w.ids))
	}
}

func TestACallerThatLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, servers: map[string]func(string, *dns.Msg) []*dns.Msg{"192.0.2.1:53": silent}}
		g := w.group(Fastest, "192.0.2.1")
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		if _, err := g.Resolve(ctx, new(dns.Msg).SetQuestion("a.", 1)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(start); took != 100*time.Millisecond {
			t.Errorf("took %v", took)
		}
		if s := g.Status(); s[0].Failures != 0 {
			t.Error("it is not the server's fault")
		}
		w.wg.Wait()
	})
}
