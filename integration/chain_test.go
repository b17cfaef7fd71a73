package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestChain walks the ways of queries and packets through a whole fleet.
func TestChain(t *testing.T) {
	f := newFleet(t)
	for _, s := range []struct {
		name string
		try  func(*testing.T, *fleet)
	}{
		{"a listed name gets a virtual address and its page", steered},
		{"existence is mirrored", mirrored},
		{"an unlisted name is steered by its answer", steeredByAnswer},
		{"IPv6, ping and traceroute", sixAndPing},
		{"the office, whose LAN routes the pool", routedOffice},
		{"on the gateway's public side there is only WireGuard to the egress", onlyWireGuard},
		{"what may not pass is refused and counted", refused},
		{"explain by dig and by socket", explains},
		{"a bad file keeps the running policy", badReload},
	} {
		t.Run(s.name, func(t *testing.T) { f.as(t, s.try) })
	}
}

// TestPostureLost loses the posture of a device with a download running.
func TestPostureLost(t *testing.T) {
	f := newFleet(t)
	for _, at := range []struct{ name, gateway, egress string }{
		{"decided at both hops", "posture: managed-laptop", "posture: managed-laptop"},
		{"decided at the gateway alone", "posture: managed-laptop", "groups: [staff]"},
		{"decided at the egress alone", "groups: [staff]", "posture: managed-laptop"},
	} {
		t.Run(at.name, func(t *testing.T) {
			f.as(t, func(t *testing.T, f *fleet) {
				f.demand(at.gateway, at.egress)
				f.report(true)
				d := f.running()
				f.report(false)
				start := time.Now()
				within(t, time.Second, "the download to be cut", d.ended)
				t.Logf("cut %v after the report was taken: %v", time.Since(start).Round(time.Millisecond), d.err)
				if strings.HasPrefix(at.gateway, "posture") {
					out := f.in("device", "dig www.listed-china.test @"+gatewayDNS)
					want(t, out, "status: REFUSED", "EDE: 18", "managed-laptop", "firewall")
				}
				f.report(true)
				f.page(5 * time.Second)
			})
		})
	}
}

// TestRestarts kills each node in turn, without a word, and starts it again.
func TestRestarts(t *testing.T) {
	f := newFleet(t)
	for _, at := range []struct {
		name string
		node *program
		on   bool // a download goes on over it
	}{
		{"gateway", f.gateway, true},
		{"egress", f.egress, true},
		{"connector", f.connector1, false},
	} {
		t.Run(at.name, func(t *testing.T) {
			f.as(t, func(t *testing.T, f *fleet) {
				f.report(true)
				d := f.running()
				f.remembered()
				at.node.kill()
				start := time.Now()
				at.node.run()
				if at.on {
					had := d.got()
					within(t, 30*time.Second, "the download to go on", func() bool { return d.got() > had+1<<20 || d.ended() })
					if d.ended() {
						t.Fatalf("the download ended: %v", d.err)
					}
					t.Logf("the download went on %v after the start", time.Since(start).Round(10*time.Millisecond))
				} else {
					within(t, 30*time.Second, "the download to be reset", d.ended)
				}
				took := f.page(30 * time.Second)
				t.Logf("a new page %v after the start (asked for %v)", time.Since(start).Round(10*time.Millisecond), took.Round(10*time.Millisecond))
			})
		})
	}
	t.Run("the address of the connector changes", func(t *testing.T) {
		f.as(t, func(t *testing.T, f *fleet) {
			f.in("connector2", "ip link set eth0 down") // so that nobody else can serve
			f.in("connector1", "ip addr del 198.51.100.11/24 dev eth0; ip addr add 198.51.100.77/24 dev eth0")
			took := f.page(30 * time.Second)
			t.Logf("healed %v after the change", took.Round(10*time.Millisecond))
		})
	})
}

// as runs a part of a test with its own t.
func (f *fleet) as(t *testing.T, try func(*testing.T, *fleet)) {
	own := *f
	l := *f.lab
	l.t, own.lab = t, &l
	l.dir = f.dir
	try(t, &own)
}

