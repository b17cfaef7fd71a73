package listen

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/starferry/starferry/internal/lifecycle"
)

// A KeyPair names the files of a certificate, with the chain that leads to its
// issuer, and of its private key, both PEM.
type KeyPair struct{ Cert, Key string }

// CertStatus tells how one certificate stands.
type CertStatus struct {
	File      string   // that it is from
	Names     []string // and addresses that it is for
	NotBefore time.Time
	NotAfter  time.Time
	Problem   string // why what the files hold now is not used, or will be no use to clients; empty: nothing
}

// Certificates are what TLS servers show. They follow their files: a new pair
// takes the place of the old as soon as it fits together, and until then the
// old one stays.
type Certificates struct {
	report func(error)
	inUse  atomic.Pointer[[]tls.Certificate]

	mu    sync.Mutex // guards what follows
	files []pairState
}

// A pairState is what is known of a pair's files.
type pairState struct {
	KeyPair
	loaded, seen [2]os.FileInfo // of both files: when last loaded, when last looked at
	failed       error          // why what was last loaded is not in use
}

// LoadCertificates reads at least one pair. What goes wrong later, or is no
// reason not to start (a certificate that has expired), is reported.
func LoadCertificates(pairs []KeyPair, report func(error)) (*Certificates, error) {
	if len(pairs) == 0 {
		return nil, errors.New("loading certificates: there are none")
	}
	c := &Certificates{report: report}
	var certs []tls.Certificate
	var errs []error
	for _, p := range pairs {
		f := pairState{KeyPair: p}
		f.seen = f.look()
		f.loaded = f.seen
		cert, err := p.load()
		errs = append(errs, err)
		c.files, certs = append(c.files, f), append(certs, cert)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for i, p := range pairs {
		if err := usable(p.Cert, certs[i].Leaf, time.Now()); err != nil {
			report(err)
		}
	}
	c.inUse.Store(&certs)
	return c, nil
}

func (p KeyPair) load() (tls.Certificate, error) {
	cert, err := os.ReadFile(p.Cert)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("loading a certificate: %w", err)
	}
	key, err := os.ReadFile(p.Key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("loading the key of certificate %q: %w", p.Cert, err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("loading certificate %q with key %q: %w", p.Cert, p.Key, err)
	}
	return pair, nil
}

// usable says why clients will not take a certificate at a time.
func usable(file string, leaf *x509.Certificate, now time.Time) error {
	switch {
	case now.After(leaf.NotAfter):
		return fmt.Errorf("certificate %q expired at %s: clients will not take it", file, leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("certificate %q is not valid before %s: clients will not take it", file, leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}

// Status tells how the certificates stand, in the order in which they were
// given.
func (c *Certificates) Status() []CertStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []CertStatus
	for i, cert := range *c.inUse.Load() {
		f, leaf := c.files[i], cert.Leaf
		s := CertStatus{File: f.Cert, Names: slices.Clone(leaf.DNSNames), NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter}
		for _, ip := range leaf.IPAddresses {
			s.Names = append(s.Names, ip.String())
		}
		err := f.failed
		if err == nil {
			err = usable(f.Cert, leaf, time.Now())
		}
		if err != nil {
			s.Problem = err.Error()
		}
		out = append(out, s)
	}
	return out
}

// lookEvery is how often files are looked at. They are taken when they have
// been left alone between two looks: certificate and key are seldom written
// at once.
const lookEvery = time.Second

// Run follows the files until ctx is done. It looks at them rather than being
// told by the kernel, which does not tell of a link in their path that is
// turned elsewhere, as certbot and kubelet do it.
func (c *Certificates) Run(ctx context.Context) error {
	return lifecycle.Every(ctx, lookEvery, func() { c.follow(false) })
}

// Reload reads the files that have changed now, and returns why some of them
// are not in use.
func (c *Certificates) Reload() error { return c.follow(true) }

// follow loads pairs that have changed since they were loaded and either not
// since the last look, or now is the time.
func (c *Certificates) follow(now bool) error {
	c.mu.Lock()
	var errs []error
	certs := slices.Clone(*c.inUse.Load())
	for i := range c.files {
		f := &c.files[i]
		seen := f.look()
		settled := now || same(seen, f.seen)
		f.seen = seen
		if same(seen, f.loaded) {
			continue
		}
		if !settled {
			continue
		}
		f.loaded = seen
		cert, err := f.load()
		if f.failed = err; err == nil {
			certs[i] = cert
			err = usable(f.Cert, cert.Leaf, time.Now())
		} else {
			err = fmt.Errorf("%w; the one loaded before stays in use", err)
		}
		errs = append(errs, err)
	}
	c.inUse.Store(&certs)
	c.mu.Unlock()
	err := errors.Join(errs...)
	if err != nil {
		c.report(err)
	}
	return err
}

// look returns how the files are now; nil for one that cannot be seen.
func (f *pairState) look() (out [2]os.FileInfo) {
	for i, name := range [...]string{f.Cert, f.Key} {
		if info, err := os.Stat(name); err == nil {
			out[i] = info
		}
	}
	return out
}

// same reports whether the files are the same and have the same content, as
// far as can be told without reading them.
func same(a, b [2]fs.FileInfo) bool {
	for i := range a {
		if (a[i] == nil) != (b[i] == nil) {
			return false
		}
		if a[i] != nil && (!os.SameFile(a[i], b[i]) || a[i].Size() != b[i].Size() || !a[i].ModTime().Equal(b[i].ModTime())) {
			return false
		}
	}
	return true
}

// config returns the configuration of a server of these protocols. Sessions
// are resumed as long as one configuration is used.
func (c *Certificates) config(protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12, // RFC 9325 section 3.1.1
		NextProtos:     protocols,
		GetCertificate: c.choose,
	}
}

// choose returns the first certificate for the name that a client asks for and
// the algorithms that it has, else the first for its algorithms, else the first.
func (c *Certificates) choose(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	certs := *c.inUse.Load()
	anyName := *hello
	anyName.ServerName = ""
	for _, h := range []*tls.ClientHelloInfo{hello, &anyName} {
		for i := range certs {
			if h.SupportsCertificate(&certs[i]) == nil {
				return &certs[i], nil
			}
		}
	}
	return &certs[0], nil
}
