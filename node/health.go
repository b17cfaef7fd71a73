package node

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/internal/lifecycle"
)

// A node is alive as long as it answers: its tasks run together or not at all,
// and the one that answers is among them. It is ready if it can do its work,
// which is what a load balancer wants to know: a gateway has a policy, open
// listeners and a resolver that answers; an egress has a policy and a link to a
// gateway and to a connector; a connector has a link to an egress and a resolver.

// unready says what keeps the gateway from its work.
func (g *Gateway) unready() (why []string) {
	if g.rules.now() == nil {
		why = append(why, "the policy and its lists are being loaded")
	}
	why = append(why, g.trunk.listening.unready()...)
	return append(why, g.dns.outside.unready(defaultGroup)...)
}

// unready says what keeps the egress from its work.
func (e *Egress) unready() (why []string) {
	if e.rules.now() == nil {
		why = append(why, "the policy is not loaded")
	}
	why = append(why, e.trunk.listening.unready()...)
	return append(why, e.neighbours.unready("gateway", "connector")...)
}

// unready says what keeps the connector from its work.
func (c *Connector) unready() []string {
	why := append(c.trunk.listening.unready(), c.neighbours.unready("egress")...)
	return append(why, c.dns.outside.unready(c.set.Resolver.Name)...)
}

// unready names those roles of neighbours of which none answers.
func (n *neighbours) unready(roles ...string) (why []string) {
	known, up := map[string]int{}, map[string]int{}
	for l := range n.store.View().Links() {
		known[l.Role]++
		if l.Up {
			up[l.Role]++
		}
	}
	for _, role := range roles {
		if up[role] == 0 {
			why = append(why, fmt.Sprintf("no %s answers, of %d", role, known[role]))
		}
	}
	return why
}

// unready says why no resolver of a group can be asked.
func (o *outside) unready(group string) []string {
	g := o.groups[group]
	if g == nil {
		return []string{fmt.Sprintf("there is no upstream group %q", group)}
	}
	var down []string
	for _, s := range g.resolvers.Status() {
		if s.Up {
			return nil
		}
		down = append(down, fmt.Sprintf("%s: %v", s.Server, s.Err))
	}
	return []string{fmt.Sprintf("no resolver of upstream group %s answers: %s", group, cmp.Or(strings.Join(down, "; "), "it has none"))}
}

// listening keeps where questions can come in. The zero value: nowhere yet.
type listening struct {
	at atomic.Pointer[[]control.Listener]
}

// opened takes note of the listeners that tasks serve. The name of such a task
// is dns, the transport, and the listener's own name.
func (l *listening) opened(tasks []lifecycle.Task) {
	var at []control.Listener
	index := map[string]int{}
	for _, t := range tasks {
		rest, ok := strings.CutPrefix(t.Name, "dns ")
		if !ok {
			continue
		}
		i, known := index[rest]
		if !known {
			i = len(at)
			index[rest] = i
			transport, name, _ := strings.Cut(rest, " ")
			at = append(at, control.Listener{Transport: transport, Address: name})
		}
		at[i].Sockets++
	}
	l.at.Store(&at)
}

func (l *listening) now() []control.Listener {
	if at := l.at.Load(); at != nil {
		return *at
	}
	return nil
}

func (l *listening) unready() []string {
	if len(l.now()) == 0 {
		return []string{"the listeners are not open"}
	}
	return nil
}

// serveMetrics serves /metrics, /healthz and /readyz on a local port, if one is
// set.
func serveMetrics(ctx context.Context, at netip.AddrPort, near *Surroundings, unready func() []string) error {
	if !at.IsValid() {
		<-ctx.Done()
		return nil
	}
	l, err := net.Listen("tcp", at.String())
	if err != nil {
		return fmt.Errorf("listening for metrics: %w", err)
	}
	return serveHTTP(ctx, l, watched(near, unready))
}

// watched is what others watch a node by.
func watched(near *Surroundings, unready func() []string) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(near.Metrics, promhttp.HandlerOpts{}))
	mux.Handle("GET /healthz", health(func() []string { return nil }))
	mux.Handle("GET /readyz", health(unready))
	return mux
}

// health answers 200 if all is well, else 503 with one line for each thing that
// is not.
type health func() []string

// ServeHTTP answers how the node is at this moment.
func (h health) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	why := h()
	if len(why) == 0 {
		fmt.Fprintln(w, "ok")
		return
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	for _, line := range why {
		fmt.Fprintln(w, line)
	}
}
