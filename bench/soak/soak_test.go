package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestTurns(t *testing.T) {
	for _, span := range []time.Duration{20 * time.Second, time.Minute, 5 * time.Minute} {
		var w watch
		last := time.Duration(-1)
		for _, turn := range turns(span) {
			if turn.at < last || turn.at >= span {
				t.Errorf("in %v: a turn at %v, after one at %v", span, turn.at, last)
			}
			if w.dead[turn.server] != turn.alive {
				t.Errorf("in %v: server %d at %v is as it was", span, turn.server, turn.at)
			}
			last = turn.at
			w.note(turn)
		}
		if want := max(1, int(span/cycle)); len(w.gaps) != want || w.dead[0] || w.dead[1] {
			t.Errorf("in %v: %d gaps, want %d; dead in the end: %v", span, len(w.gaps), want, w.dead)
		}
		for _, g := range w.gaps {
			if want := pressed(4*time.Second, span); (g.to - g.from - want).Abs() > time.Microsecond {
				t.Errorf("in %v: a gap from %v to %v, want one of %v", span, g.from, g.to, want)
			}
		}
	}
}

func TestReloads(t *testing.T) {
	for span, want := range map[time.Duration]int{30 * time.Second: 5, time.Minute: 5, 5 * time.Minute: 29, 24 * time.Hour: 8639} {
		if got := reloads(span); len(got) != want || got[len(got)-1] >= span {
			t.Errorf("in %v: %d reloads, want %d, all before its end", span, len(got), want)
		}
	}
}

func TestExcused(t *testing.T) {
	const s = time.Second
	gaps := []gap{{48 * s, 52 * s}, {108 * s, forever}}
	for _, tt := range []struct {
		asked, answered time.Duration
		want            bool
	}{
		{46 * s, 47 * s, false},
		{47 * s, 48 * s, true}, // on its way when the last upstream ended
		{49 * s, 49 * s, true},
		{54 * s, 56 * s, true},
		{55 * s, 55 * s, false},
		{109 * s, 300 * s, true},
	} {
		if got := excused(gaps, tt.asked, tt.answered); got != tt.want {
			t.Errorf("asked at %v, answered at %v: %v", tt.asked, tt.answered, got)
		}
	}
}

func TestHistogram(t *testing.T) {
	for us := range 100000 {
		d := time.Duration(us) * time.Microsecond
		if l := limit(place(d)); l <= d || l > d+d/8+time.Microsecond {
			t.Fatalf("%v is counted as below %v", d, l)
		}
	}
	var h histogram
	if got := h.rank(99); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
	for us := range 1000 {
		h[place(time.Duration(us)*time.Microsecond)]++
	}
	h[place(100*time.Hour)]++ // is counted somewhere
	for hundredths, want := range map[int]time.Duration{50: 500, 99: 990} {
		if got := h.rank(hundredths) / time.Microsecond; got < want || got > want*9/8 {
			t.Errorf("rank(%d) = %d µs, want %d", hundredths, got, want)
		}
	}
}

