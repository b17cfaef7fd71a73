package resolver

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
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/resolver/listen"

	"github.com/starferry/starferry/policy"
)

// A node is another node in memory: what it does with the n-th message that it
// gets over a transport, and when it got them.
type node struct {
	t      *testing.T
	answer func(n int, network string, q *dns.Msg) []*dns.Msg
	mu     sync.Mutex
	got    []string
	last   *dns.Msg
	wg     sync.WaitGroup
}

func (n *node) dial(_ context.Context, network string, _ netip.AddrPort) (net.Conn, error) {
	near, far := net.Pipe()
	begin := time.Now()
	n.wg.Go(func() {
		defer far.Close()
		buf := make([]byte, 65536)
		for {
			var length [2]byte
			size := 0
			var err error
			if network == "tcp" {
				if _, err = io.ReadFull(far, length[:]); err == nil {
					size, err = io.ReadFull(far, buf[:binary.BigEndian.Uint16(length[:])])
				}
			} else {
				size, err = far.Read(buf)
			}
			if err != nil {
				return
			}
			q := new(dns.Msg)
			if err := q.Unpack(buf[:size]); err != nil {
				n.t.Errorf("unreadable question: %v", err)
			}
			n.mu.Lock()
			n.got = append(n.got, fmt.Sprintf("%s %v", network, time.Since(begin)))
			n.last = q
			count := len(n.got)
			n.mu.Unlock()
			for _, r := range n.answer(count, network, q) {
				b, err := r.Pack()
				if err != nil {
					n.t.Errorf("packing: %v", err)
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

func yes(q *dns.Msg) *dns.Msg {
	r := new(dns.Msg).SetReply(q)
	rr, _ := dns.NewRR(q.Question[0].Name + " 30 IN A 240.1.0.1")
	r.Answer = []dns.RR{rr}
	r.SetEdns0(1232, false)
	r.IsEdns0().Option = private{journal: 42, node: "hk-1"}.options()
	return r
}

func TestAskNode(t *testing.T) {
	tests := []struct {
		what   string
		answer func(n int, network string, q *dns.Msg) []*dns.Msg
		err    error
		got    string
		took   time.Duration
	}{
		{"an answer", func(_ int, _ string, q *dns.Msg) []*dns.Msg { return []*dns.Msg{yes(q)} }, nil, "udp 0s", 0},
		{"the first question is lost", func(n int, _ string, q *dns.Msg) []*dns.Msg {
			if n == 1 {
				return nil
			}
			return []*dns.Msg{yes(q)}
		}, nil, "udp 0s, udp 800ms", 800 * time.Millisecond},
		{"a slow answer to the first question", func(n int, _ string, q *dns.Msg) []*dns.Msg {
			if n > 1 {
				return nil
			}
			<-time.After(700 * time.Millisecond)
			return []*dns.Msg{yes(q)}
		}, nil, "udp 0s", 700 * time.Millisecond},
		{"silence", func(int, string, *dns.Msg) []*dns.Msg { return nil }, ErrNoAnswer, "udp 0s, udp 800ms, udp 1.8s", 3 * time.Second},
		{"an answer to another question first", func(_ int, _ string, q *dns.Msg) []*dns.Msg {
			other := yes(q)
			other.Id++
			third := yes(q)
			third.Question[0].Name = "other."
			return []*dns.Msg{other, third, yes(q)}
		}, nil, "udp 0s", 0},
		{"truncated", func(_ int, network string, q *dns.Msg) []*dns.Msg {
			r := yes(q)
			r.Truncated = network == "udp"
			return []*dns.Msg{r}
		}, nil, "udp 0s, tcp 0s", 0},
		{"truncated, and silence over TCP", func(_ int, network string, q *dns.Msg) []*dns.Msg {
			if network == "tcp" {
				return nil
			}
			r := yes(q)
			r.Truncated = true
			return []*dns.Msg{r}
		}, ErrNoAnswer, "udp 0s, tcp 0s", 3 * time.Second},
		{"a bad option", func(_ int, _ string, q *dns.Msg) []*dns.Msg {
			r := yes(q)
			r.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: optionJournal, Data: []byte{1}}}
			return []*dns.Msg{r}
		}, ErrNoAnswer, "udp 0s", 0},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &node{t: t, answer: tt.answer}
				begin := time.Now()
				q := Question{Name: "www.listed-china.test", Type: dns.TypeA, Class: dns.ClassINET}
				facts := Facts{{Name: "www.listed-china.test", Addrs: []netip.Addr{netip.MustParseAddr("203.0.113.9")}}}
				r, err := AskNode(t.Context(), n.dial, netip.MustParseAddrPort("100.72.128.1:53"), q, "hong-kong", facts)
				if took := time.Since(begin); took != tt.took {
					t.Errorf("took %v, want %v", took, tt.took)
				}
				n.wg.Wait()
				if got := strings.Join(n.got, ", "); got != tt.got {
					t.Errorf("the node got %s, want %s", got, tt.got)
				}
				p, perr := readPrivate(n.last.IsEdns0())
				if perr != nil || p.route != "hong-kong" || fmt.Sprint(p.facts) != fmt.Sprint(facts) {
					t.Errorf("the node was told %+v, %v", p, perr)
				}
				if !errors.Is(err, tt.err) {
					t.Fatalf("got %v, want %v", err, tt.err)
				}
				if err == nil && (r.Node != "hk-1" || r.Journal != 42 || len(r.Addrs) != 1 || r.Addrs[0] != netip.MustParseAddr("240.1.0.1")) {
					t.Errorf("got %+v", r)
				}
			})
		})
	}
}

