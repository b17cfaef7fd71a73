// Package docs holds the manual, and tests that it tells the truth: each YAML
// block in it is read by the reader of its kind, each link leads somewhere, and
// the metrics and reasons that it names are those that there are.
//
// A YAML block says in its first line what it is: "# policy.yaml" is a whole
// file, "# policy.yaml: lists" some top-level keys of one, which is made whole
// here by the rest of a small file. Files that a policy names are there.
package docs

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/tunnel"
)

const root = ".."

// pages returns the pages of the manual, and those at the top of the tree.
func pages(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, pattern := range []string{"*.md", "*/*.md", "../*.md"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			out[name] = string(b)
		}
	}
	if len(out) < 10 {
		t.Fatalf("only %d pages", len(out))
	}
	return out
}

var fence = regexp.MustCompile("(?ms)^```yaml\n(.*?)^```")

func TestYAML(t *testing.T) {
	found := 0
	for name, text := range pages(t) {
		for _, m := range fence.FindAllStringSubmatchIndex(text, -1) {
			found++
			at := fmt.Sprintf("%s:%d", name, 1+strings.Count(text[:m[2]], "\n"))
			if err := read(at, text[m[2]:m[3]]); err != nil {
				t.Errorf("%s: %v", at, err)
			}
		}
	}
	if found < 10 {
		t.Errorf("only %d YAML blocks", found)
	}
}

var label = regexp.MustCompile(`^# (policy|gateway|egress|connector|devices)\.yaml(:.*)?\n`)

// read reads a block as what its first line says.
func read(at, block string) error {
	m := label.FindStringSubmatch(block)
	if m == nil {
		return fmt.Errorf("the first line does not say which file this is of: %q", strings.SplitN(block, "\n", 2)[0])
	}
	if m[2] != "" {
		block = whole(block, rest[m[1]])
	}
	var err error
	switch m[1] {
	case "policy":
		_, err = policy.Parse(at, []byte(block), open)
	case "gateway":
		_, err = configs.ReadGateway(at, []byte(block))
	case "egress":
		_, err = configs.ReadEgress(at, []byte(block))
	case "connector":
		_, err = configs.ReadConnector(at, []byte(block))
	case "devices":
		_, err = configs.ReadDevices(at, []byte(block))
	}
	return err
}

// open opens what policies name: a line for each format, since a line of
// another format than the list's is passed over.
func open(path string) (io.ReadCloser, error) {
	if strings.HasSuffix(path, ".mmdb") {
		return configs.Countries(map[netip.Prefix]string{netip.MustParsePrefix("203.0.113.0/24"): "CN"})
	}
	if strings.HasSuffix(path, ".yaml") {
		return io.NopCloser(strings.NewReader("policies: []\n")), nil
	}
	return io.NopCloser(strings.NewReader(strings.Join([]string{
		"a.example", "192.0.2.1 b.example", "server=/c.example/", "bogus-nxdomain=192.0.2.2", "d.example CNAME .", "||e.example^", "192.0.2.0/24", "",
	}, "\n"))), nil
}

var topLevel = regexp.MustCompile(`(?m)^([a-z_]+):`)

// whole adds to a fragment the top-level keys that it lacks, from parts.
func whole(fragment string, parts map[string]string) string {
	given := map[string]bool{}
	for _, m := range topLevel.FindAllStringSubmatch(fragment, -1) {
		given[m[1]] = true
	}
	for _, key := range slices.Sorted(maps.Keys(parts)) {
		if !given[key] {
			fragment += key + ": " + parts[key] + "\n"
		}
	}
	return fragment
}

