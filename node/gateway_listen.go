package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/internal/lifecycle"
	"github.com/starferry/starferry/internal/priority"
	"github.com/starferry/starferry/resolver/cookie"
	"github.com/starferry/starferry/resolver/guard"
	"github.com/starferry/starferry/resolver/listen"
)

// limits turns settings into those of the listeners; what is zero has their
// default.
func limits(l configs.Limits) listen.Limits {
	return listen.Limits{
		Workers: l.InWork, PerClient: l.InWorkByClient, UDPSize: l.UDPSize, Conns: l.Conns,
		ConnsPerClient: l.ConnsByClient, Pipeline: l.Pipeline, Idle: l.Idle,
	}
}

// newGuard makes what keeps clients from taking more than their share.
func newGuard(set *configs.DNS) (g listen.Guard, err error) {
	r := set.RateLimit
	if r.Exempt == nil {
		r.Exempt = guard.Loopback()
	}
	g.Clock = guard.StartClock()
	if g.Load, err = guard.NewLoad(guard.LoadLimits{}); err != nil {
		return g, err
	}
	if r.Client.PerSecond > 0 || r.Network.PerSecond > 0 {
		g.Clients, err = guard.NewClients(guard.ClientLimits{PerClient: rate(r.Client), PerPrefix: rate(r.Network), Exempt: r.Exempt})
		if err != nil {
			return g, fmt.Errorf("dns.rate_limit: %w", err)
		}
	}
	if n := r.Responses; n > 0 {
		g.Responses, err = guard.NewResponses(guard.ResponseLimits{Answers: n, NoData: n, NXDomains: n, Errors: n, Slip: slip(r.Slip), Exempt: r.Exempt})
		if err != nil {
			return g, fmt.Errorf("dns.rate_limit.responses: %w", err)
		}
		if g.Amplifier, err = guard.NewAmplifier(guard.Amplification{Exempt: r.Exempt}); err != nil {
			return g, fmt.Errorf("dns.rate_limit: %w", err)
		}
	}
	if set.Cookies.On {
		g.Cookies, err = newCookies(set.Cookies.SecretFile)
	}
	return g, err
}

// rate turns a setting into a limit, of which zero is the default.
func rate(r configs.Rate) guard.Limit {
	if r.PerSecond == 0 {
		return guard.Limit{Rate: -1}
	}
	return guard.Limit{Rate: r.PerSecond, Burst: r.Burst}
}

func slip(n int) int {
	if n == 0 {
		return -1
	}
	return n
}

func newCookies(file string) (*cookie.Server, error) {
	if file == "" {
		return cookie.New(), nil
	}
	secrets, err := readSecrets(file)
	if err != nil {
		return nil, err
	}
	return cookie.NewShared(secrets...)
}

// readSecrets reads what a fleet makes its cookies with.
func readSecrets(file string) ([]cookie.Secret, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("dns.cookies.secret_file: %w", err)
	}
	defer f.Close()
	secrets, err := cookie.Read(f)
	if err != nil {
		return nil, fmt.Errorf("dns.cookies.secret_file %s: %w", file, err)
	}
	return secrets, nil
}

// loadCertificates reads the certificates, if there are any: what is encrypted
// has them, and sockets of systemd may be.
func (d *gatewayDNS) loadCertificates() (err error) {
	all := d.g.set.DNS.Certificates
	if len(all) == 0 {
		return nil
	}
	var pairs []listen.KeyPair
	for _, c := range all {
		pairs = append(pairs, listen.KeyPair{Cert: c.Cert, Key: c.Key})
	}
	d.certs, err = listen.LoadCertificates(pairs, func(err error) { d.g.log.Warn("certificates", "err", err) })
	if err != nil {
		return fmt.Errorf("dns.certificates: %w", err)
	}
	return nil
}

// A door is where questions come in: by what, at which addresses, and who
// serves them.
type door struct {
	name, key string
	at        []netip.AddrPort
	serve     func(ctx context.Context, l net.Listener, name string) error
}

// doors are the listeners for streams on the machine's addresses.
func (d *gatewayDNS) doors() []door {
	set, s := &d.g.set.DNS, d.server
	http := listen.HTTP{Path: set.HTTPS.Path}
	behind := http
	behind.Trusted = set.HTTPS.TrustedProxies
	return []door{
		{"tcp", "dns.listen", set.Listen, s.ServeTCP},
		{"tls", "dns.tls", set.TLS, func(ctx context.Context, l net.Listener, name string) error {
			return s.ServeTLS(ctx, l, d.certs, name)
		}},
		{"https", "dns.https", set.HTTPS.Listen, func(ctx context.Context, l net.Listener, name string) error {
			return s.ServeHTTPS(ctx, l, d.certs, http, name)
		}},
		{"http", "dns.https.behind_proxy", set.HTTPS.BehindProxy, func(ctx context.Context, l net.Listener, name string) error {
			return s.ServeHTTP(ctx, l, behind, name)
		}},
	}
}

