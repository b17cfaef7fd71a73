package control

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Status is how a node is. Times that are zero and texts that are empty are
// not known or do not apply.
type Status struct {
	Name    string    `json:"name"`
	Role    string    `json:"role"`
	Version string    `json:"version"`
	Started time.Time `json:"started"`

	Policy   Policy            `json:"policy,omitzero"`
	Links    []Link            `json:"links"`
	Leases   Leases            `json:"leases"`
	Flows    int               `json:"flows"`
	DNS      DNS               `json:"dns,omitzero"`
	Lists    []List            `json:"lists,omitempty"`     // that are fetched
	Drops    map[string]uint64 `json:"drops,omitempty"`     // packets, by reason
	NotReady []string          `json:"not_ready,omitempty"` // what keeps it from its work
	Warnings []string          `json:"warnings,omitempty"`
}

// A Policy is the policy that is in force.
type Policy struct {
	Version  string    `json:"version"`
	LoadedAt time.Time `json:"loaded_at"`
	Error    string    `json:"error,omitempty"` // why a newer one is not
}

// A Link is one WireGuard link to another node or to a device.
type Link struct {
	Name          string        `json:"name"`
	Role          string        `json:"role"`
	Up            bool          `json:"up"`
	Since         time.Time     `json:"since,omitzero"` // when Up last changed
	RTT           time.Duration `json:"rtt_ns,omitempty"`
	LastHandshake time.Time     `json:"last_handshake,omitzero"`
	Endpoint      string        `json:"endpoint,omitempty"`
	Reason        string        `json:"reason,omitempty"` // of a link that is down
}

// A List is one that is fetched from its publisher.
type List struct {
	Name    string    `json:"name"`
	URL     string    `json:"url"`
	Entries int       `json:"entries"`
	Changed time.Time `json:"changed,omitzero"` // when the copy was fetched
	Checked time.Time `json:"checked,omitzero"` // when the publisher had nothing newer last
	Next    time.Time `json:"next,omitzero"`    // when it will be asked again
	Error   string    `json:"error,omitempty"`  // why the copy could not be renewed
}

// Leases says how many labels are in use, of how many.
type Leases struct {
	Used int    `json:"used"`
	Size uint64 `json:"size"`
}

// Print writes the status for people.
func (s *Status) Print(w io.Writer, now time.Time) error {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%s %s\t%s\tup %s\n", s.Role, s.Name, s.Version, age(now, s.Started))
	if s.Policy.Version != "" {
		fmt.Fprintf(t, "policy\t%s\tloaded %s ago\n", s.Policy.Version, age(now, s.Policy.LoadedAt))
	}
	fmt.Fprintf(t, "leases\t%d of %d\n", s.Leases.Used, s.Leases.Size)
	fmt.Fprintf(t, "flows\t%d\n", s.Flows)
	t.Flush()
	if s.Policy.Error != "" {
		fmt.Fprintf(&b, "\na newer policy was refused, the one above stays in force:\n%s\n", indented(s.Policy.Error))
	}
	for _, why := range s.NotReady {
		fmt.Fprintf(&b, "\nNOT READY: %s\n", why)
	}
	s.printLinks(&b, now)
	s.DNS.print(&b, now)
	s.printLists(&b, now)
	s.printDrops(&b)
	for _, text := range s.Warnings {
		fmt.Fprintf(&b, "\nwarning: %s\n", text)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (s *Status) printLinks(b *strings.Builder, now time.Time) {
	if len(s.Links) == 0 {
		return
	}
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\nLINK\tROLE\tSTATE\tSINCE\tRTT\tHANDSHAKE\tENDPOINT\t\n")
	for _, l := range s.Links {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", l.Name, l.Role, state(l.Up), age(now, l.Since),
			rtt(l.RTT), age(now, l.LastHandshake), cmp.Or(l.Endpoint, "-"), l.Reason)
	}
	t.Flush()
}

func (s *Status) printLists(b *strings.Builder, now time.Time) {
	if len(s.Lists) == 0 {
		return
	}
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\nLIST\tENTRIES\tCHANGED\tCHECKED\tERROR\n")
	for _, l := range s.Lists {
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\n", l.Name, l.Entries, age(now, l.Changed), age(now, l.Checked), strings.ReplaceAll(l.Error, "\n", " "))
	}
	t.Flush()
}

func (s *Status) printDrops(b *strings.Builder) {
	if len(s.Drops) == 0 {
		return
	}
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\nDROPPED\tPACKETS\n")
	for _, why := range slices.Sorted(maps.Keys(s.Drops)) {
		fmt.Fprintf(t, "%s\t%d\n", why, s.Drops[why])
	}
	t.Flush()
}

func state(up bool) string {
	if up {
		return "up"
	}
	return "DOWN"
}

func rtt(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

// age writes how long ago something was, in its two largest units.
func age(now, t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := max(0, now.Sub(t))
	const day = 24 * time.Hour
	switch {
	case d >= day:
		return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

func indented(s string) string { return "  " + strings.ReplaceAll(s, "\n", "\n  ") }
