package lan

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/starferry/starferry/internal/netns"
)

// pair is two hosts with a TUN each, whose other ends this program joins: what
// one kernel's TCP sends goes split into the other, and is joined there.
func pair(t testing.TB) (client, server netns.Host, stop func()) {
	t.Helper()
	var tuns [2]*TUN
	hosts := [2]netns.Host{}
	var stops []func()
	for i := range tuns {
		hosts[i] = newHost(t)
		tun, err := OpenTUN("starferry0", 1380, func(pkts [][]byte, off int) {
			for _, p := range pkts {
				if len(p)-off > 1380 {
					t.Errorf("a packet of %d bytes", len(p)-off)
				}
				tuns[1-i].Send(p[off:])
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		tuns[i] = tun
		if _, err := tun.Setup(Setup{Addresses: prefixes([]string{"10.9.0.1/24", "10.9.0.2/24"}[i])}); err != nil {
			t.Fatal(err)
		}
	}
	for _, tun := range tuns {
		stops = append(stops, start(t, tun))
	}
	return hosts[0], hosts[1], func() { stops[0](); stops[1]() }
}

// connect joins the two by TCP.
func connect(t testing.TB, client, server netns.Host) (net.Conn, net.Conn) {
	t.Helper()
	server.Enter(t)
	l, err := net.Listen("tcp", "10.9.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client.Enter(t)
	out, err := net.DialTimeout("tcp", l.Addr().String(), patience)
	if err != nil {
		t.Fatal(err)
	}
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return out, in
}

func TestSegmentsAreSplitAndJoined(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	client, server, stop := pair(t)
	defer stop()
	out, in := connect(t, client, server)
	defer in.Close()
	sent := bytes.Repeat([]byte("0123456789abcde"), 1<<18)
	go func() {
		defer out.Close()
		out.Write(sent)
	}()
	in.SetDeadline(time.Now().Add(patience))
	got, err := io.ReadAll(in)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes of %d came through: %v", len(got), len(sent), err)
	}
}

func BenchmarkTCP(b *testing.B) {
	client, server, stop := pair(b)
	defer stop()
	out, in := connect(b, client, server)
	defer in.Close()
	chunk := make([]byte, 1<<16)
	b.SetBytes(int64(len(chunk)))
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		defer out.Close()
		for range b.N {
			if _, err := out.Write(chunk); err != nil {
				return
			}
		}
	}()
	if n, err := io.Copy(io.Discard, in); err != nil || n != int64(b.N*len(chunk)) {
		b.Errorf("%d bytes came through: %v", n, err)
	}
}