// listenOutside opens the listeners on the machine's addresses, but for those
// sockets that systemd has opened.
func (d *gatewayDNS) listenOutside() (tasks []lifecycle.Task, err error) {
	given, err := listen.Activated()
	if err != nil {
		return nil, fmt.Errorf("taking the sockets of systemd: %w", err)
	}
	for _, s := range given {
		task, err := d.activated(s)
		if err != nil {
			return nil, err
		}
		tasks = append(tasks, task)
	}
	sockets := d.g.set.DNS.Sockets
	if sockets == 0 {
		sockets = priority.Processors()
	}
	for _, at := range d.g.set.DNS.Listen {
		more, err := d.listenUDP(at, sockets)
		if err != nil {
			return nil, err
		}
		tasks = append(tasks, more...)
	}
	for _, door := range d.doors() {
		for _, at := range door.at {
			l, err := net.Listen(family("tcp", at), at.String())
			if err != nil {
				return nil, explained(fmt.Errorf("listening for DNS on %s %v (%s): %w", door.name, at, door.key, err), at)
			}
			tasks = append(tasks, serveDoor(door, l, at.String()))
		}
	}
	if d.certs != nil {
		tasks = append(tasks, lifecycle.Task{Name: "certificates", Run: d.certs.Run})
	}
	page, err := d.page.tasks()
	return append(tasks, page...), err
}

func serveDoor(door door, l net.Listener, name string) lifecycle.Task {
	return lifecycle.Task{Name: "dns " + door.name + " " + name, Run: func(ctx context.Context) error { return door.serve(ctx, l, name) }}
}

// activated serves a socket that systemd has opened. The name of a stream says
// what comes over it: tls, https, http, or else plain DNS.
func (d *gatewayDNS) activated(s listen.Socket) (lifecycle.Task, error) {
	if s.Packet != nil {
		name := s.Packet.LocalAddr().String()
		return lifecycle.Task{Name: "dns udp " + name, Run: func(ctx context.Context) error { return d.server.ServeUDP(ctx, s.Packet, name) }}, nil
	}
	all := d.doors()
	use := all[0]
	for _, door := range all {
		if s.Name == door.name {
			use = door
		}
	}
	switch {
	case (use.name == "tls" || use.name == "https") && d.certs == nil:
		return lifecycle.Task{}, fmt.Errorf("the socket %q of systemd wants a certificate: add dns.certificates", s.Name)
	case use.name == "http" && len(d.g.set.DNS.HTTPS.TrustedProxies) == 0:
		return lifecycle.Task{}, fmt.Errorf("the socket %q of systemd would refuse everybody: add dns.https.trusted_proxies, where the proxy asks from", s.Name)
	}
	return serveDoor(use, s.Stream, s.Stream.Addr().String()), nil
}

// family is the network of one family: a socket on [::] must not take the place
// of one on 0.0.0.0.
func family(network string, at netip.AddrPort) string {
	if at.Addr().Is6() {
		return network + "6"
	}
	return network + "4"
}

// listenUDP opens several sockets at one address, among which the kernel
// divides the clients.
func (d *gatewayDNS) listenUDP(at netip.AddrPort, n int) (tasks []lifecycle.Task, err error) {
	shared := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		if n == 1 {
			return nil
		}
		if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }); e != nil {
			return e
		}
		return err
	}}
	if alone, err := net.ListenPacket(family("udp", at), at.String()); err != nil { // shared sockets would not notice another process
		return nil, explained(fmt.Errorf("listening for DNS on udp %v (dns.listen): %w", at, err), at)
	} else if err := alone.Close(); err != nil {
		return nil, err
	}
	for range n {
		pc, err := shared.ListenPacket(context.Background(), family("udp", at), at.String())
		if err != nil {
			return nil, explained(fmt.Errorf("listening for DNS on udp %v (dns.listen): %w", at, err), at)
		}
		if at.Port() == 0 {
			at = netip.AddrPortFrom(at.Addr(), pc.LocalAddr().(*net.UDPAddr).AddrPort().Port())
		}
		if err := listen.Room(pc.(*net.UDPConn), socketBuffer); err != nil {
			return nil, fmt.Errorf("listening for DNS on udp %v (dns.listen): %w", at, err)
		}
		tasks = append(tasks, lifecycle.Task{Name: "dns udp " + at.String(), Run: func(ctx context.Context) error {
			return d.server.ServeUDP(ctx, pc, at.String())
		}})
	}
	return tasks, nil
}

// socketBuffer is how many bytes of questions may wait for a socket's reader: 10,000
// questions, which take half a second at 20,000 a second. What waits for longer
// is asked again before it is read.
const socketBuffer = 4 << 20

// explained adds to an error of a listener what to do about it.
func explained(err error, at netip.AddrPort) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w; ss -lnptu 'sport = :%d' says who has it", err, at.Port())
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; ports below 1024 want root, CAP_NET_BIND_SERVICE or a socket of systemd", err)
	}
	return err
}
