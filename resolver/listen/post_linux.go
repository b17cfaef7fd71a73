package listen

import (
	"bytes"
	"encoding/binary"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A post sends answers to where their questions came from, many by one system
// call. Those to one peer (a forwarder, or who asks on behalf of many) go down the
// kernel's stack as one packet, which is cut to datagrams as late as can be: by
// the network card, or by the socket of a peer on this host. (UDP_SEGMENT of
// udp(7). All but the last have one length: answers of different lengths need
// packets of their own.)
type post struct {
	joins bool // the kernel can
	n     int
	mail  [lotLen]mail
	lot   lot

	control [lotLen][oobLen + segmentLen]byte
	keys    [lotLen]uint64
	peers   [2 * lotLen]uint8
}

// A mail is an answer with its way, as the kernel wants both.
type mail struct {
	to   *unix.RawSockaddrInet6
	size uint32 // of to
	oob  []byte
	resp []byte
}

const (
	// segmentLen is the size of the control message that says where to cut.
	segmentLen = unix.SizeofCmsghdr + 8
	// maxJoined is how many answers the kernel cuts one packet to (UDP_MAX_SEGMENTS,
	// 64 until Linux 6.9), and maxJoint how long that is: less than 64 KiB.
	maxJoined = 64
	maxJoint  = 60000
	// maxSegment is how long an answer may be to be joined with others: what the
	// route cannot take in one piece is not cut.
	maxSegment = udpLen
)

// newPost returns one for a kernel's socket.
func newPost(sock socket) *post {
	p := &post{}
	if raw, err := sock.control(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_, err := unix.GetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT)
			p.joins = err == nil // since Linux 4.18; what is older would send all as one datagram
		})
	}
	return p
}

// add adds an answer, for which there is room if less than lotLen wait. It turns
// oob, the control message of the question, in place. All that is given must stay
// as it is until send.
func (p *post) add(to *unix.RawSockaddrInet6, size uint32, oob, resp []byte) {
	turn(oob)
	p.mail[p.n] = mail{to, size, oob, resp}
	p.n++
}

// send sends what was added and returns how many answers could not be sent.
func (p *post) send(fd uintptr) (unsent int) {
	messages := p.lay()
	for from := 0; from < messages; {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&p.lot.heads[from])), uintptr(messages-from), unix.MSG_DONTWAIT, 0, 0)
		switch h := &p.lot.heads[from].hdr; {
		case errno == 0:
			from += int(n)
		case errno == unix.EINTR:
		case h.Iovlen == 1:
			unsent++
			from++
		default:
			p.joins = p.joins && errno != unix.EIO // the network cards have to do the checksums
			unsent += sendEach(fd, h)
			from++
		}
	}
	p.discard()
	return unsent
}

// discard forgets what was added and returns how many answers that were.
func (p *post) discard() (n int) {
	n, p.n = p.n, 0
	return n
}

// sendEach sends each part of a message that could not be sent as one.
func sendEach(fd uintptr, h *unix.Msghdr) (unsent int) {
	parts := unsafe.Slice(h.Iov, h.Iovlen)
	h.SetIovlen(1)
	h.SetControllen(int(h.Controllen) - segmentLen)
	for i := range parts {
		h.Iov = &parts[i]
		_, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(h)), unix.MSG_DONTWAIT)
		if errno != 0 {
			unsent++
		}
	}
	return unsent
}

// lay makes messages of the answers and returns how many.
func (p *post) lay() (messages int) {
	order := p.order()
	for i := 0; i < p.n; messages++ {
		first := &p.mail[order[i]&0xff]
		n, size := p.together(order[i:])
		h := &p.lot.heads[messages].hdr
		h.Iov = &p.lot.iovs[i]
		h.SetIovlen(n)
		for range n {
			m := &p.mail[order[i]&0xff]
			p.lot.iovs[i].Base = &m.resp[0]
			p.lot.iovs[i].SetLen(len(m.resp))
			i++
		}
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(first.to)), first.size
		c := first.oob
		if n > 1 {
			c = appendSegment(append(p.control[messages][:0], c...), size)
		}
		h.Control = unsafe.SliceData(c)
		h.SetControllen(len(c))
	}
	return messages
}

// appendSegment appends the control message that says to cut after each size
// bytes.
func appendSegment(c []byte, size int) []byte {
	n := len(c)
	c = c[:n+segmentLen]
	clear(c[n:])
	h := (*unix.Cmsghdr)(unsafe.Pointer(&c[n]))
	h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(c[n+unix.CmsgLen(0):], uint16(size))
	return c
}

// A key says which answer: its number is the lowest byte, then comes how much
// shorter it is than the longest there can be, then who it goes to.
const keySizes, keyPeer = 8, 24

// order returns keys of all answers, those together that can be one message.
func (p *post) order() []uint64 {
	keys := p.keys[:p.n]
	if !p.joins || p.n < 2 {
		for i := range keys {
			keys[i] = uint64(i) | uint64(i)<<keyPeer
		}
		return keys
	}
	clear(p.peers[:])
	several := false
	for i := range keys {
		peer := p.peer(i)
		several = several || peer != i
		keys[i] = uint64(i) | uint64(0xffff-len(p.mail[i].resp))<<keySizes | uint64(peer)<<keyPeer
	}
	if several {
		slices.Sort(keys)
	}
	return keys
}

// peer returns the number of the first answer that goes the same way as the
// i-th.
func (p *post) peer(i int) int {
	m := &p.mail[i]
	words := (*[7]uint32)(unsafe.Pointer(m.to)) // family and port are the first
	h := (words[0] ^ words[1] ^ words[5]) * 0x9e3779b1
	for at := h >> 16; ; at++ {
		cell := &p.peers[at%uint32(len(p.peers))]
		if *cell == 0 {
			*cell = uint8(i + 1)
			return i
		}
		if o := &p.mail[*cell-1]; *o.to == *m.to && bytes.Equal(o.oob, m.oob) {
			return int(*cell - 1)
		}
	}
}

// together returns how many of the first answers in order can be one message, and
// after how many bytes each it is cut.
func (p *post) together(order []uint64) (n, size int) {
	size = len(p.mail[order[0]&0xff].resp)
	if size > maxSegment {
		return 1, size
	}
	most := min(len(order), maxJoined, maxJoint/size)
	for n = 1; n < most && order[n]>>keyPeer == order[0]>>keyPeer; n++ {
		if len(p.mail[order[n]&0xff].resp) < size { // only the last may be shorter
			return n + 1, size
		}
	}
	return n, size
}
