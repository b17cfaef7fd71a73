package configs

import (
	"github.com/starferry/starferry/internal/yamlpos"
)

func (r *reader) readGateway(m *yamlpos.Map) *Gateway {
	g := &Gateway{Node: r.readNode(m, "policy", "devices", "slice", "upstreams")}
	me := owner{gatewayFile, g.Name}
	g.Policy = r.fileRef(m, "policy", policyFile)
	g.Devices = r.fileRef(m, "devices", devicesFile)
	g.PostureDrop = r.path(m, "posture_drop", "")
	g.Slice = r.ranges(m, "slice", me, slice, true)
	r.doubtful = !m.Has("slice") || len(g.Slice) != len(m.Node("slice").OneOrMore())
	r.checkSpaces(m, g.Pool)
	g.DNS = r.readDNS(m.Map("dns"))
	g.QueryLog = r.queryLog(m.Map("query_log"))
	g.Upstreams = r.upstreams(m, g.Local.Zones)
	if lan := m.Map("lan"); lan != nil {
		g.TUN = yamlpos.Read(lan, "tun", DefaultTUN, parseTUN)
		lan.Done()
	}
	g.Egresses = r.peers(m, "egresses", egressFile, func(m *yamlpos.Map, who owner, p *Peer) {
		m.Require("endpoint", "pool")
		p.Endpoint = yamlpos.Read(m, "endpoint", "", parseEndpoint)
		p.Pool = r.ranges(m, "pool", who, pool, false)
		p.Nodes = r.claimAll(m, "nodes", who, nodeRange)
	})
	g.Routes = r.routes(m, "egresses", g.Egresses)
	g.Etcd = r.etcd(m.Map("etcd"))
	m.Done()
	return g
}

func (r *reader) readEgress(m *yamlpos.Map) *Egress {
	e := &Egress{Node: r.readNode(m, "policy", "gateways", "connectors")}
	e.Policy = r.fileRef(m, "policy", policyFile)
	e.Gateways = r.peers(m, "gateways", gatewayFile, func(m *yamlpos.Map, who owner, p *Peer) {
		m.Require("slice")
		p.Endpoint = yamlpos.Read(m, "endpoint", "", parseEndpoint)
		p.Slice = r.ranges(m, "slice", who, slice, false)
	})
	e.Connectors = r.peers(m, "connectors", connectorFile, func(m *yamlpos.Map, who owner, p *Peer) {
		m.Require("pool")
		p.Pool = r.ranges(m, "pool", who, pool, false)
	})
	e.Routes = r.routes(m, "connectors", e.Connectors)
	m.Done()
	return e
}

func (r *reader) readConnector(m *yamlpos.Map) *Connector {
	c := &Connector{Node: r.readNode(m, "egresses", "slices", "resolver")}
	c.Egresses = r.peers(m, "egresses", egressFile, func(m *yamlpos.Map, _ owner, p *Peer) {
		m.Require("endpoint")
		p.Endpoint = yamlpos.Read(m, "endpoint", "", parseEndpoint)
	})
	c.Slices = r.claimAll(m, "slices", owner{connectorFile, c.Name}, accepted)
	c.Resolver = r.upstream("resolver", m.Map("resolver"))
	c.AllowPrivate = yamlpos.ReadOneOrList(m, "allow_private", parseAddrs)
	c.Poison = yamlpos.ReadOneOrList(m, "poison", parseAddrs)
	c.Kernel, c.TUN = r.forward(m.Map("forward"))
	m.Done()
	return c
}

func (r *reader) forward(m *yamlpos.Map) (kernel bool, tun string) {
	mode := yamlpos.Read(m, "mode", "rootless", yamlpos.OneOf("kernel", "rootless"))
	kernel = mode == "kernel"
	if kernel {
		tun = yamlpos.Read(m, "tun", DefaultTUN, parseTUN)
	} else if n := m.Node("mode"); m.Has("tun") && (n == nil || n.Text() == mode) {
		m.KeyErrorf("tun", "", "tun is of no use with mode rootless")
	}
	m.Done()
	return kernel, tun
}
