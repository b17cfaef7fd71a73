package listen

import (
	"encoding/binary"
	"net"
	"net/netip"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel takes and gives many datagrams in one system call, and with raw
// addresses a question's way back is just where it came from: nothing is
// allocated or translated on the way. (golang.org/x/net does the same calls, but
// makes an address of two allocations of each datagram.) The calls do not block,
// so the scheduler is not told of them.

const (
	lotLen = 128
	// batchRead is the longest question that is taken in a batch. Longer ones
	// come from nodes only, over links, whose sockets are not the kernel's.
	batchRead = 4096
	// batchWrite is what answers in one batch share. What does not fit waits for
	// the next system call.
	batchWrite = lotLen * 1400
)

// A mmsghdr is the kernel's struct of that name; its end is padded as C does it.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// A lot is what one system call moves.
type lot struct {
	heads [lotLen]mmsghdr
	iovs  [lotLen]unix.Iovec
}

// A batch is a socket with the datagrams that go through it together.
type batch struct {
	s    *Server
	sock socket
	name string
	in   lot
	out  *post

	names [lotLen]unix.RawSockaddrInet6 // the longest address
	oobs  [lotLen][oobLen]byte
	bufs  [lotLen][batchRead]byte
	resp  []byte    // the answers of out, one after the other
	at    time.Time // when it was read last
}

// newBatch returns one for a kernel's socket, nil for others.
func newBatch(s *Server, sock socket, name string) *batch {
	if sock.kernel == nil {
		return nil
	}
	b := &batch{s: s, sock: sock, name: name, out: newPost(sock), resp: make([]byte, 0, batchWrite)}
	for i := range lotLen {
		b.in.iovs[i].Base = &b.bufs[i][0]
		b.in.iovs[i].SetLen(batchRead)
		h := &b.in.heads[i].hdr
		h.Iov = &b.in.iovs[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&b.names[i]))
	}
	return b
}

func (b *batch) read(fd uintptr) (int, syscall.Errno) {
	for i := range lotLen {
		h := &b.in.heads[i].hdr
		h.Namelen = uint32(unsafe.Sizeof(b.names[0]))
		if b.sock.wildcard {
			h.Control = &b.oobs[i][0]
			h.SetControllen(len(b.oobs[i]))
		}
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.in.heads)), lotLen, unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

// answer answers the first n datagrams that were read, or passes them on.
func (b *batch) answer(fd uintptr, n int, later func(p *packet)) {
	b.at = time.Now()
	c := Client{Listener: b.name, Transport: UDP, At: b.at}
	most := or(b.s.Limits.UDPSize, udpLen)
	for i := range n {
		req := b.bufs[i][:b.in.heads[i].len]
		if len(req) < headerLen || req[2]&0x80 != 0 {
			b.s.dropped(b.name, Malformed)
			continue
		}
		c.Addr = addrOf(&b.names[i])
		if len(b.resp)+most > cap(b.resp) {
			b.flush(fd)
		}
		start := len(b.resp)
		resp, ok := b.s.quick(&c, req, b.resp, most)
		if !ok {
			later(b.packet(i, req, &c))
			continue
		}
		if len(resp) > start {
			b.resp = resp
			b.put(i, start)
		}
	}
	b.flush(fd)
}

// put adds the answer that begins at start to those to be sent to where the
// i-th datagram came from.
func (b *batch) put(i, start int) {
	var oob []byte
	if b.sock.wildcard {
		oob = b.oobs[i][:b.in.heads[i].hdr.Controllen]
	}
	b.out.add(&b.names[i], b.in.heads[i].hdr.Namelen, oob, b.resp[start:])
}

// flush sends the answers. One that cannot be sent is counted and left out.
func (b *batch) flush(fd uintptr) {
	for range b.out.send(fd) {
		b.s.dropped(b.name, Unsent)
	}
	b.resp = b.resp[:0]
}

// packet copies the i-th datagram, for those who take longer.
func (b *batch) packet(i int, req []byte, c *Client) *packet {
	p := newPacket()
	from := c.Addr
	p.buf, p.at = append(p.buf[:0], req...), c.At
	p.addr = from
	if b.names[i].Family == unix.AF_INET6 && from.Addr().Is4() { // on a socket of both families
		p.addr = netip.AddrPortFrom(netip.AddrFrom16(from.Addr().As16()), from.Port())
	}
	if b.sock.wildcard {
		p.oobn = copy(p.oob[:], b.oobs[i][:b.in.heads[i].hdr.Controllen])
	}
	p.raw = rawAddr{b.names[i], b.in.heads[i].hdr.Namelen}
	return p
}

// A rawAddr is a peer's address as the kernel writes it; its length is zero if
// there is none.
type rawAddr struct {
	name unix.RawSockaddrInet6
	len  uint32
}

// addrOf reads a peer's address, IPv4 always in its short form.
func addrOf(sa *unix.RawSockaddrInet6) netip.AddrPort {
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:])
	if sa.Family == unix.AF_INET {
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom4(four.Addr), port)
	}
	a := netip.AddrFrom16(sa.Addr).Unmap()
	if sa.Scope_id != 0 && a.Is6() {
		if i, err := net.InterfaceByIndex(int(sa.Scope_id)); err == nil {
			a = a.WithZone(i.Name)
		}
	}
	return netip.AddrPortFrom(a, port)
}

// turn makes of the control message that says where a datagram was sent to,
// in place, the one that says where its answer is to come from: the same
// address, by whatever interface the routes say, but for link-local addresses,
// which mean nothing without one.
func turn(oob []byte) {
	for len(oob) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
		n := int(h.Len)
		if n < unix.SizeofCmsghdr || n > len(oob) {
			return
		}
		data := oob[unix.CmsgLen(0):n]
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			info := (*unix.Inet4Pktinfo)(unsafe.Pointer(&data[0]))
			info.Ifindex = 0
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			info := (*unix.Inet6Pktinfo)(unsafe.Pointer(&data[0]))
			if !netip.AddrFrom16(info.Addr).IsLinkLocalUnicast() {
				info.Ifindex = 0
			}
		}
		if n = unix.CmsgSpace(n - unix.CmsgLen(0)); n > len(oob) {
			return
		}
		oob = oob[n:]
	}
}