// remembered waits until the gateway has written down where its device is,
// which it does within seconds: a node that comes back greets its peers there.
func (f *fleet) remembered() {
	f.t.Helper()
	within(f.t, 5*time.Second, "the device's endpoint on disk", func() bool {
		b, err := os.ReadFile(f.path("gateway/endpoints.json"))
		return err == nil && strings.Contains(string(b), f.key("alice").public)
	})
}

// page fetches the origin's page until it comes, and returns how long that took.
func (f *fleet) page(limit time.Duration) time.Duration {
	f.t.Helper()
	return within(f.t, limit, "the origin's page", func() bool {
		out, err := f.try("device", "curl -sS --max-time 2 --resolve www.listed-china.test:80:$(dig +short +tries=1 +timeout=1 www.listed-china.test @"+gatewayDNS+") http://www.listed-china.test/")
		return err == nil && strings.Contains(out, "origin page of www.listed-china.test")
	})
}

// running starts a download that has begun to come in.
func (f *fleet) running() *download {
	f.t.Helper()
	f.page(20 * time.Second)
	ip := strings.TrimSpace(f.in("device", "dig +short www.listed-china.test @"+gatewayDNS))
	d := f.lab.download("device", "--limit-rate", "4M", "http://"+ip+"/big")
	within(f.t, 10*time.Second, "a running download", func() bool { return d.got() > 1<<20 })
	return d
}

// demand sets what the policies of gateway and egress demand, and waits until
// both have reloaded.
func (f *fleet) demand(gateway, egress string) {
	f.t.Helper()
	for file, demand := range map[string]string{"policy.yaml": gateway, "egress-policy.yaml": egress} {
		text := policyYAML(demand)
		if strings.HasPrefix(demand, "groups") {
			text = strings.Replace(policyYAML("X"), "groups: [staff], identity: medium, X", "groups: [staff], identity: medium", 1)
		}
		f.write(file, text)
	}
	f.in("gateway", binary+" reload -c "+f.path("gateway.yaml"))
	f.in("egress", binary+" reload -c "+f.path("egress.yaml"))
}

func want(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in:\n%s", part, text)
		}
	}
}

func steered(t *testing.T, f *fleet) {
	out := f.in("device", "dig www.listed-china.test @"+gatewayDNS)
	want(t, out, "status: NOERROR", "198.19.", "EDE: 4", "china-origins")
	page := f.in("device", "curl -sS --max-time 5 --resolve www.listed-china.test:80:$(dig +short www.listed-china.test @"+gatewayDNS+") http://www.listed-china.test/")
	want(t, page, "origin page of www.listed-china.test", "asked from 203.0.113.7:")
	if os.Getenv("CI") != "" || os.Getenv("DATA") != "" {
		status := f.in("gateway", binary+" status -c "+f.path("gateway.yaml"))
		t.Log(status)
	}
	want(t, f.in("device", "dig +short www.taobao.com @"+gatewayDNS), "198.19.")
	want(t, f.in("device", "dig +tcp +short www.allowed.test @"+gatewayDNS), "192.0.2.80")
}

func mirrored(t *testing.T, f *fleet) {
	want(t, f.in("device", "dig nothing.listed-china.test @"+gatewayDNS), "status: NXDOMAIN", "SOA")
	out := f.in("device", "dig AAAA v4only.listed-china.test @"+gatewayDNS)
	want(t, out, "status: NOERROR", "ANSWER: 0", "SOA")
	want(t, f.in("device", "dig private.listed-china.test @"+gatewayDNS), "status: SERVFAIL")
	want(t, f.in("device", "dig evil-rebind.test @"+gatewayDNS), "status: SERVFAIL", "rebinding")
}

