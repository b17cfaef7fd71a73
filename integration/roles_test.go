package integration

import (
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/miekg/dns"
)

// roleEnv makes the test binary play a part of the world outside: a resolver
// or a web server, in a namespace of its own.
const roleEnv = "STARFERRY_TEST_ROLE"

func play(role string, args []string) int {
	var err error
	switch role {
	case "dns":
		err = serveZone(args[0], args[1:])
	case "signed":
		err = serveSigned(args[0], args[1], args[2:])
	case "origin":
		err = serveOrigin(args)
	default:
		err = fmt.Errorf("no role %q", role)
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// serveZone answers from records written as in a zone file. A name whose
// records are not there is NXDOMAIN if nothing is below it either, and a name
// *.x answers for all below x.
func serveZone(addr string, records []string) error {
	zone, err := readZone(records)
	if err != nil {
		return err
	}
	return serve(addr, func(q *dns.Msg) *dns.Msg { return answerFrom(zone, q) })
}

func readZone(records []string) (map[string][]dns.RR, error) {
	zone := map[string][]dns.RR{}
	for _, line := range records {
		rr, err := dns.NewRR(line)
		if err != nil {
			return nil, err
		}
		zone[rr.Header().Name] = append(zone[rr.Header().Name], rr)
	}
	return zone, nil
}

func serve(addr string, answer func(*dns.Msg) *dns.Msg) error {
	h := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(answer(q)) })
	errs := make(chan error)
	for _, network := range []string{"udp", "tcp"} {
		go func() { errs <- (&dns.Server{Addr: addr, Net: network, Handler: h}).ListenAndServe() }()
	}
	return <-errs
}

func answerFrom(zone map[string][]dns.RR, q *dns.Msg) *dns.Msg {
	r := new(dns.Msg).SetReply(q)
	r.RecursionAvailable = true
	name, want := strings.ToLower(q.Question[0].Name), q.Question[0].Qtype
	for range 8 { // CNAME hops
		rrs, ok := find(zone, name)
		if !ok {
			if len(r.Answer) == 0 {
				r.Rcode = dns.RcodeNameError
			}
			break
		}
		next := ""
		for _, rr := range rrs {
			rr = dns.Copy(rr)
			rr.Header().Name = name
			if c, is := rr.(*dns.CNAME); is && want != dns.TypeCNAME {
				next = c.Target
				r.Answer = append(r.Answer, rr)
			} else if rr.Header().Rrtype == want {
				r.Answer = append(r.Answer, rr)
			}
		}
		if next == "" {
			break
		}
		name = next
	}
	if len(r.Answer) == 0 {
		soa, _ := dns.NewRR(". 60 IN SOA ns.invalid. host.invalid. 1 3600 600 86400 60")
		r.Ns = append(r.Ns, soa)
	}
	return r
}

func find(zone map[string][]dns.RR, name string) ([]dns.RR, bool) {
	if rrs, ok := zone[name]; ok {
		return rrs, true
	}
	for rest := name; ; {
		i := strings.IndexByte(rest, '.')
		if i < 0 || i == len(rest)-1 {
			return nil, false
		}
		rest = rest[i+1:]
		if rrs, ok := zone["*."+rest]; ok {
			return rrs, true
		}
	}
}

// serveOrigin is a web server: / says who asked, /big streams until nobody reads.
func serveOrigin(addrs []string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "origin page of %s, asked from %s\n", r.Host, r.RemoteAddr)
	})
	mux.HandleFunc("/big", func(w http.ResponseWriter, r *http.Request) {
		block := make([]byte, 64<<10)
		for {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	})
	errs := make(chan error)
	for _, a := range addrs {
		go func() { errs <- http.ListenAndServe(a, mux) }()
	}
	return <-errs
}