// rest is a small file of each kind, by top-level keys.
var rest = map[string]map[string]string{
	"policy": {
		"lists":    "{china-sites: {file: a.conf, format: dnsmasq}, china-networks: {file: b.txt, format: cidr}, phishing: {file: c.rpz, format: rpz}}",
		"geoip":    "{country: country.mmdb, asn: asn.mmdb}",
		"postures": "{managed-laptop: {max_age: 15m, checks: [firewall: on]}}",
		"policies": "[]",
	},
	"gateway": {
		"role": "gateway", "name": "gw-sjc", "policy": "policy.yaml", "devices": "devices.yaml",
		"address": "100.72.0.1", "slice": "100.72.0.0/20", "pool": "198.19.0.0/18",
		"upstreams": "{default: {servers: 192.0.2.53}}", "wireguard": "{private_key_file: gateway.key}",
		"egresses": `[{name: hk-1, public_key: "e0xjY8u30nx2FU3HVd/t2vUfJq+Ad6jc2WGccRC/kTQ=", endpoint: "hk-1.example.com:51820", address: 100.72.128.1, pool: 240.1.0.0/16}]`,
	},
	"egress": {
		"role": "egress", "name": "hk-1", "policy": "egress-policy.yaml", "address": "100.72.128.1", "pool": "240.1.0.0/16",
		"wireguard": "{private_key_file: egress.key}", "gateways": "[]", "connectors": "[]",
	},
	"connector": {
		"role": "connector", "name": "cn-sha-1", "address": "100.72.160.1", "pool": "240.2.0.0/17",
		"wireguard": "{private_key_file: connector.key}", "egresses": "[]", "slices": "100.72.0.0/20", "resolver": "{servers: 223.5.5.5}",
	},
	"devices": {"devices": "[]"},
}

// The report in the manual passes the profile that stands before it.
func TestReport(t *testing.T) {
	text := pages(t)["policy.md"]
	report := regexp.MustCompile("(?ms)^```json\n(.*?)^```").FindStringSubmatch(text)
	block := regexp.MustCompile("(?ms)^```yaml\n(# policy.yaml: postures\n.*?)^```").FindStringSubmatch(text)
	if report == nil || block == nil {
		t.Fatal("policy.md has no report or no profile")
	}
	p, err := policy.Parse("policy.md", []byte(whole(block[1], rest["policy"])), open)
	if err != nil {
		t.Fatal(err)
	}
	r, err := posture.ParseReport([]byte(report[1]))
	if err != nil {
		t.Fatal(err)
	}
	if v := p.Profiles()[0].Judge(r, time.Now()); v.Result != posture.Passed {
		t.Errorf("%v: %s", v.Result, v.Reason)
	}
}

// Each example with a mistake in it is found, or the test is worth nothing.
func TestReadFindsMistakes(t *testing.T) {
	for _, block := range []string{
		"policies: []\n",
		"# policy.yaml\npolicies: [{name: a}]\n",
		"# policy.yaml: policies\npolicies: [{name: a, if: {name: {list: none}}, then: allow}]\n",
		"# gateway.yaml\nrole: gateway\n",
		"# egress.yaml: routes\nroutes: {a: {connectors: [none]}}\n",
		"# connector.yaml: forward\nforward: {mode: root}\n",
		"# devices.yaml: networks\nnetworks: [{name: a}]\n",
	} {
		if read("test", block) == nil {
			t.Errorf("no mistake is found in %q", block)
		}
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	code    = regexp.MustCompile("(?ms)^```.*?^```$|`[^`\n]*`")
)

func TestLinks(t *testing.T) {
	all := pages(t)
	for name, text := range all {
		for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(text, ""), -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			path, anchor, _ := strings.Cut(m[1], "#")
			to := name
			if path != "" {
				to = filepath.Join(filepath.Dir(name), path)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: the link %s leads nowhere", name, m[1])
			} else if page, ok := all[to]; ok && anchor != "" && !slices.Contains(anchors(page), anchor) {
				t.Errorf("%s: the link %s leads to no heading", name, m[1])
			}
		}
	}
}

// anchors returns the names of the headings of a page, as forges make them.
func anchors(text string) (out []string) {
	for _, m := range heading.FindAllStringSubmatch(code.ReplaceAllString(text, ""), -1) {
		out = append(out, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-', r == '_', r >= '0' && r <= '9', r >= 'a' && r <= 'z':
				return r
			default:
				return -1
			}
		}, strings.ToLower(m[1])))
	}
	return out
}

