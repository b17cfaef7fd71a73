package cookie

import (
	"bytes"
	"context"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func shared(t testing.TB, secrets ...string) *Server {
	t.Helper()
	all, err := Read(strings.NewReader(strings.Join(secrets, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewShared(all...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The examples of RFC 9018 appendix A.
func TestExamplesOfTheRFC(t *testing.T) {
	const secret = "e5e973e5a6b2a43f48e7dc849e37bfcf"
	for _, c := range []struct {
		name    string
		secrets []string
		client  string
		now     int64
		option  string
		state   State
		want    string
	}{
		{"A.1 learning a cookie", []string{secret}, "198.51.100.100", 1559731985,
			"2464c4abcf10c957", ClientOnly, "2464c4abcf10c957010000005cf79f111f8130c3eee29480"},
		{"A.2 the same client learning a renewed one", []string{secret}, "198.51.100.100", 1559734385,
			"2464c4abcf10c957010000005cf79f111f8130c3eee29480", Good, "2464c4abcf10c957010000005cf7a871d4a564a1442aca77"},
		// There the cookie comes 1 h 52 min after it was made, which section 4.3 lets it not be.
		{"A.3 another client learning a renewed one", []string{secret}, "203.0.113.203", 1559734700,
			"fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5", Bad, "fc93fc62807ddb86010000005cf7a9acf73a7810aca2381e"},
		{"A.4 IPv6 with a secret rolled over", []string{"445536bcd2513298075a5d379663c962", "dd3bdf9344b678b185a6f5cb60fca715"}, "2001:db8:220:1:59de:d0f4:8769:82b8", 1559741961,
			"22681ab97d52c298010000005cf7c57926556bd0934c72f8", Good, "22681ab97d52c298010000005cf7c609a6bb79d16625507a"},
	} {
		got, state := shared(t, c.secrets...).Append(nil, unhex(t, c.option), netip.MustParseAddr(c.client), time.Unix(c.now, 0))
		if want := "000a0018" + c.want; hex.EncodeToString(got) != want || state != c.state {
			t.Errorf("%s: %v %x, want %v %s", c.name, state, got, c.state, want)
		}
	}
}

// The cookie of A.3 is good while it is young, reserved bytes and all, and is
// replaced by one without.
func TestReservedBytes(t *testing.T) {
	s, client := shared(t, "e5e973e5a6b2a43f48e7dc849e37bfcf"), netip.MustParseAddr("203.0.113.203")
	option := unhex(t, "fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5")
	got, state := s.Append(nil, option, client, time.Unix(1559727985+600, 0))
	if state != Good || !bytes.Equal(got[12:16], []byte{1, 0, 0, 0}) {
		t.Errorf("%v %x", state, got)
	}
	option[10] ^= 1
	if _, state := s.Append(nil, option, client, time.Unix(1559727985+600, 0)); state != Bad {
		t.Errorf("other reserved bytes: %v", state)
	}
}

var (
	asker = netip.MustParseAddr("192.0.2.1")
	start = time.Unix(1_700_000_000, 0)
	first = []byte("\x01\x02\x03\x04\x05\x06\x07\x08")
)

func TestAges(t *testing.T) {
	s := New()
	opt, _ := s.Append(nil, first, asker, start)
	for _, c := range []struct {
		after time.Duration
		state State
		same  bool
	}{
		{0, Good, true}, {30 * time.Minute, Good, true}, {30*time.Minute + time.Second, Good, false}, {time.Hour, Good, false},
		{time.Hour + time.Second, Bad, false}, {-5 * time.Minute, Good, true}, {-5*time.Minute - time.Second, Bad, false}, {30 * 365 * 24 * time.Hour, Bad, false},
	} {
		got, state := s.Append(nil, opt[4:], asker, start.Add(c.after))
		if state != c.state || bytes.Equal(got, opt) != c.same {
			t.Errorf("%v later: %v %x, want %v, the same: %v", c.after, state, got, c.state, c.same)
		}
		if _, state := s.Append(nil, got[4:], asker, start.Add(c.after)); state != Good {
			t.Errorf("%v later: the cookie in the answer is %v", c.after, state)
		}
	}
}

func TestTimeGoesRound(t *testing.T) {
	s, before := New(), time.Unix(1<<32-10, 0)
	opt, _ := s.Append(nil, first, asker, before)
	if _, state := s.Append(nil, opt[4:], asker, before.Add(time.Minute)); state != Good {
		t.Errorf("in 2106: %v", state)
	}
}

func TestStates(t *testing.T) {
	s := New()
	opt, _ := s.Append(nil, first, asker, start)
	good := opt[4:]
	other := bytes.Clone(good)
	other[0] ^= 1
	v2 := bytes.Clone(good)
	v2[8] = 2
	for _, c := range []struct {
		what   string
		option []byte
		client string
		want   State
	}{
		{"no option", nil, "192.0.2.1", None},
		{"empty", []byte{}, "192.0.2.1", Malformed},
		{"7 bytes", good[:7], "192.0.2.1", Malformed},
		{"9 bytes", good[:9], "192.0.2.1", Malformed},
		{"15 bytes", good[:15], "192.0.2.1", Malformed},
		{"41 bytes", make([]byte, 41), "192.0.2.1", Malformed},
		{"8 bytes", good[:8], "192.0.2.1", ClientOnly},
		{"16 bytes, of another server", good[:16], "192.0.2.1", Bad},
		{"40 bytes, of another server", make([]byte, 40), "192.0.2.1", Bad},
		{"another version", v2, "192.0.2.1", Bad},
		{"another client cookie", other, "192.0.2.1", Bad},
		{"another address", good, "192.0.2.2", Bad},
		{"the same address as IPv6", good, "::ffff:192.0.2.1", Good},
		{"another family", good, "2001:db8::1", Bad},
		{"the same", good, "192.0.2.1", Good},
	} {
		dst := []byte("before")
		got, state := s.Append(dst, c.option, netip.MustParseAddr(c.client), start)
		if state != c.want {
			t.Errorf("%s: %v, want %v", c.what, state, c.want)
		}
		want := len(dst)
		if state != None && state != Malformed {
			want += optionLen
		}
		if !bytes.HasPrefix(got, dst) || len(got) != want {
			t.Errorf("%s: %q", c.what, got)
		}
	}
}

// A secret of one's own changes every day; cookies of the last hour stay good.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		time.Sleep(rotatePeriod - time.Minute)
		opt, _ := s.Append(nil, first, asker, time.Now())
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		got, state := s.Append(nil, opt[4:], asker, time.Now())
		if state != Good || bytes.Equal(got, opt) {
			t.Errorf("after the change: %v, the same: %v", state, bytes.Equal(got, opt))
		}
		time.Sleep(rotatePeriod)
		synctest.Wait()
		// Were the cookie not too old, its secret would still be forgotten.
		if _, state := s.Append(nil, opt[4:], asker, time.Now().Add(-rotatePeriod)); state != Bad {
			t.Errorf("after two changes: %v", state)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestRead(t *testing.T) {
	const a, b = "e5e973e5a6b2a43f48e7dc849e37bfcf", "DD3BDF9344B678B185A6F5CB60FCA715"
	all, err := Read(strings.NewReader("# of this month\r\n" + a + "\r\n\n " + b + "\n"))
	if err != nil || len(all) != 2 || hex.EncodeToString(all[0][:]) != a || all[1][0] != 0xdd {
		t.Errorf("%x, %v", all, err)
	}
	for _, bad := range []string{"", "# none\n", a[:31], a + "00", a + "\n" + strings.Replace(a, "e", "g", 1), strings.Repeat(a+"\n", 4)} {
		if all, err := Read(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was read as %x", bad, all)
		} else if strings.Contains(err.Error(), "e973") {
			t.Errorf("the error tells the secret: %v", err)
		}
	}
	if _, err := NewShared(); err == nil {
		t.Error("no secret was enough")
	}
}

// The option is what the DNS library makes of it.
func TestOptionInAMessage(t *testing.T) {
	opt, _ := New().Append(nil, first, asker, start)
	m := new(dns.Msg)
	m.SetEdns0(1232, false)
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] = byte(len(opt)) // the length of the options
	if err := m.Unpack(append(b, opt...)); err != nil {
		t.Fatal(err)
	}
	c, ok := m.IsEdns0().Option[0].(*dns.EDNS0_COOKIE)
	if !ok || c.Cookie != hex.EncodeToString(opt[4:]) {
		t.Errorf("%v", m.IsEdns0().Option)
	}
}

func FuzzAppend(f *testing.F) {
	s := New()
	opt, _ := s.Append(nil, first, asker, start)
	f.Add(opt[4:], asker.AsSlice(), uint32(0))
	f.Add(opt[4:12], []byte(nil), uint32(4000))
	f.Fuzz(func(t *testing.T, option, addr []byte, after uint32) {
		client, _ := netip.AddrFromSlice(addr)
		now := start.Add(time.Duration(after) * time.Second)
		got, state := s.Append(nil, option, client, now)
		switch {
		case state == None || state == Malformed:
			if len(got) != 0 {
				t.Errorf("%v with %x", state, got)
			}
			return
		case state == Good && !bytes.Equal(option, opt[4:]):
			t.Errorf("%x is good", option)
		}
		if len(got) != optionLen || !bytes.Equal(got[4:12], option[:8]) {
			t.Fatalf("%x answered with %x", option, got)
		}
		again, state := s.Append(nil, got[4:], client, now)
		if state != Good || !bytes.Equal(again, got) {
			t.Errorf("our own %x is %v", got, state)
		}
	})
}

func TestAppendDoesNotAllocate(t *testing.T) {
	s, buf := New(), make([]byte, 0, 64)
	opt, _ := s.Append(nil, first, asker, start)
	later := start.Add(40 * time.Minute)
	if n := testing.AllocsPerRun(1000, func() { s.Append(buf, opt[4:], asker, later) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAppend(b *testing.B) {
	s, buf := New(), make([]byte, 0, 64)
	opt, _ := s.Append(nil, first, asker, start)
	b.ReportAllocs()
	for b.Loop() {
		s.Append(buf, opt[4:], asker, start)
	}
}
