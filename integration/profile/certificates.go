package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/netip"
	"time"
)

// certificates makes an authority and a certificate that it has signed. Firefox
// takes no authority's own certificate for a server's, so there are two.
func certificates(at netip.Addr) (files map[string]string, err error) {
	caKey, key, err := twoKeys()
	if err != nil {
		return nil, err
	}
	ca := template("Authority of the checks")
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return nil, err
	}
	leaf := template("dns.kit.example")
	leaf.KeyUsage, leaf.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	leaf.DNSNames, leaf.IPAddresses = []string{"dns.kit.example"}, []net.IP{at.AsSlice()}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return map[string]string{
		"ca.pem":  block("CERTIFICATE", caDER),
		"dns.pem": block("CERTIFICATE", leafDER),
		"dns.key": block("PRIVATE KEY", keyDER),
	}, nil
}

func twoKeys() (a, b *ecdsa.PrivateKey, err error) {
	if a, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err == nil {
		b, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	return a, b, err
}

func template(name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
	}
}

func block(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}
