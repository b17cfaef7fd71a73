package control

import (
	"cmp"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
)

// DNS is how a node's DNS server stands, and those whom it asks. What a role
// does not have is empty.
type DNS struct {
	Listeners    []Listener    `json:"listeners,omitempty"`
	Upstreams    []Upstream    `json:"upstreams,omitempty"`
	Caches       []Cache       `json:"caches,omitempty"`
	Guard        *Guard        `json:"guard,omitempty"`
	Certificates []Certificate `json:"certificates,omitempty"`
	QueryLog     []Sink        `json:"query_log,omitempty"`
}

// A Listener is where questions come in.
type Listener struct {
	Transport string `json:"transport"`
	Address   string `json:"address"` // "link": the node's own, which only its links reach
	Sockets   int    `json:"sockets"`
}

// An Upstream is one resolver of a group. Asked and Failed count since the
// start, InARow those failures after which nothing was answered.
type Upstream struct {
	Group  string        `json:"group"`
	Server string        `json:"server"`
	Up     bool          `json:"up"`
	Since  time.Time     `json:"since,omitzero"`
	RTT    time.Duration `json:"rtt_ns,omitempty"` // moving average
	Asked  uint64        `json:"asked"`
	Failed uint64        `json:"failed"`
	InARow int           `json:"failed_in_a_row"`
	Error  string        `json:"error,omitempty"` // of one that is down
}

// A Cache is one level of the cache: packed has answers as they were given to
// askers, lower what resolvers answered. Misses of packed are not counted.
type Cache struct {
	Level      string `json:"level"`
	Entries    int    `json:"entries"`
	Bytes      int    `json:"bytes"`
	Hits       uint64 `json:"hits"`
	Misses     uint64 `json:"misses,omitempty"`
	Stale      uint64 `json:"stale,omitempty"`
	Prefetched uint64 `json:"prefetched,omitempty"`
}

// A Guard is what was done against those who take too much, since the start.
type Guard struct {
	OverClient  uint64 `json:"over_client"`  // questions over the rate of a client
	OverNetwork uint64 `json:"over_network"` // and of a network
	Dropped     uint64 `json:"responses_dropped"`
	Truncated   uint64 `json:"responses_truncated"`
	Challenged  uint64 `json:"responses_challenged"`
	Displaced   uint64 `json:"displaced"` // what was forgotten early for want of room
	InWork      int    `json:"in_work"`   // questions, now
	Memory      uint64 `json:"memory_bytes"`
	Shedding    bool   `json:"shedding"` // questions are turned away for want of memory, now
	ShedWork    uint64 `json:"shed_work"`
	ShedMemory  uint64 `json:"shed_memory"`
}

// A Certificate is one that is shown to clients.
type Certificate struct {
	File    string    `json:"file"`
	Names   []string  `json:"names"`
	Expires time.Time `json:"expires"`
	Problem string    `json:"problem,omitempty"`
}

// A Sink is where the query log goes. Each record is in one of the four numbers.
type Sink struct {
	Name    string `json:"sink"`
	Waiting int    `json:"waiting"`
	Written uint64 `json:"written"`
	Dropped uint64 `json:"dropped"`
	Lost    uint64 `json:"lost"`
	Error   string `json:"error,omitempty"` // why it takes nothing now
}

func (d *DNS) print(b *strings.Builder, now time.Time) {
	d.printListeners(b)
	d.printUpstreams(b, now)
	d.printCaches(b)
	d.Guard.print(b)
	d.printCertificates(b, now)
	d.printQueryLog(b)
}

func (d *DNS) printListeners(b *strings.Builder) {
	var rows [][]string
	for _, l := range d.Listeners {
		rows = append(rows, []string{l.Transport, l.Address, fmt.Sprint(l.Sockets)})
	}
	table(b, []string{"LISTENER", "ADDRESS", "SOCKETS"}, rows)
}

