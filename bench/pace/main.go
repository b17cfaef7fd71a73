// Command pace asks a server at a steady rate, and says how long the answers
// took: the median, and what 99 and 99.9 of 100 stayed below.
//
// It is an open loop. When each question is due was settled before the first
// one left, and a late answer holds back no question: a server that stands still
// for a moment is asked all the same meanwhile. (A load that waits for answers
// asks less just then, and so hides it: "coordinated omission".) An answer's time
// counts from when its question left. How late that was, which is this program's
// doing and the machine's, is said beside it.
// Arrivals are stamped by the kernel, so the delay of this program's own
// receiving does not count.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"net/netip"
	"os"
	"strings"
	"time"
)

// A load is what is asked of whom.
type load struct {
	to      netip.AddrPort
	queries [][]byte // asked in turn
	rate    int      // a second
	span    time.Duration
	sockets int // a server with several sockets spreads by ours
}

func main() {
	to := flag.String("to", "127.0.0.1:53", "the server's address and port")
	names := flag.String("names", "", "file of names, one in a line, whose A records are asked")
	rate := flag.Int("rate", 20000, "questions a second")
	span := flag.Duration("for", 5*time.Second, "how long")
	windows := flag.Int("windows", 1, "how many equal spans of it are told apart")
	flag.Parse()
	if err := run(*to, *names, *rate, *span, *windows); err != nil {
		log.Fatal(err)
	}
}

func run(to, names string, rate int, span time.Duration, windows int) error {
	addr, err := netip.ParseAddrPort(to)
	if err != nil {
		return err
	}
	if rate < 1 || rate > 1e6 || span <= 0 || windows < 1 {
		return errors.New("rate, span and windows must be above zero")
	}
	text, err := os.ReadFile(names)
	if err != nil {
		return err
	}
	queries, err := pack(strings.Fields(string(text)))
	if err != nil {
		return err
	}
	times, late, err := load{to: addr, queries: queries, rate: rate, span: span, sockets: 8}.ask()
	if err != nil {
		return err
	}
	n := len(times) / windows
	for i := range windows {
		fmt.Printf("window %d: %v, questions late p99 %.3f ms\n", i+1, summarize(times[i*n:(i+1)*n]), ms(summarize(late[i*n:(i+1)*n]).p99))
	}
	return nil
}
