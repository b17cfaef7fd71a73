package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A world is the gateway and the two upstreams, and the folder of their files:
// the gateway's, names and blocked, which are asked for, and of the policy and
// of the list two versions each.
type world struct {
	dir, bin string
	gateway  netip.AddrPort
	metrics  netip.AddrPort
	up       [2]netip.AddrPort
	answer   netip.Addr
	ttl      time.Duration // of upstream's answers

	current   int // version of the policy and of the list
	server    *process
	upstreams [2]*process
}

// open starts everything and waits until it answers.
func (w *world) open(m *mix) error {
	for i := range w.up {
		if err := w.revive(i); err != nil {
			return err
		}
	}
	if err := w.version(0); err != nil {
		return err
	}
	var err error
	if w.server, err = begin(w.log("gateway"), w.program("starferry"), "gateway", "-c", w.file("gateway.yaml")); err != nil {
		return err
	}
	err = errors.New("there is no answer")
	for end := time.Now().Add(time.Minute); err != nil && w.server.alive() && time.Now().Before(end); {
		err = w.look(m, popular, m.queries[popular][0])
	}
	if err != nil {
		return fmt.Errorf("the gateway does not answer: %w; its log ends so:\n%s", err, w.said())
	}
	return nil
}

// close kills what is left.
func (w *world) close() {
	for _, p := range []*process{w.server, w.upstreams[0], w.upstreams[1]} {
		if p != nil {
			p.kill()
		}
	}
}

// serves reports whether a socket is the gateway's for DNS.
func (w *world) serves(at netip.AddrPort) bool { return at == w.gateway }

func (w *world) file(name string) string    { return filepath.Join(w.dir, name) }
func (w *world) log(name string) string     { return w.file(name + ".log") }
func (w *world) program(name string) string { return filepath.Join(w.bin, name) }

func (w *world) revive(i int) (err error) {
	w.upstreams[i], err = begin(w.log(fmt.Sprintf("upstream%d", i)), w.program("upstream"),
		"-listen", w.up[i].String(), "-address", w.answer.String(), "-ttl", w.ttl.String())
	return err
}

// version puts version 0 or 1 of the policy and of the list in their places.
// Each is a whole at any time: the gateway watches them.
func (w *world) version(n int) error {
	for _, name := range []string{"policy.%syaml", "list.%stxt"} {
		b, err := os.ReadFile(w.file(fmt.Sprintf(name, fmt.Sprint(n, "."))))
		if err != nil {
			return err
		}
		if err := os.WriteFile(w.file("next"), b, 0o600); err != nil {
			return err
		}
		if err := os.Rename(w.file("next"), w.file(fmt.Sprintf(name, ""))); err != nil {
			return err
		}
	}
	w.current = n
	return nil
}

// look asks the gateway once, as somebody of a kind may.
func (w *world) look(m *mix, k kind, query []byte) error {
	c, err := dialOnce(w.gateway)
	if err != nil {
		return err
	}
	defer c.Close()
	answer, err := exchange(c, query)
	if err != nil {
		return err
	}
	return m.check(k, query, answer)
}

// said returns the end of what the gateway has logged, but for what it decided.
func (w *world) said() string {
	const lines = 20
	b, err := os.ReadFile(w.log("gateway"))
	if err != nil {
		return err.Error()
	}
	var all []string
	for line := range strings.Lines(string(b)) {
		if !strings.Contains(line, " msg=decision ") {
			all = append(all, line)
		}
	}
	return strings.Join(all[max(0, len(all)-lines):], "")
}