func testMix(t testing.TB) *mix {
	t.Helper()
	m, err := newMix([]string{"www.a.org", "www.b.org"}, []string{"ads.c.com"}, [4]byte{192, 0, 2, 1})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestPackedRefuses(t *testing.T) {
	for _, name := range []string{"", ".", "a..b", "a.", strings.Repeat("x", 64), strings.Repeat("x.", 130) + "x"} {
		if q, err := packed(name); err == nil {
			t.Errorf("packed(%q) = %q", name, q)
		}
	}
}

func TestShares(t *testing.T) {
	m, n, streams := testMix(t), map[kind]int{}, 0
	const all = 100000
	for i := range uint64(all) {
		q := m.pick(i)
		n[q.kind]++
		if q.stream {
			streams++
		}
	}
	for what, share := range map[string][2]int{"unique": {n[unique], uniqueShare}, "blocked": {n[blocked], blockedShare}, "stream": {streams, streamShare}} {
		if want := all * share[1] / 100; share[0] < want*9/10 || share[0] > want*11/10 {
			t.Errorf("%s: %d of %d, want about %d", what, share[0], all, want)
		}
	}
}

// reply makes the reply to a query, with an address if it is given.
func reply(query []byte, rcode byte, address ...byte) []byte {
	b := bytes.Clone(query)
	b[2] |= 0x80
	b[3] = 0x80 | rcode
	if len(address) > 0 {
		b[7] = 1
		b = append(b, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4)
		b = append(b, address...)
	}
	return b
}

func TestCheck(t *testing.T) {
	m := testMix(t)
	www := m.append(nil, question{kind: popular}, 7)
	other := m.append(nil, question{kind: popular, number: 1}, 7)
	cut := reply(www, 0, 192, 0, 2, 1)
	cut[2] |= 2
	for _, tt := range []struct {
		what   string
		kind   kind
		answer []byte
		want   error
	}{
		{"the address", popular, reply(www, 0, 192, 0, 2, 1), nil},
		{"another address", unique, reply(www, 0, 192, 0, 2, 2), errAddress},
		{"no address", popular, reply(www, 0), errAddress},
		{"an address cut off", popular, reply(www, 0, 192, 0, 2), errAddress},
		{"SERVFAIL", popular, reply(www, 2), errServfail},
		{"NXDOMAIN", popular, reply(www, 3), errRcode},
		{"blocked", blocked, reply(www, 3), nil},
		{"blocked with an address", blocked, reply(www, 3, 192, 0, 2, 1), errRcode},
		{"not blocked", blocked, reply(www, 0, 192, 0, 2, 1), errRcode},
		{"of another name", popular, reply(other, 0, 192, 0, 2, 1), errQuestion},
		{"the question", popular, www, errBroken},
		{"TC", popular, cut, errBroken},
		{"nothing", popular, nil, errBroken},
	} {
		if err := m.check(tt.kind, www, tt.answer); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
			t.Errorf("%s: %v, want %v", tt.what, err, tt.want)
		}
	}
}

func FuzzCheck(f *testing.F) {
	m := testMix(f)
	q := m.append(nil, question{kind: unique, number: 0xbeef}, 7)
	f.Add(reply(q, 0, 192, 0, 2, 1))
	f.Add(reply(q, 3))
	f.Fuzz(func(t *testing.T, answer []byte) {
		if m.check(unique, q, answer) == nil && !bytes.Contains(answer, m.address[:]) {
			t.Errorf("%x is right", answer)
		}
		if m.check(blocked, q, answer) == nil && answer[3]&15 != 3 {
			t.Errorf("%x is right", answer)
		}
	})
}

// sink is a link that keeps what is sent.
type sink struct{ sent [][]byte }

func (s *sink) send(msgs [][]byte) {
	for _, m := range msgs {
		s.sent = append(s.sent, bytes.Clone(m))
	}
}

// What a lane makes of a question that is answered at a time, or never.
func TestLane(t *testing.T) {
	const due, sent = 10 * time.Millisecond, 900 * time.Millisecond // the tries count from when it was asked
	for _, tt := range []struct {
		what     string
		answered time.Duration // 0: never
		rcode    byte
		sent     int
		want     row
		faults   int
	}{
		{"at once", 5 * time.Millisecond, 0, 1, row{asked: 1, answered: 1}, 0},
		{"at the second try", 1500 * time.Millisecond, 0, 2, row{asked: 1, answered: 1, retried: 1}, 0},
		{"at the last try", 2500 * time.Millisecond, 0, 3, row{asked: 1, answered: 1, retried: 1}, 0},
		{"never", 0, 0, 3, row{asked: 1, retried: 1, lost: 1}, 1},
		{"by SERVFAIL", 5 * time.Millisecond, 2, 1, row{asked: 1, answered: 1, servfail: 1}, 1},
		{"wrongly", 5 * time.Millisecond, 3, 1, row{asked: 1}, 1},
	} {
		s := &sink{}
		l := newLane(testMix(t), time.Minute)
		l.link = s
		l.ask(question{kind: popular}, due, sent)
		for age := time.Duration(0); age < 4*time.Second; age += 100 * time.Millisecond {
			l.overdue(sent + age)
			l.flush()
			if tt.answered > 0 && age >= tt.answered {
				answer := reply(s.sent[0], tt.rcode)
				if tt.rcode == 0 {
					answer = reply(s.sent[0], 0, 192, 0, 2, 1)
				}
				l.answered(answer, sent+tt.answered)
				l.answered(answer, sent+tt.answered) // the answer to a later try: of no account
			}
		}
		got := *l.tally.row(due)
		got.times = histogram{}
		if got != tt.want || len(s.sent) != tt.sent || len(l.tally.faults) != tt.faults || l.unsettled() != 0 {
			t.Errorf("%s: %+v, sent %d times, %d faults, %d open", tt.what, got, len(s.sent), len(l.tally.faults), l.unsettled())
		}
	}
}

