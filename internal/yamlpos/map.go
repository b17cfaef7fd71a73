package yamlpos

import (
	"slices"

	"gopkg.in/yaml.v3"
)

// A Map is a YAML mapping whose keys are being read. A nil Map reads as an
// empty one.
type Map struct {
	file  *File
	node  *yaml.Node
	keys  []*yaml.Node
	vals  map[string]*yaml.Node
	asked []string
}

// Pos returns where the mapping begins.
func (m *Map) Pos() Pos {
	if m == nil {
		return Pos{}
	}
	return m.file.pos(m.node)
}

// File returns the file that the mapping is written in.
func (m *Map) File() *File { return m.file }

// Has reports whether the mapping has the key.
func (m *Map) Has(key string) bool { return m.get(key) != nil }

func (m *Map) get(key string) *yaml.Node {
	if m == nil {
		return nil
	}
	m.asked = append(m.asked, key)
	return m.vals[key]
}

// Keys returns the keys in the order of the file. It does not count as asking
// for them; [Map.Node] and the rest do.
func (m *Map) Keys() []string {
	if m == nil {
		return nil
	}
	var out []string
	for _, k := range m.keys {
		out = append(out, k.Value)
	}
	return out
}

// KeyPos returns where the key itself is written; if it is absent, where the
// mapping begins.
func (m *Map) KeyPos(key string) Pos {
	if m != nil {
		for _, k := range m.keys {
			if k.Value == key {
				return m.file.pos(k)
			}
		}
	}
	return m.Pos()
}

// Errorf records a mistake in the mapping as a whole.
func (m *Map) Errorf(hint, format string, args ...any) {
	m.file.ErrorAt(m.Pos(), hint, format, args...)
}

// KeyErrorf records a mistake in a key.
func (m *Map) KeyErrorf(key, hint, format string, args ...any) {
	m.file.ErrorAt(m.KeyPos(key), hint, format, args...)
}

// Require reports which of the keys are missing. What is no mapping lacks them
// all, and is reported as such already.
func (m *Map) Require(keys ...string) {
	if m == nil || kindOf(m.node) != Mapping {
		return
	}
	for _, k := range keys {
		if !m.Has(k) {
			m.Errorf("", "key %q is missing", k)
		}
	}
}

// Node returns the value under key, or nil if it is absent.
func (m *Map) Node(key string) *Node {
	n := m.get(key)
	if n == nil {
		return nil
	}
	return m.file.node(n, key)
}

// Map returns the mapping under key, or nil if it is absent.
func (m *Map) Map(key string) *Map {
	n := m.Node(key)
	if n == nil {
		return nil
	}
	return n.AsMap()
}

// Maps calls read for each mapping in the list under key.
func (m *Map) Maps(key string, read func(*Map)) {
	for _, n := range m.items(key) {
		read(n.AsMap())
	}
}

func (m *Map) items(key string) []*Node {
	n := m.Node(key)
	if n == nil {
		return nil
	}
	return n.Items()
}

// Read parses the scalar under key with parse, or returns def if the key is absent.
func Read[T any](m *Map, key string, def T, parse func(string) (T, error)) T {
	n := m.Node(key)
	if n == nil {
		return def
	}
	return Value(n, def, parse)
}

// ReadList is like [Read] for a list of scalars; those that are refused are left out.
func ReadList[T any](m *Map, key string, parse func(string) (T, error)) []T {
	return Values(m.items(key), parse)
}

// ReadOneOrList is like [ReadList], and also reads a single value as a list of one.
func ReadOneOrList[T any](m *Map, key string, parse func(string) (T, error)) []T {
	n := m.Node(key)
	if n == nil {
		return nil
	}
	return Values(n.OneOrMore(), parse)
}

// Done reports every key that no reader asked for.
func (m *Map) Done() {
	if m == nil {
		return
	}
	for _, k := range m.keys {
		if !slices.Contains(m.asked, k.Value) {
			m.file.ErrorAt(m.file.pos(k), DidYouMean(k.Value, m.asked), "unknown key %q", k.Value)
		}
	}
}
