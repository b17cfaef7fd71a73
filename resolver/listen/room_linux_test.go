package listen

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// kept returns how many bytes the kernel keeps for a socket, which is twice what
// was asked for.
func kept(t *testing.T, set func(c *net.UDPConn, fd int) error) int {
	t.Helper()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	c := pc.(*net.UDPConn)
	f, err := c.File() // the same socket
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := set(c, int(f.Fd())); err != nil {
		t.Fatal(err)
	}
	n, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestRoom(t *testing.T) {
	const bytes = 64 << 20 // above the limit of any usual machine
	got := kept(t, func(c *net.UDPConn, _ int) error { return Room(c, bytes) })
	var forbidden error
	kept(t, func(_ *net.UDPConn, fd int) error {
		forbidden = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bytes)
		return nil
	})
	want := 2 * bytes
	if forbidden != nil {
		want = kept(t, func(_ *net.UDPConn, fd int) error {
			return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bytes)
		})
	}
	if got != want {
		t.Errorf("%d bytes, want %d", got, want)
	}
}
