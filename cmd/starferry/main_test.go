package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/node"
	"github.com/starferry/starferry/resolver/replay"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"starferry": main}) }

// The command line as people use it. UPDATE=1 rewrites what is compared.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
		UpdateScripts: os.Getenv("UPDATE") != "",
		Setup:         setUp,
	})
}

// setUp gives each script the example files in configs, and a socket as the
// demo's gateway has one, at which a node of a few fixed answers listens.
func setUp(env *testscript.Env) error {
	if err := os.CopyFS(filepath.Join(env.WorkDir, "configs"), configs.Examples); err != nil {
		return err
	}
	run := filepath.Join(env.WorkDir, "run")
	dir := filepath.Join(run, fmt.Sprintf("starferry-demo-%d", os.Getuid()))
	if err := os.MkdirAll(run, 0o755); err != nil {
		return err
	}
	if err := control.MakePrivate(dir); err != nil {
		return err
	}
	env.Setenv("XDG_RUNTIME_DIR", run)
	env.Setenv("DEMO", dir)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- control.Serve(ctx, filepath.Join(dir, "gateway.sock"), answers()) }()
	env.Defer(func() {
		cancel()
		if err := <-ended; err != nil {
			env.T().Log(err)
		}
	})
	return answering(filepath.Join(dir, "gateway.sock"))
}

// answering waits until a process answers at the socket.
func answering(socket string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for {
		_, err := control.Client(socket).Status(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
}

func answers() control.Handlers {
	return control.Handlers{
		Status: func() *control.Status {
			return &control.Status{Name: "gw-sjc", Role: "gateway", Version: "1.2.3", Started: time.Now(), Leases: control.Leases{Used: 3, Size: 100}}
		},
		Explain: func(_ context.Context, q control.Question) (string, any, error) {
			if q.Device == "mallory" {
				return "", nil, errors.New(`there is no device "mallory"`)
			}
			return fmt.Sprintf("%s %s by %s\n", q.Name, q.Type, q.Device), q, nil
		},
		Flush: func(name string, suffix bool) (int, error) { return len(name) + map[bool]int{true: 100}[suffix], nil },
		Query: func(_ context.Context, q control.Question) (string, error) {
			if q.Device == "" {
				return "", errors.New("who asks? give --device: known are alice-laptop")
			}
			return fmt.Sprintf(";; asked by %s\n%s %s\n", q.Device, q.Name, q.Type), nil
		},
		Reload: reloads(),
		Do:     map[string]func(context.Context, url.Values) (string, error){},
	}
}

// reloads are one that is refused, one that changes what is answered, one of
// which nothing is known, and those that change nothing.
func reloads() func(context.Context) (*control.Reloaded, error) {
	n := 0
	return func(context.Context) (*control.Reloaded, error) {
		n++
		switch n {
		case 1:
			return nil, errors.New("policy.yaml:3:4: unknown key")
		case 2, 3:
			kind := replay.Kind{From: "allow", To: "block refused", FromPolicy: "default", ToPolicy: "games", Times: 2}
			at := time.Date(2026, 11, 4, 18, 30, 0, 0, time.UTC)
			return &control.Reloaded{Version: "3f2a", Changes: &replay.Difference{
				Replayed: 120, Changed: 2, Devices: 1, Names: 1, Left: replay.LeftOut{Privacy: 4}, Since: at, Kinds: []replay.Kind{kind},
				Changes: []replay.Change{{Device: "alice", Name: "www.game.example", Type: "A", Times: 2, First: at, Last: at, Kind: kind}},
			}}, nil
		case 4:
			return &control.Reloaded{Version: "3f2b"}, nil
		}
		return &control.Reloaded{Version: "3f2b", Same: true}, nil
	}
}

// countries is a country database.
func countries(t *testing.T) []byte {
	t.Helper()
	r, err := configs.Countries(map[netip.Prefix]string{netip.MustParsePrefix("203.0.113.0/24"): "CN"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The command of a role gives its node the settings, and a way to read them anew.
func TestRole(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, configs.Examples); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "country.mmdb"), countries(t), 0o600); err != nil {
		t.Fatal(err)
	}
	ran := ""
	r := role{name: "gateway", run: func(_ context.Context, set *configs.Set, load func() (*configs.Set, error), lists *node.Lists, log *slog.Logger) error {
		if lists == nil {
			return errors.New("nothing would fetch lists")
		}
		again, err := load()
		if err != nil {
			return err
		}
		ran = set.Gateway.Name + " " + string(again.Devices[0].ID)
		log.Info("running")
		return nil
	}}
	for _, c := range []struct{ file, log, want string }{
		{"gateway.yaml", "json", ""},
		{"egress.yaml", "text", "has role egress, not gateway"},
		{"policy.yaml", "text", "want the file of a node"},
		{"nothing.yaml", "text", "no such file"},
		{"gateway.yaml", "xml", "neither text nor json"},
	} {
		var out bytes.Buffer
		cmd := r.command()
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		cmd.SetErr(&out)
		cmd.SetArgs([]string{"-c", filepath.Join(dir, c.file), "--log", c.log})
		err := cmd.ExecuteContext(t.Context())
		if c.want == "" && (err != nil || ran != "gw-sjc alice-laptop" || !strings.Contains(out.String(), `"msg":"running"`)) {
			t.Errorf("%s: %v, ran %q, log %s", c.file, err, ran, out.String())
		}
		if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %s", c.file, err, c.want)
		}
	}
}

// The file of a node that runs may change, but not into one of another role.
func TestRolesStay(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, configs.Examples); err != nil {
		t.Fatal(err)
	}
	gateway := filepath.Join(dir, "gateway.yaml")
	var of role
	for _, r := range roles() {
		if r.name == "gateway" {
			of = r
		}
	}
	var loader configs.Loader
	load := of.loading(&loader, gateway, slog.New(slog.DiscardHandler))
	load() //nolint:errcheck // there is no database of countries
	text, err := os.ReadFile(filepath.Join(dir, "connector.yaml"))
	if err == nil {
		err = os.WriteFile(gateway, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := load(); err == nil || !strings.Contains(err.Error(), "has role connector, not gateway") {
		t.Errorf("a reload says %v", err)
	}
}

// What a reload has to warn of is logged, and what was logged before is not
// logged again.
func TestWarningsOfReloads(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, configs.Examples); err != nil {
		t.Fatal(err)
	}
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("policy.yaml", "lists: {own: {file: own.txt, format: plain}}\npolicies: [{name: own, if: {name: {list: own}}, then: block}]\n")
	var out bytes.Buffer
	var loader configs.Loader
	load := role{name: "gateway"}.loading(&loader, filepath.Join(dir, "gateway.yaml"), slog.New(slog.NewTextHandler(&out, nil)))
	for _, step := range []struct {
		text  string
		times int
	}{{"a.test\n", 0}, {"", 1}, {"", 1}, {"b.test\n", 1}, {"", 2}} {
		write("own.txt", step.text)
		if _, err := load(); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(out.String(), "policy.yaml:1:9: list own: own.txt is empty"); n != step.times {
			t.Errorf("%q: warned %d times, want %d:\n%s", step.text, n, step.times, out.String())
		}
	}
}
