package node

import (
	"context"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"net/netip"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/internal/lifecycle"
)

// A blockPage says in a browser that a name is blocked. It is seen over plain
// HTTP only: nobody can show a certificate for the names of others.
type blockPage struct {
	listen  []netip.AddrPort
	contact string
	log     *slog.Logger
}

func newBlockPage(set configs.BlockPage, log *slog.Logger) *blockPage {
	return &blockPage{set.Listen, set.Contact, log}
}

func (p *blockPage) tasks() (tasks []lifecycle.Task, err error) {
	for _, at := range p.listen {
		l, err := net.Listen(family("tcp", at), at.String())
		if err != nil {
			return nil, explained(fmt.Errorf("listening for the block page on %v (dns.block_page.listen): %w", at, err), at)
		}
		tasks = append(tasks, lifecycle.Task{Name: "block page " + at.String(), Run: func(ctx context.Context) error { return serveHTTP(ctx, l, p) }})
	}
	return tasks, nil
}

var pageText = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Blocked</title>
<style>body{font:1.1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:15vh auto;padding:0 1rem}code{font-size:.95em}</style>
<h1>This site is blocked</h1>
<p>The policy of your network blocks <strong>{{.Host}}</strong>.</p>
<p>To see which policy, and why: <code>dig {{.Host}}</code>. The answer has it behind <code>EDE</code>.</p>
{{with .Contact}}<p>If you think that is wrong, ask {{.}}.</p>{{end}}
</html>
`))

// ServeHTTP answers every request with the page.
func (p *blockPage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	w.WriteHeader(http.StatusForbidden)
	if r.Method == http.MethodHead {
		return
	}
	if err := pageText.Execute(w, struct{ Host, Contact string }{host, p.contact}); err != nil {
		p.log.Debug("sending the block page failed", "err", err)
	}
}
