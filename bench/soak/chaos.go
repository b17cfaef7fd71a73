package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// A chaos is what is done to a world under load.
type chaos struct {
	world   *world
	mix     *mix
	markers [2][]byte // questions for names that are in this version of the list alone
	start   time.Time

	mu     sync.Mutex // guards all that follows
	watch  watch
	wrong  []string // what should not be
	loaded int      // reloads that were in force as soon as they should be
}

func (c *chaos) complain(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := fmt.Sprintf("at %v: ", time.Since(c.start).Round(time.Millisecond)) + fmt.Sprintf(format, args...)
	c.wrong = append(c.wrong, text)
	fmt.Println("# " + text)
}

// until waits for the moment, and reports whether ctx is not done before.
func (c *chaos) until(ctx context.Context, at time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(time.Until(c.start.Add(at))):
		return ctx.Err() == nil
	}
}

// kill ends upstreams and has them come again until ctx is done.
func (c *chaos) kill(ctx context.Context, turns []turn) {
	for _, t := range turns {
		if !c.until(ctx, t.at) {
			return
		}
		was := c.world.upstreams[t.server]
		switch {
		case t.alive:
			if err := c.world.revive(t.server); err != nil {
				c.complain("upstream %d does not start: %v", t.server, err)
				return
			}
			c.note(t)
		case !was.alive():
			c.complain("upstream %d: %v", t.server, errEnded)
		default:
			c.note(t)
			was.kill()
		}
	}
}

// note takes the moment for when it happened, which may be later than planned.
func (c *chaos) note(t turn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t.at = time.Since(c.start)
	c.watch.note(t)
}

// reload has the gateway take the other version, again and again until ctx is
// done: by its control socket and by SIGHUP in turn.
func (c *chaos) reload(ctx context.Context, reloads []time.Duration) {
	for i, at := range reloads {
		if !c.until(ctx, at) {
			return
		}
		version := 1 - c.world.current
		if err := c.world.version(version); err != nil {
			c.complain("writing version %d: %v", version, err)
			return
		}
		if err := c.once(ctx, i%2 == 0, version); err != nil && ctx.Err() == nil {
			c.complain("reload %d: %v", i+1, err)
		} else if err == nil {
			c.mu.Lock()
			c.loaded++
			c.mu.Unlock()
		}
	}
}

// patience is how long after SIGHUP the new version has to be in force. After a
// reload that was asked for by the socket it is when that is answered.
const patience = 5 * time.Second

func (c *chaos) once(ctx context.Context, bySocket bool, version int) error {
	w := c.world
	if bySocket {
		out, err := exec.CommandContext(ctx, w.program("starferry"), "reload", "-c", w.file("gateway.yaml")).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
		}
		return c.inForce(version)
	}
	if err := w.server.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		return err
	}
	for end := time.Now().Add(patience); ; {
		err := c.inForce(version)
		if err == nil || time.Now().After(end) {
			return err
		}
		if !c.until(ctx, time.Since(c.start)+20*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// inForce says what shows that the version is not in force: the name that is in
// its list alone has to be blocked, that of the other's not. What is not in the
// list may have to do without upstreams.
func (c *chaos) inForce(version int) error {
	if err := c.world.look(c.mix, blocked, c.markers[version]); err != nil {
		return fmt.Errorf("version %d is not in force: what it blocks gives %w", version, err)
	}
	if err := c.world.look(c.mix, unique, c.markers[1-version]); errors.Is(err, errRcode) {
		return fmt.Errorf("version %d is not in force: what it does not block gives %w", version, err)
	}
	return nil
}

// dialOnce makes a socket for one question.
func dialOnce(to netip.AddrPort) (net.Conn, error) {
	return net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
}

// exchange asks until there is an answer, as a stub resolver does.
func exchange(c net.Conn, query []byte) ([]byte, error) {
	b := make([]byte, longest)
	var last error
	for range tries {
		if err := c.SetDeadline(time.Now().Add(tryTime)); err != nil {
			return nil, err
		}
		if _, last = c.Write(query); last != nil {
			continue
		}
		var n int
		if n, last = c.Read(b); last == nil {
			return b[:n], nil
		}
	}
	return nil, last
}
