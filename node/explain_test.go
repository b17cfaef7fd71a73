package node

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/policy"
)

// All that is known is printed, and is in JSON.
func TestExplanation(t *testing.T) {
	p, err := policy.Parse("policy.yaml", []byte(egressPolicy), nil)
	if err != nil {
		t.Fatal(err)
	}
	alice := policy.Asker{Device: &device.Device{ID: "alice-laptop", Groups: []string{"staff"}}, Kind: device.ByWireGuard}
	well := alice
	well.Verdicts = posture.Verdicts{"managed": {Result: posture.Passed, Expires: time.Date(2030, 1, 1, 12, 10, 0, 0, time.UTC)}}
	for _, c := range []struct {
		asker policy.Asker
		way   []string
		want  string
	}{
		{alice, nil, `www.china.test A, asked by alice-laptop (identity strong, by wireguard)
policy.yaml:5:5  china  yes: name under china.test; demands met: in group staff; demands not met: posture managed unknown: no report
decision: deny refused
told to the device: policy china: posture managed unknown: no report
would be allowed if posture managed passes: steer hong-kong by policy china
`},
		{policy.Asker{}, nil, `www.china.test A, asked by nobody that is known (identity none, by none)
policy.yaml:5:5  china  yes: name under china.test; demands not met: the device is not known, want group staff; posture managed unknown: no report
decision: deny refused
told to the device: policy china: the device is not known, want group staff; posture managed unknown: no report
`},
		{well, []string{"egress hk-1: up, label 240.1.0.1", "egress hk-2: DOWN"}, `www.china.test A, asked by alice-laptop (identity strong, by wireguard)
policy.yaml:5:5  china  yes: name under china.test; demands met: in group staff; posture managed passed until 12:10:00
decision: steer hong-kong
told to the device: policy china
virtual address: 198.19.0.1
way: egress hk-1: up, label 240.1.0.1
way: egress hk-2: DOWN
`},
	} {
		x, d := Explain(p, &policy.Query{Name: "www.china.test", Type: dns.TypeA, Asker: c.asker, Now: time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)})
		if x.Way = c.way; c.way != nil {
			x.Virtual = netip.MustParseAddr("198.19.0.1").String()
		}
		if got := x.String(); got != c.want {
			t.Errorf("got\n%s\nwant\n%s", got, c.want)
		}
		b, err := json.Marshal(x)
		if err != nil || x.Told != d.Text() || !strings.Contains(string(b), `"decision":"`+x.Decision+`"`) {
			t.Errorf("%s, told %q, %v", b, d.Text(), err)
		}
	}
}

// Who has no way to send is told so, and what becomes of the question.
func TestExplainNoWay(t *testing.T) {
	overlay := []netip.Prefix{netip.MustParsePrefix("100.72.8.0/24")}
	for _, c := range []struct {
		asker policy.Asker
		lacks bool
	}{
		{policy.Asker{}, true},
		{policy.Asker{Device: &device.Device{Overlay: overlay}, Kind: device.ByNetwork}, true},
		{policy.Asker{Device: &device.Device{Overlay: overlay, RoutesPool: true}, Kind: device.ByNetwork}, false},
		{policy.Asker{Device: &device.Device{RoutesPool: true}, Kind: device.ByNetwork}, true},
		{policy.Asker{Device: &device.Device{}, Kind: device.ByToken}, true},
		{policy.Asker{Device: &device.Device{Key: device.Key{1}}, Kind: device.ByToken}, false},
		{policy.Asker{Device: &device.Device{}, Kind: device.ByWireGuard}, false},
	} {
		var x Explanation
		lacks := x.LacksWay(&c.asker, &policy.Then{Action: policy.Steer, NoWay: policy.FallDirect})
		if lacks != c.lacks || lacks && (len(x.Way) != 1 || !strings.HasSuffix(x.Way[0], "no_way: direct")) {
			t.Errorf("%+v: %v, %q", c.asker, lacks, x.Way)
		}
	}
}
