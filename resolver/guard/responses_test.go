package guard

import (
	"maps"
	"net/netip"
	"testing"
	"time"
)

func responses(t testing.TB, l ResponseLimits) *Responses {
	t.Helper()
	r, err := NewResponses(l)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var (
	victim = netip.MustParseAddr("192.0.2.1")
	name   = []byte("\x03www\x07example\x03com\x00")
)

// attack sends the same answer 1,000 times a second for 20 s and counts the verdicts.
func attack(r *Responses) (got [4]int) {
	for i := range 20_000 {
		got[r.Judge(victim, Unproven, Answer, name, int64(i)*1_000_000)]++
	}
	return got
}

// Of an attack on one network with one name the first second's answers go
// through, and of the rest every second one is truncated.
func TestAttack(t *testing.T) {
	for slip, want := range map[int][4]int{
		0: {Drop: 9995, Truncate: 9995, Send: 10}, 1: {Truncate: 19990, Send: 10}, 5: {Drop: 15992, Truncate: 3998, Send: 10}, -1: {Drop: 19990, Send: 10},
	} {
		r := responses(t, ResponseLimits{Answers: 10, Window: 5 * time.Second, Slip: slip})
		if got := attack(r); got != want {
			t.Errorf("slip %d: %v, want %v", slip, got, want)
		}
		if s := r.Stats(); s.Dropped != uint64(want[Drop]) || s.Truncated != uint64(want[Truncate]) || s.Displaced != 0 {
			t.Errorf("slip %d: stats %+v", slip, s)
		}
	}
}

func TestWindow(t *testing.T) {
	for after, want := range map[time.Duration]bool{4900 * time.Millisecond: false, 5200 * time.Millisecond: true} {
		r := responses(t, ResponseLimits{Answers: 10, Window: 5 * time.Second})
		attack(r)
		if v := r.Judge(victim, Unproven, Answer, name, int64(20*time.Second+after)); (v == Send) != want {
			t.Errorf("%v after the attack the verdict is %v", after, v)
		}
	}
}

// Who knows cookies is told to bring one back, and not more often than the
// network may get errors: then as often as others are told to come over TCP.
func TestChallenges(t *testing.T) {
	r := responses(t, ResponseLimits{Answers: 10, Errors: 20, Slip: 4})
	got := map[Verdict]int{}
	for range 110 {
		got[r.Judge(victim, Cookies, Answer, name, 0)]++
	}
	if want := (map[Verdict]int{Send: 10, Challenge: 40, Drop: 60}); !maps.Equal(got, want) { // 20, and every fourth of 80
		t.Errorf("got %v, want %v", got, want)
	}
	if s := r.Stats(); s.Challenged != 40 || s.Dropped != 60 || s.Truncated != 0 {
		t.Errorf("counted %+v", s)
	}
}

// What is limited is one kind of one name to one network; the rest goes on.
func TestOthersAreNotLimited(t *testing.T) {
	r := responses(t, ResponseLimits{Answers: 10, NXDomains: 10, Errors: 10, NoData: -1, Exempt: Loopback()})
	attack(r)
	other, end := []byte("\x05other\x07example\x03com\x00"), int64(20*time.Second)
	for _, c := range []struct {
		what   string
		client netip.Addr
		of     Standing
		kind   Kind
		name   []byte
		want   bool
	}{
		{"the same", victim, Unproven, Answer, name, false},
		{"a neighbour", netip.MustParseAddr("192.0.2.99"), Unproven, Answer, name, false},
		{"a proven source", victim, Proven, Answer, name, true},
		{"another name", victim, Unproven, Answer, other, true},
		{"another kind", victim, Unproven, NXDomain, name, true},
		{"another network", netip.MustParseAddr("192.0.3.1"), Unproven, Answer, name, true},
	} {
		if v := r.Judge(c.client, c.of, c.kind, c.name, end); (v == Send) != c.want {
			t.Errorf("%s: %v", c.what, v)
		}
	}
	for i := range 100 {
		made := append([]byte{1, 'a' + byte(i%26)}, name...)
		v := r.Judge(victim, Unproven, Error, made, end)
		if (v == Send) != (i < 10) {
			t.Errorf("error %d about names made up: %v", i, v)
		}
		if v := r.Judge(victim, Unproven, NoData, name, end); v != Send {
			t.Errorf("no data, which has no limit: %v", v)
		}
		if v := r.Judge(netip.MustParseAddr("127.0.0.1"), Unproven, Answer, name, end); v != Send {
			t.Errorf("an exempt client: %v", v)
		}
	}
}

// Who takes no more than its rate is never limited, for however long.
func TestAtTheRate(t *testing.T) {
	r := responses(t, ResponseLimits{})
	for i := range 200 { // in flight at once, all for one name
		if v := r.Judge(victim, Unproven, Answer, name, 0); v != Send {
			t.Fatalf("answer %d of 200 at once: %v", i, v)
		}
	}
	for i := range 20_000 {
		if v := r.Judge(victim, Unproven, Answer, name, int64(time.Second)+int64(i)*5_050_000); v != Send {
			t.Fatalf("answer %d: %v", i, v)
		}
	}
}

func TestZone(t *testing.T) {
	for in, want := range map[string]string{
		"\x03www\x07example\x03com\x00": "\x07example\x03com\x00",
		"\x07example\x03com\x00":        "\x07example\x03com\x00",
		"\x03com\x00":                   "\x03com\x00",
		"\x00":                          "\x00",
		"":                              "",
		"\x03ww":                        "\x03ww",
		"\x03www\xc0\x0c":               "\x03www\xc0\x0c",
	} {
		if got := Zone([]byte(in)); string(got) != want {
			t.Errorf("zone of %q is %q, want %q", in, got, want)
		}
	}
}

func FuzzZone(f *testing.F) {
	f.Add(name)
	f.Fuzz(func(t *testing.T, b []byte) {
		if z := Zone(b); len(z) > len(b) || string(b[len(b)-len(z):]) != string(z) {
			t.Errorf("zone of %q is %q", b, z)
		}
	})
}

func TestBadResponseLimits(t *testing.T) {
	for _, bad := range []ResponseLimits{
		{Answers: 1 << 20}, {Window: time.Millisecond}, {Window: time.Hour}, {Slip: 16}, {Prefix4: 40}, {Entries: 1}, {Exempt: []netip.Prefix{{}}},
	} {
		if _, err := NewResponses(bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

func TestAmplification(t *testing.T) {
	bounded, err := NewAmplifier(Amplification{Exempt: Loopback()})
	if err != nil {
		t.Fatal(err)
	}
	free, err := NewAmplifier(Amplification{Factor: -1})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		a        *Amplifier
		client   netip.Addr
		proven   bool
		question int
		want     int
	}{
		{bounded, victim, false, 40, 800},
		{bounded, victim, false, 20, MinAnswer},
		{bounded, victim, false, 100, 1232},
		{bounded, victim, true, 40, 1232},
		{bounded, netip.MustParseAddr("127.0.0.1"), false, 40, 1232},
		{free, victim, false, 40, 1232},
	} {
		if got := c.a.Size(c.client, c.proven, c.question, 1232); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
	if _, err := NewAmplifier(Amplification{Exempt: []netip.Prefix{{}}}); err == nil {
		t.Error("a prefix that is none was taken")
	}
}

func TestJudgeDoesNotAllocate(t *testing.T) {
	r, now := responses(t, ResponseLimits{}), int64(0)
	if n := testing.AllocsPerRun(1000, func() { now += 1000; r.Judge(victim, Unproven, NXDomain, Zone(name), now) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkJudge(b *testing.B) {
	r, now := responses(b, ResponseLimits{Exempt: Loopback()}), int64(0)
	b.ReportAllocs()
	for b.Loop() {
		now += 10_000
		r.Judge(victim, Unproven, Answer, name, now)
	}
}
