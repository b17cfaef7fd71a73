// Command first asks a server that is starting, every two milliseconds, until
// it gives the wanted answer, and prints how many seconds after the given
// moment that was.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const every = 2 * time.Millisecond

func main() {
	to := flag.String("to", "127.0.0.1:53", "the server's address and port")
	name := flag.String("name", "", "whose A record is asked")
	want := flag.String("want", "192.0.2.1", "the right answer")
	since := flag.Float64("since", 0, "the moment, in seconds since 1970; 0: now")
	within := flag.Duration("within", time.Minute, "when to give up")
	flag.Parse()
	if err := run(*to, *name, *want, *since, *within); err != nil {
		log.Fatal(err)
	}
}

func run(to, name, want string, since float64, within time.Duration) error {
	addr, err := netip.ParseAddr(want)
	if err != nil {
		return err
	}
	q, err := query(name)
	if err != nil {
		return err
	}
	from := time.Now()
	if since > 0 {
		from = time.UnixMicro(int64(since * 1e6))
	}
	c, err := net.Dial("udp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	last := errors.New("no answer")
	for end := time.Now().Add(within); time.Now().Before(end); {
		if last = ask(c, q, addr); last == nil {
			fmt.Printf("%.3f\n", time.Since(from).Seconds())
			return nil
		}
	}
	return last
}

// ask asks once. If it fails, the time that was meant for it has passed.
func ask(c net.Conn, q []byte, want netip.Addr) error {
	began := time.Now()
	err := exchange(c, q, want, began.Add(every))
	if err != nil {
		time.Sleep(time.Until(began.Add(every)))
	}
	return err
}

func exchange(c net.Conn, q []byte, want netip.Addr, deadline time.Time) error {
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := c.Write(q); err != nil {
		return err
	}
	var b [1500]byte
	for {
		n, err := c.Read(b[:])
		if err != nil {
			return err
		}
		if err := check(b[:n], want); err == nil || err == errWrong {
			return err // a late answer to an earlier question is as good
		}
	}
}

var errWrong = errors.New("a wrong answer")

// check says whether the message is an answer that holds the address.
func check(b []byte, want netip.Addr) error {
	var m dnsmessage.Message
	if err := m.Unpack(b); err != nil {
		return err
	}
	for _, r := range m.Answers {
		if a, ok := r.Body.(*dnsmessage.AResource); ok && netip.AddrFrom4(a.A) == want {
			return nil
		}
	}
	return errWrong
}

func query(name string) ([]byte, error) {
	n, err := dnsmessage.NewName(name + ".")
	if err != nil {
		return nil, fmt.Errorf("name %q: %w", name, err)
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 1, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: n, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	return m.Pack()
}