// A lane refuses a question rather than to use an id twice.
func TestLaneIsFull(t *testing.T) {
	l := newLane(testMix(t), time.Minute)
	l.link = &sink{}
	for i := range ids + 1 {
		if ok := l.ask(question{kind: unique, number: uint32(i)}, 0, 0); ok != (i < ids) {
			t.Fatalf("question %d: %v", i, ok)
		}
	}
	l.overdue(tries * tryTime)
	if l.unsettled() != 0 || !l.ask(question{}, tries*tryTime, tries*tryTime) {
		t.Errorf("%d are open after the time of all tries", l.unsettled())
	}
}

func TestDue(t *testing.T) {
	l := &load{rate: 10000, span: time.Second}
	for _, tt := range []struct {
		now         time.Duration
		asked, want int
	}{
		{tick, 0, 10},
		{tick, 10, 0},
		{100 * tick, 0, 40}, // after a pause: not all at once
		{2 * time.Second, 9999, 1},
		{2 * time.Second, 10000, 0},
	} {
		if got := l.due(tt.now, tt.asked, 0); got != tt.want {
			t.Errorf("at %v, after %d: %d, want %d", tt.now, tt.asked, got, tt.want)
		}
	}
	closed := &load{span: time.Second}
	if a, b := closed.due(0, 5000, 56), closed.due(time.Second, 5000, 0); a != window-56 || b != 0 {
		t.Errorf("in a closed loop: %d, and after its end %d", a, b)
	}
}

// good is a report of a run of four minutes and a half with which all is well.
func good() *report {
	r := &report{
		span: 4*time.Minute + 30*time.Second, rate: 10, reloads: 11, loaded: 11,
		tally: &tally{each: time.Minute, rows: make([]row, 5)},
		gaps:  []gap{{48 * time.Second, 52 * time.Second}},
		after: map[string]float64{`starferry_reloads_total{result="ok"}`: 12},
	}
	for i := range r.tally.rows {
		r.tally.rows[i].asked = 540
	}
	for i := range 270 {
		r.samples = append(r.samples, sample{time.Duration(i) * time.Second, 100, 50, 200})
	}
	return r
}

func TestFailures(t *testing.T) {
	for what, tt := range map[string]struct {
		change func(*report)
		want   string // what each failure holds; empty: there is none
	}{
		"all is well": {func(*report) {}, ""},
		"SERVFAIL without upstreams": {func(r *report) {
			r.tally.faults = []fault{{unique, false, 49 * time.Second, 50 * time.Second, errServfail}}
		}, ""},
		"SERVFAIL of what is in the cache": {func(r *report) {
			r.tally.faults = []fault{{popular, false, 49 * time.Second, 50 * time.Second, errServfail}}
		}, "1 × popular: SERVFAIL"},
		"SERVFAIL with upstreams": {func(r *report) {
			r.tally.faults = []fault{{unique, true, 59 * time.Second, 59 * time.Second, errServfail}}
		}, "1 × unique: SERVFAIL"},
		"lost without upstreams": {func(r *report) {
			r.tally.faults = []fault{{unique, false, 49 * time.Second, 52 * time.Second, errLost}}
		}, "1 × unique: no reply"},
		"memory that is larger from the beginning": {func(r *report) {
			for i := range r.samples[:60] {
				r.samples[i].rss = 10
			}
		}, ""},
		"memory that grows": {func(r *report) {
			for i := range r.samples {
				r.samples[i].rss += float64(i)
			}
		}, "resident MB: from 190 to 310"},
		"files that grow": {func(r *report) {
			for i := range r.samples {
				r.samples[i].fds += float64(i / 4)
			}
		}, "open files"},
		"a few more goroutines": {func(r *report) {
			for i := range r.samples {
				r.samples[i].goroutines += float64(i / 60)
			}
		}, ""},
		"more files in a part of each cycle": {func(r *report) {
			for i := range r.samples {
				if i%60 >= 12 && i%60 < 30 {
					r.samples[i].fds *= 10
				}
			}
		}, ""},
		"too short to see it grow": {func(r *report) {
			r.span = 2*time.Minute + 59*time.Second
			for i := range r.samples {
				r.samples[i].rss += float64(i)
			}
		}, ""},
		"lost, and answered at another try": {func(r *report) { r.unheard, r.tally.rows[0].retried = 5, 5 }, ""},
		"answers not read":                  {func(r *report) { r.unread = 5 }, "not valid: 5 answers"},
		"asked late":                        {func(r *report) { r.late = 1100 * time.Millisecond }, "not valid: a question was asked 1.1s"},
		"no samples":                        {func(r *report) { r.samples = nil }, "too few"},
		"a reload without effect":           {func(r *report) { r.loaded-- }, "10 of 11 reloads"},
		"a refused reload":                  {func(r *report) { r.after[`starferry_reloads_total{result="refused"}`] = 1 }, "refused"},
		"a load that was less":              {func(r *report) { r.tally.rows[0].asked = 0 }, "not valid: only 2160 of 2700"},
		"connections that broke":            {func(r *report) { r.tally.broken = 2 }, "2 connections"},
	} {
		r := good()
		tt.change(r)
		got := r.failures()
		if (len(got) == 0) != (tt.want == "") || slices.ContainsFunc(got, func(s string) bool { return !strings.Contains(s, tt.want) }) {
			t.Errorf("%s: %q, want %q", what, got, tt.want)
		}
	}
}

