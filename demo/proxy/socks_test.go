package proxy

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
)

func TestSOCKSReplies(t *testing.T) {
	refusing := &Proxy{Dial: func(_ context.Context, to netip.AddrPort) (net.Conn, error) {
		if to.Port() == 81 {
			return nil, syscall.ECONNREFUSED
		}
		return nil, syscall.EHOSTUNREACH
	}}
	proxy := start(t, refusing, "")
	const hello, ok = "\x05\x02\x02\x00", "\x05\x00"
	const rest = "\x00\x01\x00\x00\x00\x00\x00\x00"
	for name, try := range map[string]struct{ send, want string }{
		"only with a password": {"\x05\x01\x02", "\x05\xff"},
		"not steered":          {hello + "\x05\x01\x00\x03\x0bdirect.test\x00\x50", ok + "\x05\x02" + rest},
		"denied by DNS":        {hello + "\x05\x01\x00\x03\x0bdenied.test\x00\x50", ok + "\x05\x02" + rest},
		"real address":         {hello + "\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50", ok + "\x05\x02" + rest},
		"mapped real address":  {hello + "\x05\x01\x00\x04" + "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x7f\x00\x00\x01" + "\x00\x50", ok + "\x05\x02" + rest},
		"port 0":               {hello + "\x05\x01\x00\x01\xc6\x13\x00\x01\x00\x00", ok + "\x05\x02" + rest},
		"unreachable":          {hello + "\x05\x01\x00\x01\xc6\x13\x00\x01\x00\x50", ok + "\x05\x04" + rest},
		"connection refused":   {hello + "\x05\x01\x00\x01\xc6\x13\x00\x01\x00\x51", ok + "\x05\x05" + rest},
		"BIND":                 {hello + "\x05\x02\x00\x01\xc6\x13\x00\x01\x00\x50", ok + "\x05\x07" + rest},
		"unknown address type": {hello + "\x05\x01\x00\x02", ok + "\x05\x08" + rest},
	} {
		if got := raw(t, proxy, try.send); got != try.want {
			t.Errorf("%s: %x, want %x", name, got, try.want)
		}
	}
}

func FuzzSOCKS(f *testing.F) {
	f.Add([]byte("\x01\x00" + "\x05\x01\x00\x03\x0csteered.test\x00\x50"))
	f.Add([]byte("\x02\x02\x00" + "\x05\x01\x00\x01\xc6\x13\x00\x01\x00\x50"))
	f.Add([]byte("\x01\x00" + "\x05\x01\x00\x04\x20\x01\x00\x02\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x50"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		if socksGreeting(struct {
			io.Reader
			io.Writer
		}{r, io.Discard}) != nil {
			return
		}
		host, port, err := socksRequest(r)
		if err == nil && (host == "" || len(host) > 255 || port == 0) {
			t.Errorf("host %q, port %d", host, port)
		}
	})
}

func FuzzDestination(f *testing.F) {
	for _, line := range []string{
		"GET http://steered.test/ HTTP/1.1", "CONNECT steered.test:443 HTTP/1.1", "CONNECT [2001:2:0:1000::1]:443 HTTP/1.1",
		"GET http://[::1]:99999/ HTTP/1.1", "OPTIONS * HTTP/1.1", "GET http://a@b:1/ HTTP/1.0", "GET http://:80/ HTTP/1.1",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(line + "\r\nHost: x\r\n\r\n")))
		if err != nil {
			return
		}
		host, port, err := destination(r)
		if err == nil && (host == "" || port == 0) {
			t.Errorf("host %q, port %d", host, port)
		}
	})
}
