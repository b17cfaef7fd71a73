package yamlpos

import (
	"fmt"

	"gopkg.in/yaml.v3"
)

// A Kind is what a value is written as.
type Kind uint8

// The kinds. An Invalid value was reported already and reads as the default.
const (
	Invalid Kind = iota
	Null         // nothing, or a plain null or ~
	Scalar
	Mapping
	List
)

// A Node is a value that may be written in more than one form.
type Node struct {
	Kind Kind
	file *File
	node *yaml.Node
	key  string // under which it stands, for messages
}

func (f *File) node(n *yaml.Node, key string) *Node {
	return &Node{kindOf(n), f, n, key}
}

func kindOf(n *yaml.Node) Kind {
	switch {
	case !plainTag(n):
		return Invalid
	case n.Kind == yaml.MappingNode:
		return Mapping
	case n.Kind == yaml.SequenceNode:
		return List
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return Null
	case n.Kind == yaml.ScalarNode:
		return Scalar
	default:
		return Invalid
	}
}

// describe says what a value is written as.
func describe(n *yaml.Node) string {
	switch kindOf(n) {
	case Mapping:
		return "a mapping"
	case List:
		return "a list"
	case Null:
		return "nothing"
	default:
		return fmt.Sprintf("%q", n.Value)
	}
}

// Pos returns where the value begins.
func (n *Node) Pos() Pos { return n.file.pos(n.node) }

// Text returns the text of a scalar, and "" for anything else.
func (n *Node) Text() string {
	if n.Kind != Scalar {
		return ""
	}
	return n.node.Value
}

// String describes the value for a message: its text, or a mapping, a list, nothing.
func (n *Node) String() string { return describe(n.node) }

// Errorf records a mistake in the value. The message begins with its key.
func (n *Node) Errorf(hint, format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	if n.key != "" {
		msg = n.key + ": " + msg
	}
	n.file.ErrorAt(n.Pos(), hint, "%s", msg)
}

// wrong records that the value is written as something else than wanted.
func (n *Node) wrong(want string) {
	if n.Kind != Invalid {
		n.Errorf("", "want %s, got %v", want, n)
	}
}

// AsMap returns the value as a mapping, an empty one if it is none.
func (n *Node) AsMap() *Map {
	m := &Map{file: n.file, node: n.node, vals: map[string]*yaml.Node{}}
	if n.Kind != Mapping {
		n.wrong("a mapping")
		return m
	}
	for i := 0; i+1 < len(n.node.Content); i += 2 {
		k, v := n.node.Content[i], n.node.Content[i+1]
		if _, dup := m.vals[k.Value]; dup || k.Kind != yaml.ScalarNode || k.Tag == "!!merge" {
			continue // reported by check
		}
		m.keys = append(m.keys, k)
		m.vals[k.Value] = v
	}
	return m
}

// Items returns the members of a list, none if the value is no list.
func (n *Node) Items() []*Node {
	if n.Kind != List {
		n.wrong("a list")
		return nil
	}
	var out []*Node
	for _, c := range n.node.Content {
		out = append(out, n.file.node(c, n.key))
	}
	return out
}

// OneOrMore returns the members of a list, or the value alone if it is none.
func (n *Node) OneOrMore() []*Node {
	if n.Kind == List {
		return n.Items()
	}
	return []*Node{n}
}

// Value parses a scalar, and returns def if it is none or parse refuses it.
func Value[T any](n *Node, def T, parse func(string) (T, error)) T {
	if n.Kind != Scalar {
		n.wrong("a single value")
		return def
	}
	v, err := parse(n.node.Value)
	if err != nil {
		n.Errorf(hintOf(err), "%v", err)
		return def
	}
	return v
}

// Values parses a list of scalars; those that are refused are left out.
func Values[T any](items []*Node, parse func(string) (T, error)) []T {
	var out []T
	for _, n := range items {
		before := len(n.file.errs)
		var zero T
		if v := Value(n, zero, parse); n.Kind == Scalar && len(n.file.errs) == before {
			out = append(out, v)
		}
	}
	return out
}