func TestMetrics(t *testing.T) {
	got := metrics([]byte("# HELP a b\n# TYPE a counter\na{result=\"ok\"} 3\ngo_goroutines 12\nodd\nx NaN?\n\n"))
	if len(got) != 2 || got[`a{result="ok"}`] != 3 || got["go_goroutines"] != 12 {
		t.Errorf("%v", got)
	}
}

// The search ends next to what can be done, and tries no more than it may.
func TestBisect(t *testing.T) {
	for _, can := range []int{0, 1, 700, 30000, 64000, 100000} {
		const most = 64000
		n := 0
		got, err := bisect(most, steps, func(rate int) (bool, error) {
			n++
			if rate >= most || rate <= 0 {
				t.Errorf("tried %d", rate)
			}
			return rate <= can, nil
		})
		if err != nil || n != steps || got > can || min(can, most)-got > most>>steps {
			t.Errorf("of %d: found %d in %d steps, %v", can, got, n, err)
		}
	}
	wrong := errors.New("no server")
	if _, err := bisect(100, steps, func(int) (bool, error) { return true, wrong }); err != wrong {
		t.Errorf("got %v", err)
	}
}

// A step of the search holds a reload and an outage, and is left as it was found.
func TestStep(t *testing.T) {
	var w watch
	for _, turn := range step.turns {
		if w.note(turn); turn.at >= stepSpan || len(w.gaps) > 0 {
			t.Errorf("%+v: after the end, or nobody is left", turn)
		}
	}
	if w.dead != [2]bool{} || len(step.reloads) == 0 || step.reloads[0] >= step.turns[0].at {
		t.Errorf("%+v, dead in the end: %v", step, w.dead)
	}
}

func TestMisses(t *testing.T) {
	for what, tt := range map[string]struct {
		change func(*report)
		want   string
	}{
		"all is well":       {func(*report) {}, allWell},
		"a second try":      {func(r *report) { r.tally.rows[2].retried = 3 }, "3 asked again"},
		"a wrong answer":    {func(r *report) { r.tally.faults = []fault{{err: errAddress}} }, "1 × popular: another address"},
		"nobody could ask":  {func(r *report) { r.rate *= 2 }, "not valid: only 2700 of 5400"},
		"a reload too slow": {func(r *report) { r.loaded-- }, allWell}, // it is what it did to the others that counts
	} {
		r := good()
		tt.change(r)
		if got := r.misses(); !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s: %q, want %q", what, got, tt.want)
		}
	}
}

func TestSockets(t *testing.T) {
	list := []byte("   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n" +
		" 2871: 0100007F:558C 00000000:0000 07 00000000:00012B00 00:00000000 00000000     0        0 86371 2 0000000000000000 160\n" +
		" 2872: 0201007F:558D 0100007F:558C 01 00000000:00000000 00:00000000 00000000     0        0 86372 2 0000000000000000 0\n" +
		"cut 0100007F:558C\n")
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the list is written as a machine of the other byte order does it")
	}
	want := []udpSocket{{netip.MustParseAddrPort("127.0.0.1:21900"), 160}, {netip.MustParseAddrPort("127.0.1.2:21901"), 0}}
	if got := sockets(list); !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func FuzzSockets(f *testing.F) {
	f.Add([]byte(" 1: 0100007F:558C 0:0 07 0:0 00:0 0 0 0 8 2 0 160\n"))
	f.Fuzz(func(t *testing.T, list []byte) {
		if n := len(sockets(list)); n > bytes.Count(list, []byte("\n"))+1 {
			t.Errorf("%d sockets", n)
		}
	})
}
