// Command upstream is the resolver behind the servers that are measured: it
// answers every question of type A with one address, and all others with
// nothing, as fast as a single thread can, so that it is never what is slow. Over
// TCP it answers too, for those who ask so, but with no such care.
package main

import (
	"errors"
	"flag"
	"log"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/ipv4"
)

const (
	batch       = 64      // datagrams by system call
	datagram    = 1232    // no question is longer; what is, is cut and not answered
	socketBytes = 4 << 20 // of each of the kernel's buffers: a burst is not lost
)

func main() {
	listen := flag.String("listen", "127.0.0.2:0", "address and port")
	address := flag.String("address", "192.0.2.1", "the answer")
	ttl := flag.Duration("ttl", 24*time.Hour, "how long it may be kept")
	flag.Parse()
	log.Fatal(run(*listen, *address, *ttl))
}

// run serves until something fails.
func run(listen, address string, ttl time.Duration) error {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return err
	}
	if !a.Is4() {
		return errors.New("the answer is no IPv4 address")
	}
	c, err := net.ListenPacket("udp4", listen)
	if err != nil {
		return err
	}
	u := c.(*net.UDPConn)
	if err := errors.Join(u.SetReadBuffer(socketBytes), u.SetWriteBuffer(socketBytes)); err != nil {
		return err
	}
	l, err := net.Listen("tcp4", c.LocalAddr().String())
	if err != nil {
		return err
	}
	answer := record(a, uint32(ttl/time.Second))
	go accept(l, answer)
	return serve(ipv4.NewPacketConn(c), answer)
}

// accept answers over TCP until the listener is closed.
func accept(l net.Listener, a answer) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_ = a.converse(c) // it ends as the other side likes
		}()
	}
}

// serve answers until the socket is closed.
func serve(c *ipv4.PacketConn, a answer) error {
	in, out := messages(), messages()
	for {
		n, err := c.ReadBatch(in, 0)
		if err != nil {
			return err
		}
		m := 0
		for i := range in[:n] {
			b, ok := a.reply(out[m].Buffers[0][:0], in[i].Buffers[0][:in[i].N])
			if !ok {
				continue
			}
			out[m].Buffers[0], out[m].Addr = b, in[i].Addr
			m++
		}
		if err := send(c, out[:m]); err != nil {
			return err
		}
	}
}

func send(c *ipv4.PacketConn, out []ipv4.Message) error {
	for len(out) > 0 {
		n, err := c.WriteBatch(out, 0)
		if err != nil {
			return err
		}
		out = out[n:]
	}
	return nil
}

func messages() []ipv4.Message {
	ms := make([]ipv4.Message, batch)
	for i := range ms {
		ms[i].Buffers = [][]byte{make([]byte, datagram)}
	}
	return ms
}
