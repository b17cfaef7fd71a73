package configs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/internal/yamlpos"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/policy/list"
)

// An Opener opens a file for reading.
type Opener func(path string) (io.ReadCloser, error)

// OS opens the machine's own files.
func OS(path string) (io.ReadCloser, error) { return os.Open(path) }

// FS opens the files of a tree, such as [Examples].
func FS(fsys fs.FS) Opener {
	return func(path string) (io.ReadCloser, error) { return fsys.Open(path) }
}

// A Set is a node file with all that it names. One of Gateway, Egress and
// Connector is set. It is immutable: for a reload, load it anew and take that
// instead, if there is no error.
type Set struct {
	Gateway   *Gateway
	Egress    *Egress
	Connector *Connector

	Policy   *policy.Policy   // of a gateway or egress
	Devices  []*device.Device // of a gateway
	Files    []string         // everything that was read, lists included: what to watch for changes
	Warnings []string         // what works and is still worth a look
}

// Node returns what nodes of all roles have.
func (s *Set) Node() *Node {
	switch {
	case s.Gateway != nil:
		return &s.Gateway.Node
	case s.Egress != nil:
		return &s.Egress.Node
	}
	return &s.Connector.Node
}

// Role returns gateway, egress or connector.
func (s *Set) Role() string {
	switch {
	case s.Gateway != nil:
		return gatewayFile.String()
	case s.Egress != nil:
		return egressFile.String()
	}
	return connectorFile.String()
}

// Load reads a node file and what it names. Its error is every mistake of all
// of these files.
func Load(open Opener, path string) (*Set, error) { return new(Loader).load(open, path, false) }

// A Loader reads a node file again and again, and builds only those lists anew
// whose files have changed. The zero value is ready.
type Loader struct {
	Copies Copies

	lists list.Cache
}

// Copies are those of lists that a policy has from other machines. Without them
// the ones that lie in the node's state folder are taken as they are.
type Copies struct {
	Want func(all []policy.Download) // is told of a policy's lists before it is read, so that they can be fetched
	Open Opener                      // opens a copy by its URL
}

// Load does what the function [Load] does.
func (l *Loader) Load(open Opener, path string) (*Set, error) { return l.load(open, path, false) }

func (l *Loader) load(open Opener, path string, lenient bool) (*Set, error) {
	f := newFleet(open)
	f.lists, f.lenient, f.copies = &l.lists, lenient, l.Copies
	d := f.add(path)
	f.settle()
	d.wantNode()
	return f.set(d)
}

// LoadPolicy reads a policy file, or a node file and the policy that it names,
// for those who only look: as [LoadLenient] does. Of a policy file alone there
// are no devices.
func LoadPolicy(open Opener, path string) (*Set, error) {
	f := newFleet(open)
	f.lenient = true
	d := f.add(path)
	f.settle()
	if d.kind != policyFile {
		d.wantNode()
	}
	s, err := f.set(d)
	if err == nil && s.Policy == nil {
		return nil, fmt.Errorf("%s has no policy: a connector decides nothing", path)
	}
	return s, err
}

// set returns what was read by way of the file d, or all mistakes.
func (f *fleet) set(d *doc) (*Set, error) {
	if err := f.mistakes(); err != nil {
		return nil, err
	}
	s := &Set{Gateway: d.gateway, Egress: d.egress, Connector: d.connector, Files: f.files}
	for _, d := range f.docs {
		switch d.kind {
		case policyFile:
			s.Policy = d.policy
		case devicesFile:
			s.Devices = d.devices
		}
	}
	for _, w := range f.warnings() {
		s.Warnings = append(s.Warnings, w.String())
	}
	return s, nil
}

// LoadNode reads what nodes of all roles have from a node file, and nothing
// that it names.
func LoadNode(open Opener, path string) (*Node, error) {
	s, err := LoadAlone(open, path)
	if err != nil {
		return nil, err
	}
	return s.Node(), nil
}

// LoadAlone reads a node file, and nothing that it names.
func LoadAlone(open Opener, path string) (*Set, error) {
	f := newFleet(open)
	d, err := f.openFile(path)
	if err != nil {
		return nil, err
	}
	d.read()
	d.wantNode()
	if err := d.mistakes(); err != nil {
		return nil, err
	}
	return &Set{Gateway: d.gateway, Egress: d.egress, Connector: d.connector, Files: f.files}, nil
}

// LoadDevices reads a file of devices, and nothing else.
func LoadDevices(open Opener, path string) ([]*device.Device, error) {
	d, err := newFleet(open).openFile(path)
	if err != nil {
		return nil, err
	}
	d.read()
	if d.file != nil && d.kind != devicesFile && d.kind != unknownFile {
		d.file.ErrorAt(d.root.Pos(), d.kindHint(), "want a file of devices")
	}
	return d.devices, d.mistakes()
}

