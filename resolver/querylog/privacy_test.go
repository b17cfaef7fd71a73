package querylog

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// question is that of a client with options that tell who it is.
var question = func() []byte {
	m := new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA)
	m.SetEdns0(1232, true)
	o := m.IsEdns0()
	o.Option = append(o.Option,
		&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: netip.MustParseAddr("192.0.2.0").AsSlice()},
		&dns.EDNS0_LOCAL{Code: 65001, Data: []byte("alice-laptop")},
		&dns.EDNS0_EDE{InfoCode: 15, ExtraText: "alice-laptop is not allowed"})
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}()

func hidden(t *testing.T, c Config, r *Record) (Record, string) {
	t.Helper()
	c.File, c.Dnstap.Socket = "unused", "unused"
	l, err := New(c, quiet())
	if err != nil {
		t.Fatal(err)
	}
	l.OfferWire(r, question, question)
	line := string(l.outlets[0].queue.in[0].Append(nil))
	got, err := Parse([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	e := &l.outlets[1].queue.in[0]
	if c.Privacy != Keep && (bytes.Contains(e.query, []byte("alice")) || bytes.Contains(e.reply, []byte("alice"))) {
		t.Errorf("the messages tell who asked: %q", e.query)
	}
	m := new(dns.Msg)
	if err := m.Unpack(e.query); err != nil || len(m.IsEdns0().Option) != 3 {
		t.Errorf("the question is %v, %v", m, err)
	}
	return got, line
}

func TestPrivacy(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(strings.Repeat("0123456789abcdef", 4)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, line := hidden(t, Config{}, full()); line != fullLine || got.Privacy != Keep {
		t.Errorf("keep: %s", line)
	}
	secrets := []string{"192.0.2.7", "2001:db8::7", "53124", "alice"}
	for _, how := range []Privacy{Hash, Drop} {
		got, line := hidden(t, Config{Privacy: how, KeyFile: key}, full())
		for _, s := range secrets {
			if strings.Contains(line, s) {
				t.Errorf("%v tells %s: %s", how, s, line)
			}
		}
		if got.Privacy != how || !strings.Contains(line, `"privacy":"`+how.String()+`"`) {
			t.Errorf("the record does not say that it has %v: %s", how, line)
		}
		if got.Kind != "wireguard" || (len(got.Groups) > 0) != (how == Hash) {
			t.Errorf("%v: %+v", how, got.Identity)
		}
	}

	one, _ := hidden(t, Config{Privacy: Hash, KeyFile: key}, full())
	two, _ := hidden(t, Config{Privacy: Hash, KeyFile: key}, full())
	other, _ := hidden(t, Config{Privacy: Hash}, full())
	if one.Device != two.Device || one.Client.Addr != two.Client.Addr {
		t.Errorf("one key, and the pseudonyms %v %v and %v %v", one.Device, one.Client.Addr, two.Device, two.Client.Addr)
	}
	if one.Device == other.Device || one.Client.Addr == other.Client.Addr {
		t.Error("two keys give one pseudonym")
	}
	if !netip.MustParsePrefix("100::/64").Contains(one.Client.Addr) || !strings.HasPrefix(one.Device, "~") {
		t.Errorf("%v, %v", one.Client.Addr, one.Device)
	}
	r := full()
	r.User = r.Device
	if same, _ := hidden(t, Config{Privacy: Hash, KeyFile: key}, r); same.User == same.Device {
		t.Error("a user and a device of one name can be told to be")
	}
}

// A denial says which device it is and how it stands; of a block the policy
// alone is told.
func TestReasonsOfDenials(t *testing.T) {
	for _, c := range []struct {
		how    Privacy
		action string
		kept   bool
	}{{Keep, "deny", true}, {Hash, "deny", false}, {Drop, "deny", false}, {Hash, "block", true}, {Drop, "block", true}} {
		r := full()
		r.Action, r.Reason = c.action, "policy p: device laptop is not one of those demanded"
		got, _ := hidden(t, Config{Privacy: c.how}, r)
		if want := map[bool]string{true: r.Reason}[c.kept]; got.Reason != want {
			t.Errorf("%v of %s: %q, want %q", c.how, c.action, got.Reason, want)
		}
	}
}

func TestPseudonymsAreBounded(t *testing.T) {
	p := newPseudonyms([]byte("key"))
	a := netip.MustParseAddr("10.0.0.0")
	first := p.addr(a)
	for range 3 * maxKnown {
		a = a.Next()
		p.addr(a)
		p.word("device", a.String())
	}
	if len(p.addrs) > maxKnown || len(p.words) > maxKnown {
		t.Errorf("%d addresses and %d words", len(p.addrs), len(p.words))
	}
	if again := p.addr(netip.MustParseAddr("::ffff:10.0.0.0")); again != first {
		t.Errorf("%v, then %v", first, again)
	}
}

// A word that a later version has for privacy is not taken for keep.
func TestUnknownPrivacy(t *testing.T) {
	var p Privacy
	if err := json.Unmarshal([]byte(`"veil"`), &p); err != nil || p != Drop {
		t.Error(p, err)
	}
}

// Answers about the asker are not told at all.
func TestChaosIsHidden(t *testing.T) {
	r := full()
	r.Class = classChaos
	l, err := New(Config{Dnstap: Dnstap{Socket: "unused"}, Privacy: Hash}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	l.OfferWire(r, question, question)
	if e := &l.outlets[0].queue.in[0]; len(e.reply) > 0 || len(e.query) == 0 {
		t.Errorf("%q, %q", e.query, e.reply)
	}
}

func FuzzScrub(f *testing.F) {
	f.Add(question)
	f.Add(question[:30])
	f.Fuzz(func(t *testing.T, b []byte) {
		got := bytes.Clone(b)
		if !scrub(got) {
			return
		}
		m := new(dns.Msg)
		if len(got) != len(b) || m.Unpack(b) != nil || m.IsEdns0() == nil {
			return
		}
		clean := new(dns.Msg)
		if clean.Unpack(got) != nil {
			return // options of zeros need not be well formed
		}
		for _, o := range clean.IsEdns0().Option {
			if l, ok := o.(*dns.EDNS0_LOCAL); ok && len(bytes.Trim(l.Data, "\x00")) > 0 {
				t.Fatalf("%q is left of %q", got, b)
			}
		}
	})
}
