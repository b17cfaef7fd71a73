package stub

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/resolver/listen"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs a stub in front of a gateway that answers by handle, and returns
// where the stub listens. The listeners share a port number by luck only, so
// there are two addresses.
func serve(t *testing.T, s *Stub) (udp, tcp string) {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, pc, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve = %v", err)
		}
	})
	return pc.LocalAddr().String(), ln.Addr().String()
}

// gateway answers messages by the function, over pipes. Messages over "udp"
// are written and read whole, as pipes do.
func gateway(answer func(network string, req []byte) [][]byte) *Stub {
	return &Stub{Dial: func(_ context.Context, network string) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			buf := make([]byte, dns.MaxMsgSize)
			n, err := 0, error(nil)
			if network == "tcp" {
				if _, err = io.ReadFull(far, buf[:2]); err == nil {
					n, err = io.ReadFull(far, buf[:binary.BigEndian.Uint16(buf)])
				}
			} else {
				n, err = far.Read(buf)
			}
			if err != nil {
				return
			}
			for _, resp := range answer(network, buf[:n]) {
				if network == "tcp" {
					resp = append(binary.BigEndian.AppendUint16(nil, uint16(len(resp))), resp...)
				}
				far.Write(resp)
			}
			far.Read(buf) // until the stub has gone
		}()
		return near, nil
	}}
}

// respond makes the answer to a message.
func respond(t *testing.T, req []byte, fill func(q dns.Question, m *dns.Msg)) []byte {
	var q, m dns.Msg
	if err := q.Unpack(req); err != nil {
		t.Error(err)
		return nil
	}
	m.SetReply(&q)
	if q.IsEdns0() != nil {
		m.SetEdns0(dns.DefaultMsgSize, false)
	}
	fill(q.Question[0], &m)
	b, err := m.Pack()
	if err != nil {
		t.Error(err)
	}
	return b
}

func TestBytesStayAsTheyAre(t *testing.T) {
	var q dns.Msg
	q.SetQuestion("www.example.test.explain.starferry.", dns.TypeTXT)
	q.Question[0].Qclass = dns.ClassCHAOS
	q.SetEdns0(4096, true)
	req, _ := q.Pack()
	resp := bytes.Clone(req)
	resp[2] |= 0x80
	resp = append(resp, "what no parser knows"...)
	other := bytes.Clone(resp)
	other[0] ^= 1
	s := gateway(func(network string, got []byte) [][]byte {
		if !bytes.Equal(got, req) {
			t.Errorf("over %s the gateway got %x, want %x", network, got, req)
		}
		if network == "udp" {
			return [][]byte{req, other, resp} // an echo and a stranger's answer do not count
		}
		return [][]byte{resp}
	})
	udp, tcp := serve(t, s)
	for network, addr := range map[string]string{"udp": udp, "tcp": tcp} {
		c, err := net.Dial(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		got, err := ask(c, network, req)
		if err != nil || !bytes.Equal(got, resp) {
			t.Errorf("over %s: %x, %v, want %x", network, got, err, resp)
		}
	}
}

// Questions over one TCP connection do not wait for each other.
func TestPipelined(t *testing.T) {
	second := make(chan struct{})
	s := gateway(func(_ string, req []byte) [][]byte {
		return [][]byte{respond(t, req, func(q dns.Question, _ *dns.Msg) {
			if q.Name == "first.test." {
				<-second
			}
		})}
	})
	_, tcp := serve(t, s)
	c, err := dns.Dial("tcp", tcp)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	for _, name := range []string{"first.test.", "second.test."} {
		if err := c.WriteMsg(new(dns.Msg).SetQuestion(name, dns.TypeA)); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"second.test.", "first.test."} {
		m, err := c.ReadMsg()
		if err != nil || m.Question[0].Name != want {
			t.Fatalf("%v, %v, want the answer for %s", m, err, want)
		}
		if want == "second.test." {
			close(second)
		}
	}
}

// Silence is answered after five seconds, in the fake time of a bubble.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := gateway(func(string, []byte) [][]byte { return nil })
		for _, edns := range []bool{true, false} {
			q := new(dns.Msg).SetQuestion("www.example.test.", dns.TypeA)
			if edns {
				q.SetEdns0(1232, false)
			}
			req, _ := q.Pack()
			for _, network := range []string{"udp", "tcp"} {
				start := time.Now()
				var m dns.Msg
				if err := m.Unpack(s.answer(t.Context(), &listen.Client{Listener: "stub", Transport: network}, req)); err != nil {
					t.Fatal(err)
				}
				if m.Rcode != dns.RcodeServerFailure || m.Id != q.Id || time.Since(start) != patience {
					t.Errorf("%s: after %v: %v", network, time.Since(start), &m)
				}
				if opt := m.IsEdns0(); (opt != nil) != edns {
					t.Errorf("EDNS in the question: %t, in the answer: %v", edns, opt)
				} else if edns && opt.Option[0].(*dns.EDNS0_EDE).InfoCode != dns.ExtendedErrorCodeNetworkError {
					t.Errorf("%v", opt)
				}
			}
		}
	})
}

