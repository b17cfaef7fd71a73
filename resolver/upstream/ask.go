package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"
)

// A server is a Server with all that is kept of it.
type server struct {
	Server
	label   string
	trusted bool // to say what is authentic
	health  health
	habits  habits
	counts  counts
	sockets sockets // of UDP
	streams streams // of UDP, for what does not fit, TCP and TLS
	https   *https  // nil but for HTTPS
}

func newServer(conf Server, dial Dial, timeout time.Duration, l *life, finders func(string, uint16) *finder) *server {
	s := &server{Server: conf, label: conf.String()}
	s.sockets = sockets{addr: conf.Addr, dial: dial, life: l, counts: &s.counts}
	connect := s.connector(dial, timeout, finders)
	s.streams = streams{connect: connect, life: l, counts: &s.counts, timeout: timeout}
	if !conf.Transport.encrypted() {
		return s
	}
	secure := &tls.Config{ServerName: conf.certName(), RootCAs: conf.CA, MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(maxStreams)}
	if conf.Transport == HTTPS {
		s.https = newHTTPS(&conf, secure, timeout, s.counted(connect), l)
		return s
	}
	s.streams.connect = func(ctx context.Context) (net.Conn, error) {
		conn, err := connect(ctx)
		if err != nil {
			return nil, err
		}
		return overTLS(ctx, conn, secure)
	}
	return s
}

// connector returns what makes a connection over TCP.
func (s *server) connector(dial Dial, timeout time.Duration, finders func(string, uint16) *finder) func(context.Context) (net.Conn, error) {
	if dial == nil {
		dial = dialMachine
	}
	if s.Host == "" {
		return func(ctx context.Context) (net.Conn, error) { return dial(ctx, "tcp", s.Addr) }
	}
	f := finders(s.Host, s.Addr.Port())
	return func(ctx context.Context) (net.Conn, error) { return f.dialAny(ctx, dial, timeout) }
}

func dialMachine(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, addr.String())
}

func (s *server) counted(connect func(context.Context) (net.Conn, error)) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := connect(ctx)
		if err == nil {
			s.counts.opened.Add(1)
		}
		return conn, err
	}
}

func (s *server) closeAll() {
	s.sockets.prune(time.Now().Add(time.Hour))
	s.streams.closeAll()
	if s.https != nil {
		s.https.closeAll()
	}
}

// manner returns how the server is asked.
func (s *server) manner(q *Question, now time.Time) manner {
	return manner{
		edns:  !avoids(&s.habits.noEDNS, now),
		mixed: s.Transport == UDP && !avoids(&s.habits.noCase, now),
		pad:   s.Transport.encrypted(),
		ad:    s.trusted,
	}
}

// ask asks once, without EDNS again if the server does not know it (RFC 6891
// section 7), until ctx ends. A try that was begun is gone on with.
func (s *server) ask(ctx context.Context, q *Question, t *try) ([]byte, error) {
	how := s.manner(q, time.Now())
	if t != nil {
		how = t.how
	}
	reply, err := s.over(ctx, q, how, t)
	return s.withoutEDNS(ctx, q, how, reply, err)
}

// resume goes on with a try that was begun, and has come to this.
func (s *server) resume(ctx context.Context, q *Question, t *try, reply []byte, err error) ([]byte, error) {
	if timedOut(err) {
		return s.ask(ctx, q, t)
	}
	how := t.how
	reply = bytes.Clone(reply)
	t.free(time.Now())
	reply, err = s.settle(ctx, q, how, reply, err)
	return s.withoutEDNS(ctx, q, how, reply, err)
}

func (s *server) withoutEDNS(ctx context.Context, q *Question, how manner, reply []byte, err error) ([]byte, error) {
	if err != nil || !how.edns || !refusesEDNS(reply) {
		return reply, err
	}
	how.edns, how.pad = false, false
	plain, err := s.over(ctx, q, how, nil)
	if err == nil && !refusesEDNS(plain) {
		remember(&s.habits.noEDNS, time.Now())
	}
	return plain, err
}

// afterSilence asks over TCP what was not answered over UDP. That there is no
// answer either ends nothing: one over UDP may still come.
func (s *server) afterSilence(ctx context.Context, q *Question) ([]byte, error) {
	how := s.manner(q, time.Now())
	how.mixed = false
	reply, err := s.streams.ask(ctx, q, how)
	if err == nil && how.edns && refusesEDNS(reply) {
		reply, err = s.streams.ask(ctx, q, manner{ad: how.ad})
	}
	if err != nil {
		<-ctx.Done()
		return nil, &overTCPError{errUnheard, err}
	}
	return reply, nil
}

func (s *server) over(ctx context.Context, q *Question, how manner, t *try) ([]byte, error) {
	switch s.Transport {
	case UDP:
		return s.datagram(ctx, q, how, t)
	case HTTPS:
		return s.https.ask(ctx, q, how)
	}
	return s.streams.ask(ctx, q, how)
}

// account notes how a server fared.
func (s *server) account(begun time.Time, reply []byte, err error) (now time.Time) {
	now = time.Now()
	if err != nil {
		s.counts.failures.Add(1)
		if !blameless(err) {
			s.health.failed(err, begun, now)
		}
		return now
	}
	if failed(reply) {
		s.counts.refusals.Add(1)
	}
	took := now.Sub(begun)
	s.counts.took(took)
	s.health.answered(took, now)
	return now
}

// blameless reports whether an error says nothing of how the server is.
func blameless(err error) bool {
	return errors.Is(err, errBusy) || errors.Is(err, errUnheard) || errors.Is(err, errUnreadable)
}

// timedOut reports whether a try ended because its time did.
func timedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// ownTime makes an error of a time that we have set one that is not taken for
// the asker's: that one has time, and others who wait need not ask again.
func ownTime(err error) error {
	if timedOut(err) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return errSilent
	}
	return err
}
