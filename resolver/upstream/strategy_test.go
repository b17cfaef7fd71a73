package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// after answers after a time.
func after(d time.Duration) func(string, *dns.Msg) []*dns.Msg {
	return func(n string, q *dns.Msg) []*dns.Msg {
		<-time.After(d)
		return good(n, q)
	}
}

// A scene is a world and a group in a bubble.
type scene struct {
	*world
	g *Group
}

// play runs f in a bubble with a group of servers 192.0.2.1 and so on. run:
// the group runs.
func play(t *testing.T, strategy Strategy, run bool, f func(s *scene), servers ...func(string, *dns.Msg) []*dns.Msg) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, servers: map[string]func(string, *dns.Msg) []*dns.Msg{}}
		var names []string
		for i, s := range servers {
			names = append(names, fmt.Sprintf("192.0.2.%d", i+1))
			w.servers[names[i]+":53"] = s
		}
		s := &scene{w, w.group(strategy, names...)}
		if run {
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() { s.g.Run(ctx) })
			synctest.Wait()
			defer wg.Wait()
			defer cancel()
		}
		f(s)
	})
}

// asks asks, and says how long that takes and who is asked until then.
func (s *scene) asks(want string, took time.Duration) {
	s.t.Helper()
	s.mu.Lock()
	s.asked = nil
	s.mu.Unlock()
	start := time.Now()
	_, err := s.g.Exchange(s.t.Context(), www)
	if got := time.Since(start); got != took || err != nil {
		s.t.Errorf("took %v, want %v (%v)", got, took, err)
	}
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.g.strategy == Parallel {
		slices.Sort(s.asked)
	}
	got := strings.NewReplacer("192.0.2.", "", ":53", "", " udp", "").Replace(strings.Join(s.asked, " "))
	if got != want {
		s.t.Errorf("asked %s, want %s", got, want)
	}
}

const ms = time.Millisecond

func TestFastest(t *testing.T) {
	play(t, Fastest, true, func(s *scene) {
		s.asks("1", 100*ms) // nothing is known: in order
		s.asks("2", 10*ms)  // never asked yet
		s.asks("2", 10*ms)
		s.servers["192.0.2.2:53"] = after(400 * ms)
		s.asks("2 1", 125*ms) // hedged after 10 ms and four times what they vary by
		s.asks("2 1", 182500*time.Microsecond)
		for range 3 {
			s.asks("1", 100*ms) // its average is the lower one now
		}
	}, after(100*ms), after(10*ms))
}

func TestHedging(t *testing.T) {
	play(t, Fastest, true, func(s *scene) {
		s.asks("1", 4*ms)
		s.asks("2", 6*ms)
		for range 50 {
			s.asks("1", 4*ms)
		}
		s.servers["192.0.2.1:53"] = silent
		s.asks("1 2", minHedge+6*ms)
	}, after(4*ms), after(6*ms))
}

func TestParallel(t *testing.T) {
	play(t, Parallel, true, func(s *scene) {
		s.asks("1 2 3", 5*ms)
		s.asks("1 2 3", 5*ms)
		<-time.After(3 * time.Second) // what was overtaken is waited for, and found dead
		for _, st := range s.g.Status()[:2] {
			if !st.Up {
				t.Errorf("%+v", st)
			}
		}
		if st := s.g.Status()[2]; st.Up || st.Failures != 1 {
			t.Errorf("%+v", st)
		}
		s.asks("1 2", 5*ms)
	}, after(50*ms), after(5*ms), silent)
}

func TestProbes(t *testing.T) {
	play(t, Failover, true, func(s *scene) {
		s.asks("1 2", 400*ms) // the slot of four asks in 2 s
		s.asks("2", 0)
		count := func() uint64 { return s.g.Stats().Servers[0].Probes }
		<-time.After(time.Minute)
		if n := count(); n != 1 {
			t.Errorf("%d probes of a group that was asked once since, want 1", n)
		}
		s.servers["192.0.2.1:53"] = good
		<-time.After(time.Minute)
		if n := count(); n != 1 {
			t.Errorf("%d probes of an idle group", n)
		}
		s.mu.Lock()
		s.asked = nil
		s.mu.Unlock()
		if _, err := s.g.Exchange(s.t.Context(), www); err != nil {
			t.Error(err)
		}
		synctest.Wait() // the question wakes the prober, and its answer brings the server back
		if st := s.g.Status()[0]; !st.Up || count() != 2 {
			t.Errorf("%+v after %d probes", st, count())
		}
		s.asks("1", 0)
	}, silent, good)
}

