// Command echo is the least that a DNS server in Go can do: it reads one
// datagram, sets the QR bit and sends it back, in a single goroutine. What a
// real server costs more than this is the price of being one; what this costs
// is that of the kernel and of the runtime.
package main

import (
	"flag"
	"log"
	"net"
)

const (
	headerSize = 12   // RFC 1035, section 4.1.1
	flagQR     = 0x80 // in the header's third byte
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address and port")
	flag.Parse()
	log.Fatal(run(*listen))
}

// run serves until something fails.
func run(listen string) error {
	addr, err := net.ResolveUDPAddr("udp4", listen)
	if err != nil {
		return err
	}
	c, err := net.ListenUDP("udp4", addr)
	if err != nil {
		return err
	}
	return serve(c)
}

// serve answers until the socket is closed.
func serve(c *net.UDPConn) error {
	var b [512]byte
	for {
		n, from, err := c.ReadFromUDPAddrPort(b[:])
		if err != nil {
			return err
		}
		if n < headerSize || b[2]&flagQR != 0 {
			continue // an answer sent back would go round for ever
		}
		b[2] |= flagQR
		if _, err := c.WriteToUDPAddrPort(b[:n], from); err != nil {
			return err
		}
	}
}