func TestLookup(t *testing.T) { synctest.Test(t, testLookup) }

func testLookup(t *testing.T) {
	ede := func(m *dns.Msg, code uint16, text string) {
		o := m.IsEdns0()
		o.Option = append(o.Option, &dns.EDNS0_EDE{InfoCode: code, ExtraText: text})
	}
	rr := func(m *dns.Msg, s string) {
		r, err := dns.NewRR(s)
		if err != nil {
			t.Fatal(err)
		}
		m.Answer = append(m.Answer, r)
	}
	var lost atomic.Bool
	s := gateway(func(network string, req []byte) [][]byte {
		silent := false
		resp := respond(t, req, func(q dns.Question, m *dns.Msg) {
			switch q.Name + dns.TypeToString[q.Qtype] {
			case "both.test.A":
				rr(m, "both.test. CNAME x.test.")
				rr(m, "x.test. A 198.19.0.1")
			case "both.test.AAAA":
				rr(m, "both.test. AAAA 2001:2:0:1000::1")
			case "four.test.A":
				rr(m, "four.test. A 198.19.0.1")
			case "denied.test.A", "denied.test.AAAA":
				m.Rcode = dns.RcodeRefused
				ede(m, dns.ExtendedErrorCodeProhibited, "policy china-origins: disk encryption is off")
			case "none.test.A", "none.test.AAAA":
				m.Rcode = dns.RcodeNameError
			case "cut.test.A":
				if m.Truncated = network == "udp"; !m.Truncated {
					rr(m, "cut.test. A 198.19.0.2")
				}
			}
			if q.Name == "lost.test." && q.Qtype == dns.TypeA {
				silent = lost.CompareAndSwap(false, true)
				rr(m, "lost.test. A 198.19.0.3")
			}
		})
		if silent {
			return nil
		}
		return [][]byte{resp}
	})
	for name, want := range map[string]string{
		"both.test":   "198.19.0.1 2001:2:0:1000::1",
		"four.test":   "198.19.0.1",
		"cut.test":    "198.19.0.2",
		"lost.test":   "198.19.0.3",
		"denied.test": "DNS answers REFUSED for denied.test: policy china-origins: disk encryption is off (EDE 18 Prohibited)",
		"none.test":   "DNS answers NXDOMAIN for none.test",
		"empty.test":  "DNS knows no address of empty.test",
		"a..test":     `"a..test" is not a name`,
	} {
		addrs, err := s.Lookup(t.Context(), name)
		var got []string
		for _, a := range addrs {
			got = append(got, a.String())
		}
		if err != nil {
			got = append(got, err.Error())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestNoGateway(t *testing.T) {
	down := errors.New("the link is down")
	s := &Stub{Dial: func(context.Context, string) (net.Conn, error) { return nil, down }}
	if _, err := s.Lookup(t.Context(), "x.test"); !errors.Is(err, down) {
		t.Errorf("%v", err)
	}
}

func FuzzFailure(f *testing.F) {
	q, _ := new(dns.Msg).SetQuestion("www.example.test.", dns.TypeA).SetEdns0(1232, true).Pack()
	f.Add(q)
	f.Fuzz(func(t *testing.T, req []byte) {
		resp := failure(req, errors.New("the link is down"))
		if resp != nil && !answers(resp, req) {
			t.Errorf("%x is no answer to %x", resp, req)
		}
	})
}