func steeredByAnswer(t *testing.T, f *fleet) {
	want(t, f.in("device", "dig www.answer-china.test @"+gatewayDNS), "status: NOERROR", "198.19.", "EDE: 4")
	page := f.in("device", "curl -sS --max-time 5 --resolve www.answer-china.test:80:$(dig +short www.answer-china.test @"+gatewayDNS+") http://www.answer-china.test/")
	want(t, page, "asked from 203.0.113.7:")
	want(t, f.in("device", "dig +short www.elsewhere.test @"+gatewayDNS), "192.0.2.99")
}

func sixAndPing(t *testing.T, f *fleet) {
	out := f.in("device", "dig +short AAAA www.listed-china.test @"+gatewayDNS)
	want(t, out, "2001:2:0:1")
	page := f.in("device", "curl -6 -sS --max-time 5 --resolve www.listed-china.test:80:["+strings.TrimSpace(out)+"] http://www.listed-china.test/")
	want(t, page, "asked from [2001:2:0:f000::7]:")
	v4 := strings.TrimSpace(f.in("device", "dig +short www.listed-china.test @"+gatewayDNS))
	want(t, f.in("device", "ping -c 2 -i 0.2 -W 2 "+v4), " 0% packet loss")
	want(t, f.in("device", "ping -6 -c 2 -i 0.2 -W 2 "+strings.TrimSpace(out)), " 0% packet loss")
	trace := f.in("device", "traceroute -n -I -q 1 -w 2 -m 6 "+v4)
	want(t, trace, gatewayDNS, "100.72.128.1", "100.72.160.1", v4)
	t.Log("\n" + trace)
}

func routedOffice(t *testing.T, f *fleet) {
	out := f.in("office", "dig www.listed-china.test @192.168.1.1")
	want(t, out, "status: REFUSED", "EDE: 18", "identity weak")
	ip := strings.TrimSpace(f.in("office", "dig +short www.guest-china.test @192.168.1.1"))
	page := f.in("office", "curl -sS --max-time 5 --resolve www.guest-china.test:80:"+ip+" http://www.guest-china.test/")
	want(t, page, "origin page of www.guest-china.test", "asked from 203.0.113.7:")
}

func onlyWireGuard(t *testing.T, f *fleet) {
	pcap := f.path("public.pcap")
	dump := f.start("gateway", nil, "tcpdump", "-i", "eth0", "-w", pcap, "-U", "--immediate-mode", "host "+egressAddr+" or net 203.0.113.0/24 or net 198.19.0.0/18 or net 100.64.0.0/10 or net 240.0.0.0/4")
	within(t, 5*time.Second, "tcpdump", func() bool { return strings.Contains(tail(dump.log.Name(), 5), "listening on") })
	for range 3 {
		f.page(5 * time.Second)
	}
	dump.stop()
	all := lines(f.in("gateway", "tcpdump -n -r "+pcap+" 2>/dev/null"))
	others := lines(f.in("gateway", "tcpdump -n -r "+pcap+" 'not (udp port 51820 and host "+egressAddr+")' 2>/dev/null"))
	if len(all) == 0 || len(others) != 0 {
		t.Errorf("%d packets, of which these are no WireGuard to the egress:\n%s", len(all), strings.Join(others, "\n"))
	}
}

func lines(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == '\n' })
}

// drops returns the counted drops of a node by reason.
func (f *fleet) drops(node string) map[string]int {
	f.t.Helper()
	counts := map[string]int{}
	inTable := false
	for _, line := range lines(f.in(node, binary+" status -c "+f.path(node+".yaml"))) {
		w := strings.Fields(line)
		switch {
		case len(w) == 2 && w[0] == "DROPPED":
			inTable = true
		case inTable && len(w) == 2:
			counts[w[0]], _ = strconv.Atoi(w[1])
		}
	}
	return counts
}

