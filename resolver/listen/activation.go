package listen

import (
	"fmt"
	"net"
	"os"

	"github.com/coreos/go-systemd/v22/activation"
)

// A Socket is one that was opened by the process that started this one. One
// of Packet and Stream is set.
type Socket struct {
	Name   string // FileDescriptorName= of its unit, which unless set is the unit's name; LISTEN_FD_n if it was passed without
	Packet net.PacketConn
	Stream net.Listener
}

// Close closes the socket.
func (s *Socket) Close() error {
	if s.Packet != nil {
		return s.Packet.Close()
	}
	return s.Stream.Close()
}

// Activated returns the sockets that systemd, or whoever does as it does, has
// passed to this process (sd_listen_fds(3)), in its order; none if there are
// none. It can do so once: no child shall take the sockets for its own.
func Activated() ([]Socket, error) {
	var out []Socket
	for _, f := range activation.Files(true) {
		s, err := socketOf(f)
		f.Close() // s has a descriptor of its own
		if err != nil {
			for i := range out {
				out[i].Close()
			}
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

func socketOf(f *os.File) (Socket, error) {
	s := Socket{Name: f.Name()}
	var err error
	if s.Packet, err = net.FilePacketConn(f); err == nil {
		return s, nil
	}
	s.Packet = nil
	if s.Stream, err = net.FileListener(f); err != nil {
		return s, fmt.Errorf("taking the passed socket %q: neither for datagrams nor for connections: %w", s.Name, err)
	}
	return s, nil
}
