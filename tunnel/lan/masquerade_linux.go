package lan

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Masquerade does what [Forward] does for the TUN and the sources, and gives
// packets of the sources that leave by another interface that interface's
// address. It writes one table of the family inet and replaces one of the same
// name that a crash has left. The TUN device must exist.
//
// The table also drops packets of the sources that came in by another
// interface than the TUN, since somebody beside the connector forged them, and
// those that connection tracking calls invalid: it does not translate them, and
// overlay addresses must not leak.
//
// Rules of other tables stand: a host whose firewall forwards nothing by
// default must admit the TUN there.
func Masquerade(c Config) (undo func() error, err error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	// The table comes first and goes last, so that nothing is forwarded with
	// its own source in between.
	if err := writeTable(c); err != nil {
		return nil, err
	}
	done := undos{func() error { return removeTable(c.Table) }}
	if err := openWay(c.TUN, c.Sources, &done); err != nil {
		return nil, errors.Join(err, done.run())
	}
	return sync.OnceValue(done.run), nil
}

func writeTable(c Config) error {
	nft, err := nftables.New()
	if err != nil {
		return fmt.Errorf("speaking with nftables: %w", err)
	}
	table := replaceTable(nft, c.Table)
	leave := nft.AddChain(&nftables.Chain{
		Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	pass := nft.AddChain(&nftables.Chain{
		Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	for _, p := range c.Sources {
		nft.AddRule(&nftables.Rule{Table: table, Chain: leave, Exprs: append(leaving(p, c.TUN), &expr.Masq{})})
		nft.AddRule(&nftables.Rule{Table: table, Chain: pass, Exprs: append(forged(p, c.TUN), drop())})
		nft.AddRule(&nftables.Rule{Table: table, Chain: pass, Exprs: append(leaving(p, c.TUN), dropInvalid()...)})
	}
	if err := nft.Flush(); err != nil {
		return fmt.Errorf("writing the nftables table inet %s: %w", c.Table, err)
	}
	return nil
}

func removeTable(name string) error {
	nft, err := nftables.New()
	if err != nil {
		return fmt.Errorf("speaking with nftables: %w", err)
	}
	nft.DelTable(replaceTable(nft, name))
	if err := nft.Flush(); err != nil {
		return fmt.Errorf("removing the nftables table inet %s: %w", name, err)
	}
	return nil
}

// replaceTable makes an empty table. Only a table that exists can be deleted;
// the three commands are one transaction.
func replaceTable(nft *nftables.Conn, name string) *nftables.Table {
	table := &nftables.Table{Name: name, Family: nftables.TableFamilyINet}
	nft.AddTable(table)
	nft.DelTable(table)
	return nft.AddTable(table)
}

// leaving matches packets of a source that leave by another interface than
// the TUN: oifname != tun, meta nfproto, ip saddr.
func leaving(source netip.Prefix, tun string) []expr.Any {
	return notBy(expr.MetaKeyOIFNAME, source, tun)
}

// forged matches packets of a source that came in by another interface than
// the TUN. (The masquerade itself cannot ask: its hook does not know by which
// interface a packet came.)
func forged(source netip.Prefix, tun string) []expr.Any {
	return notBy(expr.MetaKeyIIFNAME, source, tun)
}

func notBy(side expr.MetaKey, source netip.Prefix, tun string) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, tun)
	proto, offset := byte(unix.NFPROTO_IPV4), uint32(12) // RFC 791 section 3.1
	if source.Addr().Is6() {
		proto, offset = unix.NFPROTO_IPV6, 8 // RFC 8200 section 3
	}
	network := source.Masked().Addr().AsSlice()
	size := uint32(len(network))
	return []expr.Any{
		&expr.Meta{Key: side, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: name},
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: ipNet(source).Mask, Xor: make([]byte, size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: network},
	}
}

// dropInvalid is ct state invalid drop.
func dropInvalid() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitINVALID), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
		drop(),
	}
}

func drop() expr.Any { return &expr.Verdict{Kind: expr.VerdictDrop} }