func TestLongQuestionsGoOverTCP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{t: t, answer: func(_ int, _ string, q *dns.Msg) []*dns.Msg { return []*dns.Msg{yes(q)} }}
		var facts Facts
		for range maxHops {
			facts = append(facts, policy.Hop{Name: strings.Repeat("n", 200)})
		}
		_, err := AskNode(t.Context(), n.dial, netip.AddrPort{}, Question{Name: "a", Type: 1, Class: 1}, "hong-kong", facts)
		n.wg.Wait()
		if err != nil || strings.Join(n.got, " ") != "tcp 0s" {
			t.Errorf("%v, %v", n.got, err)
		}
	})
}

func TestAskNodeIsCalledOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{t: t, answer: func(int, string, *dns.Msg) []*dns.Msg { return nil }}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := AskNode(ctx, n.dial, netip.AddrPort{}, Question{Name: "a", Type: 1, Class: 1}, "", nil)
		n.wg.Wait()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestAskNodeOverALinkThatIsDown(t *testing.T) {
	dial := func(context.Context, string, netip.AddrPort) (net.Conn, error) {
		return nil, fmt.Errorf("hk-1: %w", ErrLinkDown)
	}
	_, err := AskNode(t.Context(), dial, netip.AddrPort{}, Question{Name: "a", Type: 1, Class: 1}, "", nil)
	if !errors.Is(err, ErrLinkDown) || errors.Is(err, ErrNoAnswer) {
		t.Errorf("got %v", err)
	}
}

func TestProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Connector{Name: "cn-sha-1", Version: "1.2", Upstream: func(netip.Addr) (string, bool) { return "hk-1", true }, Journal: func() uint64 { return 77 }}
		n := &node{t: t, answer: func(_ int, _ string, q *dns.Msg) []*dns.Msg {
			b, _ := q.Pack()
			r := new(dns.Msg)
			if err := r.Unpack(c.Handle(t.Context(), &listen.Client{Addr: netip.AddrPort{}, Listener: "link", Transport: listen.UDP}, b)); err != nil {
				t.Error(err)
			}
			return []*dns.Msg{r}
		}}
		got, err := Probe(t.Context(), n.dial, netip.AddrPort{}, 0)
		n.wg.Wait()
		if want := (NodeInfo{"cn-sha-1", "connector", 77, "1.2"}); err != nil || got != want {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	})
}
