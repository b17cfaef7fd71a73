package netstack

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// PingUnprivileged returns a function that asks for an echo through a ping
// socket, which needs no root. The error says what the system lacks: on Linux
// the program's group has to be in net.ipv4.ping_group_range.
func PingUnprivileged() (ping func(ctx context.Context, dst netip.Addr) error, err error) {
	c, err := icmp.ListenPacket("udp4", "0.0.0.0")
	if err != nil {
		return nil, fmt.Errorf("opening a ping socket: %w: put this program's group into net.ipv4.ping_group_range (sysctl), or pings of devices are refused", err)
	}
	c.Close()
	return pingOnce, nil
}

// pingOnce sends one echo request, with a token by which it knows the answer:
// the kernel sets the identifier, and gives the socket only answers to it.
func pingOnce(ctx context.Context, dst netip.Addr) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("pinging %v: %w", dst, err)
	}
	network, local, proto := "udp4", "0.0.0.0", 1
	request, reply := icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply)
	if dst.Is6() {
		network, local, proto = "udp6", "::", 58
		request, reply = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	c, err := icmp.ListenPacket(network, local)
	if err != nil {
		return fmt.Errorf("opening a ping socket: %w", err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	token := make([]byte, 16)
	rand.Read(token) // never fails
	question, err := (&icmp.Message{Type: request, Body: &icmp.Echo{Seq: 1, Data: token}}).Marshal(nil)
	if err != nil {
		return fmt.Errorf("pinging %v: %w", dst, err)
	}
	if _, err := c.WriteTo(question, &net.UDPAddr{IP: dst.AsSlice(), Zone: dst.Zone()}); err != nil {
		return fmt.Errorf("pinging %v: %w", dst, err)
	}
	buf := make([]byte, 1500)
	for {
		n, _, err := c.ReadFrom(buf)
		if err != nil {
			return fmt.Errorf("pinging %v: %w", dst, err)
		}
		m, err := icmp.ParseMessage(proto, buf[:n])
		if err != nil || m.Type != reply {
			continue
		}
		if e, ok := m.Body.(*icmp.Echo); ok && bytes.Equal(e.Data, token) {
			return nil
		}
	}
}