var metric = regexp.MustCompile(`\bstarferry_[a-z][a-z0-9_]*[a-z0-9]`)

func TestMetrics(t *testing.T) {
	text := pages(t)["operations.md"]
	told := map[string]bool{}
	for _, name := range metric.FindAllString(text, -1) {
		told[name] = true
	}
	there := metrics(t)
	for _, name := range slices.Sorted(maps.Keys(there)) {
		if !told[name] {
			t.Errorf("operations.md does not say what %s is (%s)", name, there[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(told)) {
		if _, ok := there[name]; !ok {
			t.Errorf("operations.md tells of %s, which is nowhere in the code", name)
		}
	}
}

// metrics returns the names of metrics in the code with the files that have
// them: texts that begin as all do, and arguments of functions that put that
// beginning before them.
func metrics(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != "..", d.IsDir() && d.Name() == "testdata":
			return fs.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		f, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		before := prefixes(f)
		ast.Inspect(f, func(n ast.Node) bool {
			for _, name := range named(n, before) {
				out[name] = path
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 10 {
		t.Fatalf("only %d metrics", len(out))
	}
	return out
}

// prefixes returns which functions of a file put what before their argument.
func prefixes(f *ast.File) map[string]string {
	out := map[string]string{}
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Body == nil {
			continue
		}
		ast.Inspect(fn.Body, func(n ast.Node) bool {
			if sum, ok := n.(*ast.BinaryExpr); ok {
				if s := literal(sum.X); strings.HasPrefix(s, "starferry_") {
					out[fn.Name.Name] = s
				}
			}
			return true
		})
	}
	return out
}

func named(n ast.Node, before map[string]string) []string {
	switch n := n.(type) {
	case *ast.BasicLit:
		if s := literal(n); metric.FindString(s) == s && s != "" {
			return []string{s}
		}
	case *ast.CallExpr:
		fn, ok := n.Fun.(*ast.Ident)
		if ok && before[fn.Name] != "" && len(n.Args) > 0 && literal(n.Args[0]) != "" {
			return []string{before[fn.Name] + literal(n.Args[0])}
		}
	}
	return nil
}

// literal returns the text of a string literal, "" of anything else.
func literal(e ast.Expr) string {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return ""
	}
	s, _ := strconv.Unquote(lit.Value) // the parser has checked it
	return s
}

// The reasons are closed sets, and the manual knows all of them.
func TestReasons(t *testing.T) {
	text := pages(t)["operations.md"]
	var words []string
	for d := tunnel.DropStray; d <= tunnel.DropContended; d++ {
		words = append(words, d.String())
	}
	for c := tunnel.CloseIdle; c <= tunnel.CloseShutdown; c++ {
		words = append(words, c.String())
	}
	for _, w := range words {
		if !strings.Contains(text, "`"+w+"`") {
			t.Errorf("operations.md does not say what %s means", w)
		}
	}
}

// Each direct dependency has a line that says why it is one.
func TestDependencies(t *testing.T) {
	text := pages(t)["dependencies.md"]
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^\t(\S+) v\S+$`).FindAllStringSubmatch(string(mod), -1) {
		if !strings.Contains(text, m[1]) {
			t.Errorf("dependencies.md does not say what %s is for", m[1])
		}
	}
}

// CONTRIBUTING.md names the commands that take long, and they are there.
func TestCommands(t *testing.T) {
	text := pages(t)[filepath.Join(root, "CONTRIBUTING.md")]
	told := regexp.MustCompile("`((?:bench|integration)/[a-z]+\\.sh)").FindAllStringSubmatch(text, -1)
	if len(told) < 3 {
		t.Errorf("only %d commands", len(told))
	}
	for _, m := range told {
		if st, err := os.Stat(filepath.Join(root, m[1])); err != nil || st.Mode()&0o111 == 0 {
			t.Errorf("CONTRIBUTING.md names %s, which cannot be run: %v", m[1], err)
		}
	}
}
