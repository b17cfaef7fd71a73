// Package integration tries whole programs: the built binary, real dig and
// curl, real WireGuard clients, real kernel namespaces.
//
// The tests on loopback (demo_test.go) run anywhere. Those in network
// namespaces (chain_test.go) need root and the programs that CONTRIBUTING.md
// names; they make a small internet of their own and take it down again.
package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// binary is the built program, made once for all tests.
var binary string

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(play(role, os.Args[1:]))
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "starferry-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "starferry")
		if out, err := exec.Command("go", "build", "-o", binary, "../cmd/starferry").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building the program: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// A lab is a set of network namespaces with the programs that run in them.
type lab struct {
	t   *testing.T
	id  string
	dir string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, id: fmt.Sprintf("sf%d", os.Getpid()), dir: t.TempDir()}
	return l
}

// ns returns the real name of a namespace.
func (l *lab) ns(name string) string { return l.id + "-" + name }

// host makes a namespace with loopback up.
func (l *lab) host(names ...string) {
	l.t.Helper()
	for _, name := range names {
		l.sh("ip netns add " + l.ns(name))
		l.t.Cleanup(func() { exec.Command("ip", "netns", "del", l.ns(name)).Run() })
		l.in(name, "ip link set lo up")
	}
}

// cable joins a host to the bridge of another, with an interface of this name
// and these addresses at the host.
func (l *lab) cable(host, iface, bridge string, addrs ...string) {
	l.t.Helper()
	far := host + "-" + iface
	if len(far) > 15 {
		far = far[:15]
	}
	l.sh(fmt.Sprintf("ip link add %s netns %s type veth peer name %s netns %s", iface, l.ns(host), far, l.ns(bridge)))
	l.in(bridge, fmt.Sprintf("ip link set %s master br0 up", far))
	for _, a := range addrs {
		extra := ""
		if strings.Contains(a, ":") {
			extra = " nodad"
		}
		l.in(host, fmt.Sprintf("ip addr add %s dev %s%s", a, iface, extra))
	}
	l.in(host, fmt.Sprintf("ip link set %s up", iface))
}

// bridge makes a namespace that is a switch.
func (l *lab) bridge(name string) {
	l.t.Helper()
	l.host(name)
	l.in(name, "ip link add br0 type bridge")
	l.in(name, "ip link set br0 up")
}

// sh runs a command, which must succeed.
func (l *lab) sh(line string) string {
	l.t.Helper()
	out, err := exec.Command("sh", "-c", line).CombinedOutput()
	if err != nil {
		l.t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

// in runs a command in a namespace; it must succeed.
func (l *lab) in(host, line string) string {
	l.t.Helper()
	out, err := l.try(host, line)
	if err != nil {
		l.t.Fatalf("%s$ %s: %v\n%s", host, line, err, out)
	}
	return out
}

// try runs a command in a namespace, for ten seconds at most.
func (l *lab) try(host, line string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ip", "netns", "exec", l.ns(host), "sh", "-c", line).CombinedOutput()
	return string(out), err
}

// A program runs in a namespace. It is killed when the test ends.
type program struct {
	l    *lab
	host string
	args []string
	env  []string
	log  *os.File
	cmd  *exec.Cmd
	done chan struct{}
}

// start runs a program in a namespace in the background.
func (l *lab) start(host string, env []string, args ...string) *program {
	l.t.Helper()
	log, err := os.Create(filepath.Join(l.dir, fmt.Sprintf("%s-%s.log", host, filepath.Base(args[0]))))
	if err != nil {
		l.t.Fatal(err)
	}
	p := &program{l: l, host: host, args: args, env: env, log: log}
	p.run()
	l.t.Cleanup(func() {
		p.kill()
		if l.t.Failed() {
			l.t.Logf("--- %s %s\n%s", host, filepath.Base(args[0]), tail(log.Name(), 60))
		}
		log.Close()
	})
	return p
}

func (p *program) run() {
	p.l.t.Helper()
	p.cmd = exec.Command("ip", append([]string{"netns", "exec", p.l.ns(p.host)}, p.args...)...)
	p.cmd.Env = append(os.Environ(), p.env...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		p.l.t.Fatalf("%s: %v", p.host, err)
	}
	p.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		cmd.Wait()
		close(done)
	}(p.cmd, p.done)
}

// kill ends the program at once, as a crash does.
func (p *program) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// stop ends the program in order.
func (p *program) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	<-p.done
}

func tail(file string, lines int) string {
	b, _ := os.ReadFile(file)
	all := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return string(bytes.Join(all, []byte("\n")))
}

// within waits until a condition holds and returns how long that took.
func within(t *testing.T, limit time.Duration, what string, holds func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		if time.Since(start) > limit {
			t.Fatalf("%s: not within %v", what, limit)
		}
		<-tick.C
	}
	return time.Since(start)
}

// write makes a file in the lab's folder.
func (l *lab) write(name, text string) string {
	l.t.Helper()
	path := filepath.Join(l.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
	return path
}

// A download reads from a web server for as long as it runs, and knows how it stands.
type download struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error

	mu    sync.Mutex
	bytes int64
	last  time.Time
}

// download starts curl in a namespace.
func (l *lab) download(host string, args ...string) *download {
	l.t.Helper()
	d := &download{done: make(chan struct{}), last: time.Now()}
	d.cmd = exec.Command("ip", append([]string{"netns", "exec", l.ns(host), "curl", "-sS", "--no-buffer"}, args...)...)
	d.cmd.Stdout = d
	d.cmd.Stderr = os.Stderr
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.done)
	}()
	l.t.Cleanup(d.stop)
	return d
}

// Write counts what curl has received.
func (d *download) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bytes += int64(len(b))
	d.last = time.Now()
	return len(b), nil
}

func (d *download) got() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.bytes
}

func (d *download) ended() bool {
	select {
	case <-d.done:
		return true
	default:
		return false
	}
}

func (d *download) stop() {
	d.cmd.Process.Kill()
	<-d.done
}