// A fleet is any number of files that are read together.
type fleet struct {
	open    Opener
	lists   *list.Cache
	lenient bool // a country database may be missing, and so may copies of lists
	copies  Copies
	raw     Opener // does not note what it opens
	docs    []*doc
	files   []string
}

func newFleet(open Opener) *fleet {
	f := &fleet{raw: open}
	f.open = func(path string) (io.ReadCloser, error) {
		r, err := open(path)
		if err == nil && !slices.Contains(f.files, path) {
			f.files = append(f.files, path)
		}
		return r, err
	}
	return f
}

func (f *fleet) find(path string) *doc {
	for _, d := range f.docs {
		if d.name == path {
			return d
		}
	}
	return nil
}

// add reads a file once, and then the files that it names.
func (f *fleet) add(path string) *doc {
	if d := f.find(path); d != nil {
		return d
	}
	d, err := f.openFile(path)
	if err != nil {
		d = &doc{name: path, errs: []error{err}}
	}
	d.order = len(f.docs)
	f.docs = append(f.docs, d)
	d.read()
	for _, r := range d.refs {
		f.follow(d, r)
	}
	return d
}

// follow adds a file that another one names. That it is not there is a mistake
// of the one that names it.
func (f *fleet) follow(d *doc, r ref) {
	if f.find(r.path) == nil {
		file, err := f.open(r.path)
		if err != nil {
			d.file.ErrorAt(r.at, "", "%v", plain(err))
			return
		}
		file.Close()
	}
	if to := f.add(r.path); to.file != nil && to.kind != r.want {
		d.file.ErrorAt(r.at, to.kindHint(), "%s is no file of %v", r.path, r.want.plural())
	}
}

func (k kind) plural() string {
	if k == policyFile {
		return "policies"
	}
	return k.String()
}

// maxFile is the size that a file of settings may have, 64 MiB; lists are read
// as a stream and may be longer.
const maxFile = 64 << 20

func (f *fleet) openFile(path string) (*doc, error) {
	r, err := f.open(path)
	if err != nil {
		return nil, plain(err)
	}
	defer r.Close()
	src, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if len(src) > maxFile {
		return nil, fmt.Errorf("reading %s: longer than %d MiB", path, maxFile>>20)
	}
	return openDoc(path, src), nil
}

// plain says of a file that is not there no more than that.
func plain(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return fmt.Errorf("%s: %w", p.Path, p.Err)
	}
	return err
}

// settle compares the files with one another, the policies last: they need the
// groups of the devices and the routes of the nodes.
func (f *fleet) settle() {
	settle(f.docs)
	f.join()
	for _, d := range f.docs {
		if d.decides() {
			f.compile(d)
		}
		if d.gateway != nil {
			f.checkLAN(d)
			f.checkMarks(d)
		}
	}
	for _, d := range f.docs {
		if d.decides() {
			f.judge(d)
		}
	}
}

// decides reports whether the file is a policy of its own.
func (d *doc) decides() bool { return d.kind == policyFile && d.file != nil && !d.part }

// checkLAN warns of a LAN that is to route the pool to a gateway that has no
// device for it.
func (f *fleet) checkLAN(d *doc) {
	devices := f.find(d.gateway.Devices)
	if devices == nil || d.gateway.TUN != "" {
		return
	}
	for _, net := range devices.devices {
		if net.RoutesPool {
			devices.warn(net.At, "network %s routes the pool, but gateway %s has no lan: its packets will not arrive",
				net.ID, d.gateway.Name)
		}
	}
}

// checkMarks warns of machines that can only be known by what their gateway
// does not look at.
func (f *fleet) checkMarks(d *doc) {
	devices := f.find(d.gateway.Devices)
	if devices == nil {
		return
	}
	g := d.gateway
	https := len(g.HTTPS.Listen)+len(g.HTTPS.BehindProxy) > 0
	tls := len(g.TLS)+len(g.HTTPS.Listen) > 0
	for _, m := range devices.devices {
		tokens, names := !m.Token.IsZero() && https, m.ServerName != "" && g.ServerName != "" && tls
		options := (!m.MAC.IsZero() || m.CPE != "") && len(g.Forwarders) > 0
		if m.Key.IsZero() && m.Marks != (device.Marks{}) && !tokens && !names && !options {
			devices.warn(m.At, "gateway %s does not look at what %s is known by: a token needs dns.https, a server name dns.server_name, "+
				"mac and cpe_id dns.forwarders", g.Name, m.ID)
		}
	}
}

func (f *fleet) mistakes() error {
	var errs []error
	for _, d := range f.docs {
		errs = append(errs, d.mistakes())
	}
	return yamlpos.Join(errs...)
}

func (f *fleet) warnings() (out []Warning) {
	for _, d := range f.docs {
		out = append(out, d.warnings...)
	}
	return out
}
