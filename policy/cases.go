package policy

import (
	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/internal/yamlpos"
	"github.com/starferry/starferry/policy/match"
)

// readTest checks the shape of an expectation under "tests":
//
//	{device: alice-laptop, posture: failing, ask: www.taobao.com, want: {block: refused}}
func (c *compiler) readTest(m *yamlpos.Map) {
	m.Require("ask", "want")
	yamlpos.Read(m, "ask", "", match.Clean)
	yamlpos.Read(m, "device", "", device.ParseName)
	yamlpos.Read(m, "type", 0, parseType)
	if n := m.Node("posture"); n != nil {
		c.readStand(n)
	}
	if n := m.Node("answer"); n != nil {
		yamlpos.Values(c.some(n), anyAddr)
	}
	if n := m.Node("want"); n != nil {
		readWant(n)
	}
	m.Done()
}

// readStand reads how the device stands: by all profiles, or by each.
func (c *compiler) readStand(n *yamlpos.Node) {
	stand := yamlpos.OneOf("passing", "failing", "unknown")
	if n.Kind != yamlpos.Mapping {
		yamlpos.Value(n, "", stand)
		return
	}
	m := n.AsMap()
	for _, name := range m.Keys() {
		c.profile(name, m.KeyPos(name))
		yamlpos.Read(m, name, "", stand)
	}
}

// readWant reads the decision that is expected: allow, or {steer: ROUTE},
// {block: FORM}, {override: ADDRESS or NAME}, {resolve: GROUP}.
func readWant(n *yamlpos.Node) {
	if n.Kind != yamlpos.Mapping {
		yamlpos.Value(n, "", yamlpos.OneOf("allow", "block"))
		return
	}
	m := n.AsMap()
	if len(m.Keys()) != 1 {
		n.Errorf("", "want one of steer, block, override, resolve")
	}
	yamlpos.Read(m, "steer", "", device.ParseName)
	yamlpos.Read(m, "resolve", "", device.ParseName)
	yamlpos.Read(m, "block", "", yamlpos.OneOf(blockKinds[:]...))
	yamlpos.ReadOneOrList(m, "override", yamlpos.Word)
	m.Done()
}
