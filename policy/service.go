package policy

import (
	"fmt"
	"strconv"
	"strings"
)

// A Service is what a flow wants to reach at a steered name. ICMP echo has Proto 1 or 58 and no port.
type Service struct {
	Proto uint8
	Port  uint16
}

// ParseService reads a service as people write it: tcp/443, udp/53, icmp. Its
// error says what is wrong with the protocol or the port.
func ParseService(s string) (Service, error) {
	if s == "icmp" {
		return Service{Proto: protoICMP}, nil
	}
	const form = "write it like tcp/443, udp/443 or icmp"
	proto, num, ported := strings.Cut(s, "/")
	out := Service{Proto: map[string]uint8{"tcp": protoTCP, "udp": protoUDP}[proto]}
	switch {
	case proto == "icmp":
		return Service{}, fmt.Errorf("%q: icmp has no ports, and stands for ping: %s", s, form)
	case !ported && out.Proto == 0 && strings.Trim(s, "0123456789") == "" && s != "":
		return Service{}, fmt.Errorf("%q is a port without a protocol: write it like tcp/%s", s, s)
	case out.Proto == 0:
		return Service{}, fmt.Errorf("%q is no protocol that flows can have: %s", proto, form)
	case !ported || num == "":
		return Service{}, fmt.Errorf("%q says no port: %s", s, form)
	}
	if from, _, ranged := strings.Cut(num, "-"); ranged {
		return Service{}, fmt.Errorf("%q is more than one port, and a flow goes to one: write it like %s/%s", s, proto, from)
	}
	port, err := strconv.ParseUint(num, 10, 16)
	if err != nil || port == 0 {
		return Service{}, fmt.Errorf("%q is no port: one is a number from 1 to 65535", num)
	}
	out.Port = uint16(port)
	return out, nil
}

// String names a service as policies do: tcp/443.
func (s Service) String() string {
	switch s.Proto {
	case protoTCP:
		return fmt.Sprintf("tcp/%d", s.Port)
	case protoUDP:
		return fmt.Sprintf("udp/%d", s.Port)
	case protoICMP, protoICMPv6:
		return "icmp"
	default:
		return fmt.Sprintf("protocol %d", s.Proto)
	}
}

// among reports whether a service is one of those. Proto 0 and ports from 0 to 0
// stand for any.
func (s *Service) among(p Port) bool {
	return (p.Proto == 0 || p.Proto == s.Proto || p.Proto == protoICMP && s.Proto == protoICMPv6) &&
		(p.From == 0 || p.From <= s.Port && s.Port <= p.To)
}
