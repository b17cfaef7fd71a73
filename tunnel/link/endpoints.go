package link

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/starferry/starferry/device"
)

// The endpoints file has one line for each peer, its public key in base64, a
// space, and its address and port. It is a memory, not a setting: lines that
// cannot be read are passed over.

// longestEndpoints is above what the largest device writes: 65,536 peers.
const longestEndpoints = 8 << 20

func readEndpoints(path string) (map[device.Key]netip.AddrPort, error) {
	if path == "" {
		return nil, nil
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && info.Size() > longestEndpoints {
		err = fmt.Errorf("%s has %d bytes", path, info.Size())
	}
	if err != nil {
		return nil, fmt.Errorf("reading endpoints: %w", err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading endpoints: %w", err)
	}
	return parseEndpoints(b), nil
}

func parseEndpoints(b []byte) map[device.Key]netip.AddrPort {
	known := map[device.Key]netip.AddrPort{}
	for line := range strings.Lines(string(b)) {
		name, addr, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		key, err1 := device.ParseKey(name)
		ep, err2 := netip.ParseAddrPort(addr)
		if err1 == nil && err2 == nil && ep.IsValid() && ep.Port() != 0 {
			known[key] = ep
		}
	}
	return known
}

func formatEndpoints(known map[device.Key]netip.AddrPort) []byte {
	lines := make([]string, 0, len(known))
	for key, ep := range known {
		lines = append(lines, key.String()+" "+ep.String()+"\n")
	}
	slices.Sort(lines)
	return []byte(strings.Join(lines, ""))
}

// writeEndpoints replaces the file in one step, so that a crash leaves the old
// one or the new one.
func writeEndpoints(path string, known map[device.Key]netip.AddrPort) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("writing endpoints: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = bytes.NewReader(formatEndpoints(known)).WriteTo(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing endpoints: %w", err)
	}
	return nil
}
