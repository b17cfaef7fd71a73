package main

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestSummary(t *testing.T) {
	var times []time.Duration
	for i := range 1000 {
		times = append(times, time.Duration(1000-i)*time.Millisecond)
	}
	s := summarize(times)
	want := summary{1000, 999, 500 * time.Millisecond, 990 * time.Millisecond, 999 * time.Millisecond}
	if s != want {
		t.Errorf("summarize(1 ms to 1000 ms) = %v, want %v", s, want)
	}
	if s := summarize(times[:1]); s.answered != 0 || s.median != time.Second {
		t.Errorf("one without an answer: %v", s)
	}
	if s := summarize(nil); s != (summary{}) {
		t.Errorf("nothing: %v", s)
	}
}

// Answers belong to the latest question with their id; what answers none, or
// one a second time, does not count.
func TestNote(t *testing.T) {
	start := time.Unix(1000, 0)
	answer := func(id uint16, rcode byte) []byte {
		return append([]byte{byte(id >> 8), byte(id), 0x80, rcode}, make([]byte, 8)...)
	}
	for _, tt := range []struct {
		what   string
		sent   int64
		answer []byte
		number int // of the question that is answered; -1: none
	}{
		{"the last", 3, answer(2, 0), 5},
		{"an earlier one", 3, answer(0, 3), 1},
		{"not asked yet", 3, answer(3, 0), -1},
		{"after the ids have come round", 65536 + 2, answer(1, 0), 2*65537 + 1},
		{"a failure", 3, answer(2, 2), -1},
		{"a question", 3, make([]byte, 12), -1},
		{"cut off", 3, []byte{0, 2, 0x80}, -1},
	} {
		ln := lane{first: 1, step: 2, start: start, left: make([]time.Duration, 2*65540), times: make([]time.Duration, 2*65540)}
		for i := range ln.left {
			ln.left[i] = time.Duration(i) * time.Millisecond
		}
		ln.sent.Store(tt.sent)
		left := start.Add(time.Duration(max(0, tt.number)) * time.Millisecond)
		ln.note(tt.answer, left.Add(7*time.Microsecond))
		ln.note(tt.answer, left.Add(9*time.Microsecond))
		for i, d := range ln.times {
			if (d != 0) != (i == tt.number) || (d != 0 && d != 7*time.Microsecond) {
				t.Errorf("%s: question %d took %v", tt.what, i, d)
			}
		}
	}
}

// A server that is silent about every tenth question is said to be.
func TestAsk(t *testing.T) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() {
		var b [512]byte
		for i := 0; ; i++ {
			n, from, err := c.ReadFromUDPAddrPort(b[:])
			if err != nil {
				return
			}
			b[2] |= 0x80
			if i%10 > 0 {
				_, _ = c.WriteToUDPAddrPort(b[:n], from)
			}
		}
	}()
	queries, err := pack([]string{"a.example", "b.example"})
	if err != nil {
		t.Fatal(err)
	}
	to := netip.MustParseAddrPort(c.LocalAddr().String())
	times, late, err := load{to: to, queries: queries, rate: 1000, span: 100 * time.Millisecond, sockets: 3}.ask()
	if err != nil {
		t.Fatal(err)
	}
	if s := summarize(times); s.asked != 100 || s.answered != 90 || s.p99 != unanswered || s.median >= unanswered {
		t.Error(s)
	}
	if s := summarize(late); s.asked != 100 || s.median < -time.Millisecond || s.median >= unanswered {
		t.Errorf("questions left %v", s)
	}
}
