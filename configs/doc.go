package configs

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/internal/yamlpos"
	"github.com/starferry/starferry/policy"
)

// A kind is what a file describes.
type kind uint8

const (
	unknownFile kind = iota
	gatewayFile
	egressFile
	connectorFile
	policyFile
	devicesFile
)

var kinds = [...]string{"unknown", "gateway", "egress", "connector", "policy", "devices"}

func (k kind) String() string { return kinds[k] }

// A doc is one file being read, with what it says about itself and others. In
// the end it holds one of gateway, egress, connector, policy and devices.
type doc struct {
	order int    // among the files that are read together
	name  string // as given or as named by another file; the start of each place
	src   []byte
	kind  kind
	file  *yamlpos.File // nil if the file is no YAML
	root  *yamlpos.Map
	errs  []error // found by others than file

	gateway   *Gateway
	egress    *Egress
	connector *Connector
	policy    *policy.Policy
	devices   []*device.Device

	notes
	parts parts // of a policy
}

// notes are what a file says that is compared with other files.
type notes struct {
	claims   []claim
	facts    []fact
	refs     []ref
	warnings []Warning
	doubtful bool // a gateway whose slice could not be read in full
	part     bool // of another policy, which includes it
}

// A ref is a place where a node file names another file.
type ref struct {
	path string
	want kind
	at   yamlpos.Pos
}

// A Warning is something that works and is still worth a look.
type Warning struct {
	At  yamlpos.Pos
	Msg string
}

func (w Warning) String() string {
	if w.At.IsZero() {
		return w.Msg // of package policy, which has put the place in
	}
	return fmt.Sprintf("%v: %s", w.At, w.Msg)
}

func openDoc(name string, src []byte) *doc {
	d := &doc{name: name, src: src}
	file, root, err := yamlpos.Open(name, src)
	if err != nil {
		d.errs = append(d.errs, err)
		return d
	}
	d.file, d.root = file, root
	d.kind = kindOf(root)
	return d
}

// The keys by which files without a role are known. Included files of a policy
// may have no policies.
var (
	policyKeys  = policy.Keys()
	devicesKeys = []string{"devices", "networks"}
)

// kindOf tells what a file describes: node files say their role, the others
// are known by what they list.
func kindOf(root *yamlpos.Map) kind {
	keys := root.Keys()
	switch {
	case slices.Contains(keys, "role"):
		if n := root.Node("role"); n != nil {
			return kind(max(0, slices.Index(kinds[:connectorFile+1], n.Text())))
		}
	case slices.ContainsFunc(keys, func(key string) bool { return slices.Contains(policyKeys, key) }):
		return policyFile
	case slices.ContainsFunc(keys, func(key string) bool { return slices.Contains(devicesKeys, key) }):
		return devicesFile
	}
	return unknownFile
}

// expect makes the file one of the wanted kind, and says so if it is another.
func (d *doc) expect(want kind) {
	if d.file == nil || d.kind == want {
		return
	}
	d.file.ErrorAt(d.root.Pos(), d.kindHint(), "want a %v file", want)
	d.kind = want
}

func (d *doc) kindHint() string {
	if d.kind == unknownFile {
		return ""
	}
	return fmt.Sprintf("this is a %v file", d.kind)
}

// read fills in what the file describes. A policy needs its lists and is read
// by [fleet.compile].
func (d *doc) read() {
	if d.file == nil {
		return
	}
	r := &reader{doc: d, dir: filepath.Dir(d.name)}
	switch d.kind {
	case gatewayFile:
		d.gateway = r.readGateway(d.root)
	case egressFile:
		d.egress = r.readEgress(d.root)
	case connectorFile:
		d.connector = r.readConnector(d.root)
	case devicesFile:
		d.devices = r.readDevices(d.root)
	case unknownFile:
		d.unknown()
	}
}

func (d *doc) unknown() {
	if n := d.root.Node("role"); n != nil {
		yamlpos.Value(n, "", yamlpos.OneOf(kinds[gatewayFile:connectorFile+1]...))
		return
	}
	if d.file.Err() != nil {
		return // no mapping at all
	}
	for _, key := range d.root.Keys() {
		near := yamlpos.DidYouMean(strings.ToLower(key), slices.Concat([]string{"role"}, policyKeys, devicesKeys))
		if near != "" {
			d.root.KeyErrorf(key, near, "unknown key %q: cannot tell what this file describes", key)
			return
		}
	}
	d.file.ErrorAt(d.root.Pos(), "a node file has a role, others have policies or devices",
		"cannot tell what this file describes")
}

// node returns what all node files share, and nil for other files.
func (d *doc) node() *Node {
	switch {
	case d.gateway != nil:
		return &d.gateway.Node
	case d.egress != nil:
		return &d.egress.Node
	case d.connector != nil:
		return &d.connector.Node
	}
	return nil
}

// wantNode says so if the file is not that of a node.
func (d *doc) wantNode() {
	if d.file != nil && d.node() == nil && d.kind != unknownFile {
		d.file.ErrorAt(d.root.Pos(), d.kindHint(), "want the file of a node")
	}
}

// routes returns the names of the routes that a node file has.
func (d *doc) routes() (names []string) {
	switch {
	case d.gateway != nil:
		names = routeNames(d.gateway.Routes)
	case d.egress != nil:
		names = routeNames(d.egress.Routes)
	}
	return names
}

func routeNames(routes []Route) (names []string) {
	for _, r := range routes {
		names = append(names, r.Name)
	}
	return names
}

func (d *doc) warn(at yamlpos.Pos, format string, args ...any) {
	d.warnings = append(d.warnings, Warning{at, fmt.Sprintf(format, args...)})
}

// mistakes returns everything that is wrong with the file in its order, each
// mistake once: a policy is read twice, by its own package and by this one.
func (d *doc) mistakes() error {
	all := flatten(d.errs)
	if d.file != nil {
		all = append(all, flatten([]error{d.file.Err()})...)
	}
	seen := map[string]bool{}
	all = slices.DeleteFunc(all, func(err error) bool {
		again := seen[err.Error()]
		seen[err.Error()] = true
		return again
	})
	slices.SortStableFunc(all, d.byPlace)
	return yamlpos.Join(all...)
}

func flatten(errs []error) (all []error) {
	for _, err := range errs {
		var many yamlpos.Errors
		switch {
		case err == nil:
		case errors.As(err, &many):
			all = append(all, many...)
		default:
			all = append(all, err)
		}
	}
	return all
}

// byPlace puts mistakes in the order of the file, those in files that it includes
// behind them, and those without a place last.
func (d *doc) byPlace(a, b error) int {
	var x, y *yamlpos.Error
	hasA, hasB := errors.As(a, &x), errors.As(b, &y)
	switch {
	case hasA && hasB && x.Pos.File != y.Pos.File:
		return d.parts.index(x.Pos) - d.parts.index(y.Pos)
	case hasA && hasB && x.Pos.Line != y.Pos.Line:
		return x.Pos.Line - y.Pos.Line
	case hasA && hasB:
		return x.Pos.Col - y.Pos.Col
	case hasA:
		return -1
	case hasB:
		return 1
	}
	return 0
}
