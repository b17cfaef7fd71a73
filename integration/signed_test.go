package integration

import (
	"crypto"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// A signer signs the answers of a zone as they are given (RFC 4470): whoever
// validates can tell them from what the gateway answers itself.
type signer struct {
	key     *dns.DNSKEY
	private crypto.Signer
}

// newZoneKey writes the two files of a zone's key, KEY.key and KEY.private, and
// returns the trust anchor to go with them.
func newZoneKey(t *testing.T, zone, path string) (ds string) {
	t.Helper()
	key := &dns.DNSKEY{
		Hdr:   dns.RR_Header{Name: zone, Rrtype: dns.TypeDNSKEY, Class: dns.ClassINET, Ttl: 60},
		Flags: dns.ZONE | dns.SEP, Protocol: 3, Algorithm: dns.ECDSAP256SHA256,
	}
	private, err := key.Generate(256)
	if err != nil {
		t.Fatal(err)
	}
	for ext, text := range map[string]string{".key": key.String() + "\n", ".private": key.PrivateKeyString(private)} {
		if err := os.WriteFile(path+ext, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := key.ToDS(dns.SHA256)
	return fmt.Sprintf("%s IN DS %d %d %d %s", zone, d.KeyTag, d.Algorithm, d.DigestType, d.Digest)
}

func readSigner(path string) (*signer, error) {
	public, err := os.ReadFile(path + ".key")
	if err != nil {
		return nil, err
	}
	rr, err := dns.NewRR(string(public))
	if err != nil {
		return nil, err
	}
	key, ok := rr.(*dns.DNSKEY)
	if !ok {
		return nil, fmt.Errorf("%s.key holds no DNSKEY", path)
	}
	f, err := os.Open(path + ".private")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	private, err := key.ReadPrivateKey(f, path)
	if err != nil {
		return nil, err
	}
	s, ok := private.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s.private cannot sign", path)
	}
	return &signer{key, s}, nil
}

// serveSigned is serveZone for a zone that is signed.
func serveSigned(addr, keyFile string, records []string) error {
	s, err := readSigner(keyFile)
	if err != nil {
		return err
	}
	zone, err := readZone(append(records, s.key.String(), s.key.Hdr.Name+" 60 IN SOA ns.test. host.test. 1 3600 600 86400 60"))
	if err != nil {
		return err
	}
	return serve(addr, func(q *dns.Msg) *dns.Msg { return s.answer(zone, q) })
}

func (s *signer) answer(zone map[string][]dns.RR, q *dns.Msg) *dns.Msg {
	r := answerFrom(zone, q)
	if opt := q.IsEdns0(); opt != nil {
		r.SetEdns0(1232, opt.Do())
		if opt.Do() && dns.IsSubDomain(s.key.Hdr.Name, q.Question[0].Name) {
			s.sign(zone, r)
		}
	}
	return r
}

// sign adds signatures. What does not exist is said to exist without that type,
// by an NSEC record of the asked name alone.
func (s *signer) sign(zone map[string][]dns.RR, r *dns.Msg) {
	if len(r.Answer) > 0 {
		r.Answer = append(r.Answer, s.signature(r.Answer))
		return
	}
	name := strings.ToLower(r.Question[0].Name)
	soa := zone[s.key.Hdr.Name][1:]
	nsec := []dns.RR{&dns.NSEC{
		Hdr:        dns.RR_Header{Name: name, Rrtype: dns.TypeNSEC, Class: dns.ClassINET, Ttl: 60},
		NextDomain: `\000.` + name, TypeBitMap: []uint16{dns.TypeRRSIG, dns.TypeNSEC},
	}}
	r.Rcode = dns.RcodeSuccess
	r.Ns = []dns.RR{soa[0], s.signature(soa), nsec[0], s.signature(nsec)}
}

// signature signs a set of records of one name and type.
func (s *signer) signature(set []dns.RR) dns.RR {
	now := time.Now()
	sig := &dns.RRSIG{
		Algorithm: s.key.Algorithm, KeyTag: s.key.KeyTag(), SignerName: s.key.Hdr.Name,
		Inception: uint32(now.Add(-time.Hour).Unix()), Expiration: uint32(now.Add(time.Hour).Unix()),
	}
	if err := sig.Sign(s.private, set); err != nil {
		fmt.Fprintln(os.Stderr, "signing:", err)
	}
	return sig
}