func (d *DNS) printUpstreams(b *strings.Builder, now time.Time) {
	var rows [][]string
	for _, u := range d.Upstreams {
		failed := fmt.Sprint(u.Failed)
		if u.InARow > 0 {
			failed += fmt.Sprintf(" (%d in a row)", u.InARow)
		}
		rows = append(rows, []string{u.Group, u.Server, state(u.Up), age(now, u.Since), rtt(u.RTT), fmt.Sprint(u.Asked), failed, u.Error})
	}
	table(b, []string{"UPSTREAM", "SERVER", "STATE", "SINCE", "RTT", "ASKED", "FAILED", "LAST ERROR"}, rows)
}

func (d *DNS) printCaches(b *strings.Builder) {
	var rows [][]string
	for _, c := range d.Caches {
		row := []string{c.Level, fmt.Sprint(c.Entries), size(uint64(c.Bytes)), fmt.Sprint(c.Hits), "-", "-", "-"}
		if c.Level != "packed" {
			row = append(row[:4], fmt.Sprint(c.Misses), fmt.Sprint(c.Stale), fmt.Sprint(c.Prefetched))
		}
		rows = append(rows, row)
	}
	table(b, []string{"CACHE", "ENTRIES", "SIZE", "HITS", "MISSES", "STALE", "PREFETCHED"}, rows)
}

func (g *Guard) print(b *strings.Builder) {
	if g == nil {
		return
	}
	memory := size(g.Memory)
	if g.Shedding {
		memory += ", SHEDDING"
	}
	table(b, []string{"GUARD"}, [][]string{
		{"questions", fmt.Sprintf("%d over the rate of a client, %d of a network", g.OverClient, g.OverNetwork)},
		{"responses", fmt.Sprintf("%d dropped, %d truncated, %d challenged", g.Dropped, g.Truncated, g.Challenged)},
		{"work", fmt.Sprintf("%d now; %d turned away", g.InWork, g.ShedWork)},
		{"memory", fmt.Sprintf("%s; %d turned away", memory, g.ShedMemory)},
	})
}

func (d *DNS) printCertificates(b *strings.Builder, now time.Time) {
	var rows [][]string
	for _, c := range d.Certificates {
		rows = append(rows, []string{names(c.Names), expiry(now, c.Expires), c.File, c.Problem})
	}
	table(b, []string{"CERTIFICATE", "EXPIRES", "FILE", "PROBLEM"}, rows)
}

func (d *DNS) printQueryLog(b *strings.Builder) {
	var rows [][]string
	for _, s := range d.QueryLog {
		rows = append(rows, []string{s.Name, fmt.Sprint(s.Waiting), fmt.Sprint(s.Written), fmt.Sprint(s.Dropped), fmt.Sprint(s.Lost), s.Error})
	}
	table(b, []string{"QUERY LOG", "WAITING", "WRITTEN", "DROPPED", "LOST", "ERROR"}, rows)
}

// table writes rows under a head, if there are any, with nothing behind the
// last cell of a line.
func table(b *strings.Builder, head []string, rows [][]string) {
	if len(rows) == 0 {
		return
	}
	var text strings.Builder
	t := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{head}, rows...) {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	t.Flush()
	b.WriteByte('\n')
	for line := range strings.Lines(text.String()) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
}

// names are as many as fit into a line.
func names(all []string) string {
	const most = 3
	if len(all) <= most {
		return cmp.Or(strings.Join(all, ", "), "-")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(all[:most], ", "), len(all)-most)
}

func expiry(now, t time.Time) string {
	switch {
	case t.IsZero():
		return "-"
	case now.After(t):
		return "EXPIRED " + age(now, t) + " ago"
	}
	return "in " + age(t, now)
}

func size(n uint64) string {
	const kib = 1 << 10
	switch {
	case n >= kib*kib*kib:
		return fmt.Sprintf("%.1f GiB", float64(n)/(kib*kib*kib))
	case n >= kib*kib:
		return fmt.Sprintf("%.1f MiB", float64(n)/(kib*kib))
	case n >= kib:
		return fmt.Sprintf("%.1f KiB", float64(n)/kib)
	}
	return fmt.Sprintf("%d B", n)
}
