package link

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	wg "golang.zx2c4.com/wireguard/device"

	"github.com/starferry/starferry/device"
)

// SetPeers makes these the peers. While the device runs, only what differs is
// changed: the session of a peer that stays goes on. A list with a mistake
// changes nothing; the error names every mistake.
func (d *Device) SetPeers(list []Peer) error {
	want, err := d.checkPeers(list)
	if err != nil {
		return fmt.Errorf("setting WireGuard peers: %w", err)
	}
	d.apply.Lock()
	defer d.apply.Unlock()
	d.mu.Lock()
	old := d.peers
	d.peers = d.adopt(want)
	lines := changes(old, d.peers)
	w := d.running.Load()
	if w != nil {
		for key, p := range d.peers {
			if o := old[key]; o == nil || o.Endpoint != p.Endpoint || o.Keepalive != p.Keepalive {
				d.introduce(key)
			}
		}
	}
	d.mu.Unlock()
	d.log.setNames(want)
	if w == nil {
		return nil
	}
	return d.configure(w, lines, old)
}

func (d *Device) checkPeers(list []Peer) (map[device.Key]*Peer, error) {
	var errs []error
	want, names, owners := map[device.Key]*Peer{}, map[string]bool{}, map[netip.Prefix]string{}
	own := d.cfg.Key.Public()
	for _, p := range list {
		p.AllowedIPs = slices.Clone(p.AllowedIPs)
		errs = append(errs, p.check())
		if p.Key == own {
			errs = append(errs, fmt.Errorf("peer %s has this node's own key", p.Name))
		}
		if other := want[p.Key]; other != nil {
			errs = append(errs, fmt.Errorf("peers %s and %s have the same key", other.Name, p.Name))
		}
		if names[p.Name] {
			errs = append(errs, fmt.Errorf("two peers are named %s", p.Name))
		}
		for i, ip := range p.AllowedIPs {
			ip = ip.Masked()
			p.AllowedIPs[i] = ip
			if other, taken := owners[ip]; taken || !ip.IsValid() {
				errs = append(errs, fmt.Errorf("peer %s: allowed prefix %v is invalid or that of %q already", p.Name, ip, other))
			}
			owners[ip] = p.Name
		}
		want[p.Key], names[p.Name] = &p, true
	}
	return want, errors.Join(errs...)
}

// adopt makes the new table of peers out of what is wanted and known.
// The caller holds d.mu.
func (d *Device) adopt(want map[device.Key]*Peer) map[device.Key]*peer {
	table := make(map[device.Key]*peer, len(want))
	for key, p := range want {
		n := &peer{}
		if old := d.peers[key]; old != nil {
			*n = *old
		} else {
			n.dialed = d.saved[key]
		}
		if ep, err := netip.ParseAddrPort(p.Endpoint); err == nil {
			n.dialed = ep
		}
		n.Peer = *p
		table[key] = n
	}
	return table
}

// configure applies lines of WireGuard's configuration protocol. The caller
// holds d.apply and not d.mu: removing a peer waits for its goroutines.
func (d *Device) configure(w *wg.Device, lines string, old map[device.Key]*peer) error {
	if lines == "" {
		return nil
	}
	if err := w.IpcSet(lines); err != nil {
		return fmt.Errorf("configuring WireGuard: %w", err)
	}
	keeper, ok := d.cfg.Bind.(interface{ Keep(any) })
	if !ok {
		return nil
	}
	// A simulated network keeps peers referenced: their finalizers must not run
	// outside of the bubble that they were made in.
	d.mu.Lock()
	defer d.mu.Unlock()
	for key := range d.peers {
		if old[key] == nil {
			keeper.Keep(w.LookupPeer(wg.NoisePublicKey(key)))
		}
	}
	return nil
}

// changes writes what leads from one table of peers to another. All removals
// come first, so that a prefix can change its owner. Endpoints that are known
// are set at once, for a packet may come before the introduction, and
// WireGuard would not try again for five seconds; keepalives, which begin a
// handshake, are left to the introduction.
func changes(old, now map[device.Key]*peer) string {
	var b strings.Builder
	for key := range old {
		if now[key] == nil {
			b.WriteString(peerLine(key) + "remove=true\n")
		}
	}
	for key, p := range now {
		o, who := old[key], peerLine(key)
		if o == nil {
			o, who = &peer{}, "public_key="+hex.EncodeToString(key[:])+"\n"
			b.WriteString(who)
		}
		var lines string
		if p.dialed.IsValid() && p.dialed != o.dialed {
			lines = endpointLine(p.dialed)
		}
		for _, ip := range without(o.AllowedIPs, p.AllowedIPs) {
			lines += "allowed_ip=-" + ip.String() + "\n"
		}
		for _, ip := range without(p.AllowedIPs, o.AllowedIPs) {
			lines += "allowed_ip=" + ip.String() + "\n"
		}
		if lines != "" {
			b.WriteString(who + lines)
		}
	}
	return b.String()
}

// without returns what is in a and not in b.
func without(a, b []netip.Prefix) []netip.Prefix {
	var rest []netip.Prefix
	for _, p := range a {
		if !slices.Contains(b, p) {
			rest = append(rest, p)
		}
	}
	return rest
}

// readStatus asks WireGuard how its peers are.
func readStatus(w *wg.Device) map[device.Key]Status {
	text, err := w.IpcGet()
	if err != nil {
		return nil // cannot fail: it writes to memory
	}
	table := map[device.Key]Status{}
	var key device.Key
	var s Status
	var sec, nsec int64
	put := func() {
		if key.IsZero() {
			return
		}
		if sec != 0 || nsec != 0 {
			s.LastHandshake = time.Unix(sec, nsec)
		}
		table[key] = s
	}
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "=")
		switch name {
		case "public_key":
			put()
			s, sec, nsec = Status{}, 0, 0
			_, _ = hex.Decode(key[:], []byte(value)) // WireGuard wrote it
		case "endpoint":
			s.Endpoint, _ = netip.ParseAddrPort(value)
		case "last_handshake_time_sec":
			sec, _ = strconv.ParseInt(value, 10, 64)
		case "last_handshake_time_nsec":
			nsec, _ = strconv.ParseInt(value, 10, 64)
		case "rx_bytes":
			s.RxBytes, _ = strconv.ParseUint(value, 10, 64)
		case "tx_bytes":
			s.TxBytes, _ = strconv.ParseUint(value, 10, 64)
		}
	}
	put()
	return table
}

func sortByName(list []Status) {
	slices.SortFunc(list, func(a, b Status) int { return strings.Compare(a.Name, b.Name) })
}