// TCP after silence is for servers that are well otherwise, and says nothing
// against those that have none.
func TestTCPAfterSilence(t *testing.T) {
	slow := Question{Name: "\x04slow\x07example\x03com\x00", Type: dns.TypeA, Class: dns.ClassINET}
	deaf := func(network string, q *dns.Msg) []*dns.Msg {
		if q.Question[0].Qtype == dns.TypeA && !strings.EqualFold(q.Question[0].Name, "www.example.com.") {
			return nil
		}
		return good(network, q)
	}
	play(t, Failover, true, func(s *scene) {
		s.refusesTCP = true
		start := time.Now()
		done := make(chan error)
		go func() {
			_, err := s.g.Exchange(s.t.Context(), slow)
			done <- err
		}()
		<-time.After(1200 * ms)
		s.asks("1", 0)
		if err := <-done; err == nil || time.Since(start) != 2*time.Second || !strings.Contains(err.Error(), "no answer in time") {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if st := s.g.Status()[0]; !st.Up {
			t.Errorf("a server without TCP is down for one name: %+v", st)
		}
		if n := s.g.Stats().Servers[0].Silent; n != 1 {
			t.Errorf("%d questions after silence, want 1", n)
		}
		s.servers["192.0.2.1:53"] = silent
		for range 3 {
			s.g.Exchange(s.t.Context(), slow) //nolint:errcheck // it fails
		}
		if n := s.g.Stats().Servers[0].Silent; n != 2 {
			t.Errorf("%d questions after silence, want one more until it was down", n)
		}
	}, deaf)
}

// Whoever waits for a server to come back has it probed, and is told when it is.
func TestBack(t *testing.T) {
	play(t, Failover, true, func(s *scene) {
		if _, err := s.g.Exchange(s.t.Context(), www); err == nil {
			t.Fatal("a silent server answers")
		}
		failed := time.Now()
		probes := func() uint64 { return s.g.Stats().Servers[0].Probes }
		<-time.After(time.Minute)
		idle := probes()
		if s.g.Back(failed) {
			t.Error("it is back before it was probed")
		}
		s.servers["192.0.2.1:53"] = good
		s.g.Back(failed)
		<-time.After(time.Minute)
		if !s.g.Back(failed) || probes() == idle {
			t.Errorf("not back after %d probes", probes()-idle)
		}
		if s.g.Back(time.Now()) {
			t.Error("it came back once, and does not do so again")
		}
	}, silent)
}

// Penalties double from 1 s to 30 s while somebody asks.
func TestBackOff(t *testing.T) {
	play(t, Failover, true, func(s *scene) {
		var at []time.Duration
		start := time.Now()
		s.asks("1 1 tcp 2", 0)
		probes := uint64(0)
		for time.Since(start) < 100*time.Second {
			<-time.After(100 * ms)
			s.g.Exchange(s.t.Context(), www)
			synctest.Wait()
			if n := s.g.Stats().Servers[0].Probes; n > probes {
				probes = n
				at = append(at, time.Since(start))
			}
		}
		if got := fmt.Sprint(at); got != "[1s 3s 7s 15s 31s 1m1s 1m31s]" {
			t.Errorf("probes at %s", got)
		}
	}, garbled, good)
}

// garbled answers are so many that TCP is tried, where one is enough.
func garbled(_ string, q *dns.Msg) (all []*dns.Msg) {
	for range forgeries {
		r := reply(q, 0)
		r.Response = false
		all = append(all, r)
	}
	return all
}

func TestWhatHappenedIsSaid(t *testing.T) {
	play(t, Failover, false, func(s *scene) {
		delete(s.servers, "192.0.2.2:53")
		_, err := s.g.Exchange(s.t.Context(), www)
		want := "asking upstream for www.example.com. A: no server answered: server 192.0.2.1: no answer in time, and over TCP: no answer in time; server 192.0.2.2: connection refused"
		if err == nil || err.Error() != want || !errors.Is(err, ErrNoAnswer) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}, silent, silent)
}

// Where nobody is there, nobody is asked for a moment, whatever the name. A server
// that says nothing is there.
func TestNobodyIsThere(t *testing.T) {
	play(t, Failover, false, func(s *scene) {
		delete(s.servers, "192.0.2.1:53")
		back := s.servers["192.0.2.2:53"]
		delete(s.servers, "192.0.2.2:53")
		ask := func() (asked uint64, err error) {
			for _, of := range s.g.servers {
				asked -= of.counts.asked.Load()
			}
			_, err = s.g.Exchange(s.t.Context(), www)
			for _, of := range s.g.servers {
				asked += of.counts.asked.Load()
			}
			return asked, err
		}
		first, err := ask()
		again, same := ask()
		if first == 0 || again != 0 || !errors.Is(err, ErrNoAnswer) || !errors.Is(same, ErrNoAnswer) || err.Error() != same.Error() {
			t.Errorf("asked %d, then %d: %v, %v", first, again, err, same)
		}
		s.servers["192.0.2.2:53"] = back
		time.Sleep(goneFor)
		if n, err := ask(); n == 0 || err != nil {
			t.Errorf("when one is back asked %d: %v", n, err)
		}
	}, good, good)
}

// A server that answers in lower case is asked over TCP, and after three times
// no more in mixed case.
func TestACaseThatIsNotKept(t *testing.T) {
	play(t, Failover, false, func(s *scene) {
		for range caseLosses {
			s.asks("1 1 tcp", 0)
		}
		s.asks("1", 0)
		if n := s.g.Stats().Servers[0].CaseLost; n != caseLosses {
			t.Errorf("%d answers did not keep the case", n)
		}
		<-time.After(remembered)
		s.asks("1 1 tcp", 0)
	}, func(n string, q *dns.Msg) []*dns.Msg {
		q.Question[0].Name = strings.ToLower(q.Question[0].Name)
		return good(n, q)
	})
}

// A server that does not know EDNS is not asked twice for each question.
func TestEDNSIsRemembered(t *testing.T) {
	play(t, Failover, false, func(s *scene) {
		s.asks("1 1", 0)
		s.asks("1", 0)
		<-time.After(remembered)
		s.asks("1 1", 0)
	}, old)
}

func TestBootstrap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var queries, broken atomic.Int32
		w := &world{t: t, servers: map[string]func(string, *dns.Msg) []*dns.Msg{
			"192.0.2.9:53": func(_ string, q *dns.Msg) []*dns.Msg {
				queries.Add(1)
				if broken.Load() > 0 {
					return []*dns.Msg{reply(q, dns.RcodeServerFailure)}
				}
				if q.Question[0].Qtype == dns.TypeAAAA {
					return []*dns.Msg{reply(q, 0)}
				}
				return []*dns.Msg{reply(q, 0, q.Question[0].Name+" 300 IN A 192.0.2.7", q.Question[0].Name+" 300 IN A 192.0.2.8")}
			},
			"192.0.2.8:853": good,
		}}
		find, err := newFinders(&Config{Dial: w.dial, Bootstrap: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.9:53")}})
		if err != nil {
			t.Fatal(err)
		}
		f := find("dns.example", 853)
		dial := func(want int32) {
			t.Helper()
			conn, err := f.dialAny(t.Context(), w.dial, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			w.wg.Wait()
			if n := queries.Load(); n != want {
				t.Errorf("%d queries, want %d", n, want)
			}
		}
		broken.Store(1)
		if _, err := f.dialAny(t.Context(), w.dial, time.Second); err == nil || err.Error() != "asking the bootstrap servers for dns.example: the answer is SERVFAIL\nthe answer is SERVFAIL" {
			t.Errorf("got %v", err)
		}
		broken.Store(0)
		queries.Store(0)
		dial(2)
		if f.addrs[0].Addr().String() != "192.0.2.8" {
			t.Errorf("the address that works is not the first of %v", f.addrs)
		}
		dial(2)
		<-time.After(300 * time.Second)
		broken.Store(1)
		dial(4) // the old one serves on
		dial(4)
		<-time.After(renewAfter)
		dial(6)
	})
}

// Who stops while a question is asked over TCP after silence stops all that goes
// on for it, however many wait.
func TestStopAfterSilence(t *testing.T) {
	quiet := func(string, *dns.Msg) []*dns.Msg { return nil }
	play(t, Failover, false, func(s *scene) {
		ctx, cancel := context.WithCancel(s.t.Context())
		var all sync.WaitGroup
		ended := make(chan error, 1)
		go func() { ended <- s.g.Run(ctx) }()
		synctest.Wait()
		for _, name := range []string{"\x01a\x00", "\x01b\x00"} {
			all.Go(func() { s.g.Exchange(ctx, Question{Name: name, Type: dns.TypeA, Class: 1}) })
		}
		time.Sleep(1700 * ms)
		cancel()
		all.Wait()
		time.Sleep(time.Minute)
		if len(ended) == 0 {
			s.t.Error("the group still runs a minute after the stop")
		}
	}, quiet)
}
