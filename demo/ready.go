package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/demo/stub"
)

const (
	startTime = 30 * time.Second // for everything to answer
	tryAgain  = 100 * time.Millisecond
	tryTime   = 5 * time.Second
)

// checks ask everything that the demo promises, through the whole chain, before
// it says that it is ready.
type checks struct {
	*fleet
	stub *stub.Stub
	opts *Options
}

// Run tells people what to type, waits until all of it answers, and says so.
func (c *checks) Run(ctx context.Context) error {
	starting, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for _, check := range []struct {
		what string
		ask  func(context.Context) error
	}{
		{"the device's posture", c.askPosture},
		{"the stub at " + c.opts.DNS + " (UDP)", func(ctx context.Context) error { return c.askDNS(ctx, "udp", c.opts.DNS, "www.allowed.test.") }},
		{"the stub at " + c.opts.DNS + " (TCP)", func(ctx context.Context) error { return c.askDNS(ctx, "tcp", c.opts.DNS, "www.allowed.test.") }},
		{"the office listener at " + c.opts.LANDNS, func(ctx context.Context) error { return c.askDNS(ctx, "udp", c.opts.LANDNS, "www.allowed.test.") }},
		{"a name that is steered", func(ctx context.Context) error { return c.askSteered(ctx, "www.listed-china.test") }},
		{"a name that is steered by its answer", func(ctx context.Context) error { return c.askSteered(ctx, "www.answer-china.test") }},
		{"the origin through the proxy at " + c.opts.Proxy, c.askOrigin},
	} {
		if err := until(starting, check.ask); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("the demo did not get ready: %s did not answer in %v: %w", check.what, startTime, err)
		}
	}
	if err := c.tell(ctx, c.opts.Out); err != nil {
		return fmt.Errorf("writing what to type: %w", err)
	}
	<-ctx.Done()
	return nil
}

// until asks again until there is an answer, and returns the last error if
// there is none before ctx is done.
func until(ctx context.Context, ask func(context.Context) error) error {
	last := errors.New("it was not asked")
	for {
		each, cancel := context.WithTimeout(ctx, tryTime)
		err := ask(each)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || !errors.Is(err, context.DeadlineExceeded) {
			last = err
		}
		t := time.NewTimer(tryAgain)
		select {
		case <-ctx.Done():
			t.Stop()
			return last
		case <-t.C:
		}
	}
}

func (c *checks) askPosture(ctx context.Context) error {
	standing, err := c.laptop.report(ctx, nil)
	if err == nil && !strings.Contains(standing, "passed") {
		err = errors.New(strings.TrimSpace(standing))
	}
	return err
}

// askDNS asks as dig would.
func (c *checks) askDNS(ctx context.Context, network, at, name string) error {
	m, _, err := (&dns.Client{Net: network}).ExchangeContext(ctx, new(dns.Msg).SetQuestion(name, dns.TypeA), at)
	if err != nil {
		return err
	}
	if m.Rcode != dns.RcodeSuccess || len(m.Answer) == 0 {
		return fmt.Errorf("%s: %s with %d answers", name, dns.RcodeToString[m.Rcode], len(m.Answer))
	}
	return nil
}

func (c *checks) askSteered(ctx context.Context, name string) error {
	addrs, err := c.stub.Lookup(ctx, name)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if !c.laptop.virtual(a) {
			return fmt.Errorf("%s has the address %v, which is not virtual", name, a)
		}
	}
	return nil
}

func (c *checks) askOrigin(ctx context.Context) error {
	t := &http.Transport{DisableKeepAlives: true, Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: c.opts.Proxy})}
	defer t.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://www.listed-china.test/", nil)
	if err != nil {
		return err
	}
	res, err := t.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4<<10))
	if err == nil && res.StatusCode != http.StatusOK {
		err = errors.New(strings.TrimSpace(string(body)))
	}
	return err
}

// tell prints what to type, the hops, and the line that all waits for.
func (c *checks) tell(ctx context.Context, w io.Writer) error {
	_, err := fmt.Fprintf(w, "%s\n%s\nready\n", c.lines(), c.hops(ctx))
	return err
}

// lines is what to type.
func (c *checks) lines() string {
	dns, office := c.opts.DNS, c.opts.LANDNS
	tries := []struct{ what, name, at string }{
		{"forwarded", "www.allowed.test", dns},
		{"blocked: NXDOMAIN, EDE 15", "www.phishing.test", dns},
		{"answered by policy: 10.1.2.3", "intranet.corp.test", dns},
		{"steered, by a list: a virtual address", "www.listed-china.test", dns},
		{"steered, for its address is in China", "www.answer-china.test", dns},
		{"NXDOMAIN through the whole chain", "nothing.listed-china.test", dns},
		{"the office: REFUSED, identity weak", "www.listed-china.test", office},
		{"the office: REFUSED, no way to send", "www.guest-china.test", office},
	}
	var b strings.Builder
	n := 0
	line := func(what, format string, args ...any) {
		n++
		fmt.Fprintf(&b, "%3d. %-39s %s\n", n, what, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(&b, "Type, in another terminal:\n")
	for _, t := range tries {
		line(t.what, "%s %s", dig(t.at), t.name)
	}
	line("why: policies, demands, the way", "%s CH TXT www.listed-china.test.explain.starferry +short", dig(dns))
	proxy := "curl --proxy http://" + c.opts.Proxy + " "
	line("the origin in China", "%shttp://www.listed-china.test/", proxy)
	line("a download without end", "%s-o /dev/null http://www.listed-china.test/big", proxy)
	line("cut it: the disk is not encrypted", "starferry demo posture fail")
	line("... and all is well again", "starferry demo posture pass")
	line("how the gateway is", "starferry status --demo")
	fmt.Fprintf(&b, "\nThe files are in %s; the nodes notice when they change.\n", c.dir)
	return b.String()
}

// dig returns the command without the name.
func dig(at string) string {
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		return "dig @" + at
	}
	return "dig @" + host + " -p " + port
}

// hops draws the way with the time that each link takes there and back.
func (c *checks) hops(ctx context.Context) string {
	first := "?"
	start := time.Now()
	if err := c.askDNS(ctx, "udp", c.opts.DNS, "www.allowed.test."); err == nil {
		first = brief(time.Since(start))
	}
	return fmt.Sprintf("The way: %s ─ %s ─ gw-sjc ─ %s ─ hk-1 ─ %s ─ %s ─ %v",
		deviceName, first, rtt(c.gateway.Status()), rtt(c.connector.Status()), connectorName, originAddr)
}

var originAddr = netip.MustParseAddr("203.0.113.20")

// rtt returns the time of the node's link to an egress.
func rtt(s *control.Status) string {
	for _, l := range s.Links {
		if l.Role == "egress" && l.Up {
			return brief(l.RTT)
		}
	}
	return "down"
}

func brief(d time.Duration) string { return d.Round(10 * time.Microsecond).String() }