func refused(t *testing.T, f *fleet) {
	v4 := strings.TrimSpace(f.in("device", "dig +short www.listed-china.test @"+gatewayDNS))
	// A client that has set itself to send everything this way.
	f.in("device", "wg set "+f.wg+" peer "+f.key("gateway").public+" allowed-ips 0.0.0.0/0,::/0; ip route replace 100.72.0.0/16 dev "+f.wg)
	for _, c := range []struct{ what, host, line, drop string }{
		{"a virtual address that was never leased", "device", "ping -c 1 -W 1 198.19.63.250", "never-leased"},
		{"another device", "device", "ping -c 1 -W 1 100.72.1.20", "not-a-label"},
		{"another node", "device", "ping -c 1 -W 1 100.72.128.1", "not-a-label"},
		{"an office source that no network has", "office", "ip addr add 192.168.77.7/32 dev eth0; ping -c 1 -W 1 -I 192.168.77.7 " + v4, "unknown-source"},
		{"a forged overlay source from the office", "office", "ip addr add 100.72.1.10/32 dev eth0; ping -c 1 -W 1 -I 100.72.1.10 " + v4, "unknown-source"},
		{"a port that the policy does not allow", "device", "curl -sS --max-time 2 http://" + v4 + ":8080/", "denied"},
	} {
		before := f.drops("gateway")[c.drop]
		if out, err := f.try(c.host, c.line); err == nil {
			t.Errorf("%s was let through:\n%s", c.what, out)
		}
		if after := f.drops("gateway")[c.drop]; after <= before {
			t.Errorf("%s: %s stays at %d", c.what, c.drop, after)
		}
	}
	// A device that sends with a source that is not its own is dropped by its
	// key: WireGuard's cryptokey routing does not let it in.
	f.in("device", "ip addr add 100.72.1.20/32 dev "+f.wg)
	before := f.drops("gateway")["forged-source"]
	if out, err := f.try("device", "ping -c 1 -W 1 -I 100.72.1.20 "+v4); err == nil {
		t.Errorf("a forged source was let through:\n%s", out)
	}
	if after := f.drops("gateway")["forged-source"]; after <= before {
		t.Errorf("a forged source: forged-source stays at %d", after)
	}
	f.in("device", "ip addr del 100.72.1.20/32 dev "+f.wg+"; ip route del 100.72.0.0/16 dev "+f.wg)
	if out, err := f.try("device", "curl -sS --max-time 3 http://"+v4+":8080/"); err == nil || !strings.Contains(out, "curl: (7)") {
		t.Errorf("a denied port is to be reset at once: %v %s", err, out)
	}
}

func explains(t *testing.T, f *fleet) {
	out := f.in("device", "dig +short CH TXT www.listed-china.test.explain.starferry @"+gatewayDNS)
	want(t, out, "china-origins", "steer hong-kong", "egress hk-1")
	text := f.in("gateway", binary+" explain www.taobao.com --device alice-laptop -c "+f.path("gateway.yaml"))
	want(t, text, "policy.yaml:", "china-origins", "steer hong-kong")
	t.Log("\n" + text)
	want(t, f.in("device", "dig +short CH TXT whoami.starferry @"+gatewayDNS), "alice-laptop", "strong")
}

func badReload(t *testing.T, f *fleet) {
	good, err := os.ReadFile(f.path("policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	f.write("policy.yaml", strings.Replace(string(good), "then: allow", "then: alow", 1))
	within(t, 5*time.Second, "the refusal in status", func() bool {
		out := f.in("gateway", binary+" status -c "+f.path("gateway.yaml"))
		return strings.Contains(out, "refused") && strings.Contains(out, "policy.yaml:")
	})
	want(t, f.in("device", "dig +short www.listed-china.test @"+gatewayDNS), "198.19.")
	f.write("policy.yaml", string(good))
	within(t, 5*time.Second, "the good policy again", func() bool {
		return !strings.Contains(f.in("gateway", binary+" status -c "+f.path("gateway.yaml")), "refused")
	})
	if out, err := exec.Command(binary, "check", filepath.Join(f.dir, "policy.yaml")).CombinedOutput(); err != nil {
		t.Error(fmt.Sprint(err), string(out))
	}
}
