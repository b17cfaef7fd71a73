package state

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func row(id device.ID, overlay ...string) DirectoryRow {
	return DirectoryRow{ID: id, Kind: device.ByWireGuard, Overlay: prefixes(overlay...), Groups: []string{"staff"}, Verdicts: passed(noon)}
}

func TestRowJSON(t *testing.T) {
	b, err := json.Marshal(row("k3v", "100.72.1.10/32"))
	want := `{"id":"k3v","overlay":["100.72.1.10/32"],"kind":"wireguard","groups":["staff"],"verdicts":{"laptop":{"result":"passed","expires":"2026-01-02T12:00:00Z"}}}`
	if err != nil || string(b) != want {
		t.Errorf("written as\n%s, %v, want\n%s", b, err, want)
	}
	var r DirectoryRow
	if err := json.Unmarshal([]byte(`{"id":"x","kind":"network","colour":"red","verdicts":{"p":{"result":"unknown"}}}`), &r); err != nil || r.Kind != device.ByNetwork {
		t.Errorf("a row with an unknown member: %+v, %v", r, err)
	}
	many := slices.Repeat([]string{"g"}, maxGroups+1)
	for text, want := range map[string]string{
		`{"kind":"network"}`:                                                                 "without an id",
		`{"id":"x","kind":"oracle"}`:                                                         `"oracle" is none of`,
		`{"id":"x","kind":"network","overlay":["100.72.1.1/24"]}`:                            "not a prefix of its own",
		`{"id":"x","kind":"network","overlay":[""]}`:                                         "not a prefix of its own",
		`{"id":"x","kind":"network","overlay":["::ffff:1.2.3.4/128"]}`:                       "not a prefix of its own",
		`{"id":"x","kind":"network","verdicts":{"p":{"result":"fine"}}}`:                     `"fine" is no result`,
		`{"id":"x","kind":"network","groups":["` + strings.Join(many, `","`) + `"]}`:         "too many",
		`{"id":"` + strings.Repeat("x", maxRow) + `"}`:                                       "more than",
		`{"id":"x","kind":"network","verdicts":{"p":{"expires":"9999-12-31T23:00:00-02:00"`:  "unexpected end",
		`{"id":"x","kind":"network","verdicts":{"p":{"result":"passed","expires":"soon"}}} `: "soon",
	} {
		if err := json.Unmarshal([]byte(text), &r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v, want %q", text, err, want)
		}
	}
}

func FuzzRow(f *testing.F) {
	b, err := json.Marshal(row("k3v", "100.72.1.10/32", "fd00::1/128"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"id":"x","kind":"none","verdicts":{"p":{"result":"failed","reason":"<disk>","expires":"9999-12-31T23:00:00-02:00"}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r, back DirectoryRow
		if json.Unmarshal(b, &r) != nil {
			return
		}
		again, err := json.Marshal(r)
		if err != nil {
			if len(b) < maxRow/8 { // escapes can make a row longer
				t.Fatalf("read but not written: %v", err)
			}
			return
		}
		if err := json.Unmarshal(again, &back); err != nil || !back.equal(r) {
			t.Fatalf("%+v came back as %+v, %v", r, back, err)
		}
		for profile, v := range r.Verdicts {
			if v.Result == posture.Passed && v.At(v.Expires).Result != posture.Failed {
				t.Fatalf("%s does not expire: %+v", profile, v)
			}
		}
		err = New().Update(func(tx Tx) error { return tx.ReplaceDirectory([]DirectoryRow{r}) })
		if c := (*Conflict)(nil); err != nil && !errors.As(err, &c) {
			t.Fatal(err)
		}
	})
}

func TestDirectoryRows(t *testing.T) {
	s := New()
	alice := machine("alice-laptop", 1, "100.72.1.10/32")
	alice.User = "alice"
	update(t, s, func(tx Tx) error {
		return errors.Join(tx.PutVerdicts(alice.ID, failed("disk /dev/sda is not encrypted"), noon),
			tx.ReplaceDevices([]*device.Device{alice, {ID: "guests", Kind: device.ByNetwork, LAN: prefixes("192.168.9.0/24")}}))
	})
	rows := s.View().DirectoryRows(Opaque([]byte("secret")))
	if len(rows) != 1 {
		t.Fatalf("%d rows, want one: the network has no way to send", len(rows))
	}
	b, err := json.Marshal(rows[0])
	if err != nil || strings.Contains(string(b), "alice") || strings.Contains(string(b), "sda") {
		t.Errorf("an egress is told %s, %v", b, err)
	}
	if other := Opaque([]byte("another"))(alice.ID); other == rows[0].ID {
		t.Error("the name does not depend on the secret")
	}
}

func TestReplaceDirectory(t *testing.T) {
	s := New()
	rows := []DirectoryRow{row("x", "100.72.1.1/32"), row("y", "100.72.1.2/32")}
	update(t, s, func(tx Tx) error { return tx.ReplaceDirectory(rows) })
	x, _ := s.Directory().ByID("x")
	update(t, s, func(tx Tx) error { return tx.ReplaceDirectory(rows) })
	if e, _ := s.Directory().ByID("x"); e != x {
		t.Error("the same rows again make a new entry")
	}
	if x.Verdicts["laptop"].Result != posture.Failed {
		t.Errorf("a verdict that has expired long ago: %+v", x.Verdicts)
	}
	update(t, s, func(tx Tx) error { return tx.ReplaceDirectory(rows[1:]) })
	if _, ok := s.Directory().BySource(rows[0].Overlay[0].Addr()); ok || x.Generation.Load() == x.Stamp {
		t.Error("a row that is omitted is not revoked")
	}
	if _, _, ok := s.View().Verdicts("x"); ok {
		t.Error("its verdicts are still there")
	}
}

func TestGatewaysSpeakForTheirOwn(t *testing.T) {
	s := New()
	in, out := Confine([]DirectoryRow{row("own", "100.72.1.1/32", "fd00::1/128"), row("none"), row("half", "100.72.1.2/32", "100.73.1.1/32"), row("wide", "100.64.0.0/10")},
		prefixes("100.72.0.0/20", "fd00::/64"))
	if len(in) != 1 || in[0].ID != "own" || len(out) != 3 {
		t.Errorf("inside %v, outside %v", in, out)
	}
	update(t, s, func(tx Tx) error {
		return errors.Join(tx.ReplaceDirectoryOf("sjc", []DirectoryRow{row("x", "100.72.1.1/32")}), tx.ReplaceDirectoryOf("fra", []DirectoryRow{row("x", "100.73.1.1/32")}))
	})
	update(t, s, func(tx Tx) error { return tx.ReplaceDirectoryOf("sjc", nil) })
	if _, ok := s.Directory().ByID("fra/x"); !ok {
		t.Error("one gateway has revoked the device of another")
	}
	if _, ok := s.Directory().ByID("sjc/x"); ok {
		t.Error("a gateway cannot revoke its own device")
	}
	err := s.Update(func(tx Tx) error { return tx.ReplaceDirectoryOf("sjc", []DirectoryRow{row("y", "100.73.1.1/32")}) })
	var c *Conflict
	if !errors.As(err, &c) || c.First.ID != "fra/x" && c.Second.ID != "fra/x" {
		t.Errorf("claiming the address of another's device: %v", err)
	}
}
