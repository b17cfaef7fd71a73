package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// lostBefore returns how many datagrams the kernel could not keep for sockets
// at these addresses, as they were not read fast enough.
func lostBefore(at func(netip.AddrPort) bool) (int, error) {
	b, err := os.ReadFile("/proc/net/udp")
	if err != nil {
		return 0, err
	}
	n := 0
	for _, s := range sockets(b) {
		if at(s.local) {
			n += s.lost
		}
	}
	return n, nil
}

// A udpSocket is a socket in the kernel's list.
type udpSocket struct {
	local netip.AddrPort
	lost  int // datagrams that found it full
}

// sockets reads the kernel's list of UDP sockets over IPv4, proc_net(5): the
// local address stands in the second field, as the machine's word, and what was
// lost in the last.
func sockets(list []byte) []udpSocket {
	var all []udpSocket
	for lines := bufio.NewScanner(bytes.NewReader(list)); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 13 {
			continue
		}
		host, port, _ := strings.Cut(f[1], ":")
		word, err := hex.DecodeString(host)
		p, err2 := strconv.ParseUint(port, 16, 16)
		lost, err3 := strconv.Atoi(f[len(f)-1])
		if err != nil || err2 != nil || err3 != nil || len(word) != 4 {
			continue // the headline
		}
		var a [4]byte
		binary.NativeEndian.PutUint32(a[:], binary.BigEndian.Uint32(word))
		all = append(all, udpSocket{netip.AddrPortFrom(netip.AddrFrom4(a), uint16(p)), lost})
	}
	return all
}
