package listen

import (
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
)

// maxQuestion is the longest question taken over HTTP: all that a message can
// be (RFC 8484 section 6).
const maxQuestion = 65535

// doh answers questions over HTTP.
type doh struct {
	*Server
	HTTP
	door    *door
	clients shares       // of questions in work
	serving sync.RWMutex // held for reading by each request, for writing from the end on
	terms   terms
}

func newDoH(s *Server, h HTTP, d *door) *doh {
	if h.Path == "" {
		h.Path = "/dns-query"
	}
	return &doh{Server: s, HTTP: h, door: d, terms: terms{padding: true}}
}

// handler returns the service. Questions are asked for as long as ctx, not as
// the request, lasts: that is the contract with a [Handler].
func (d *doh) handler(ctx context.Context) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !d.serving.TryRLock() {
			refuse(w, http.StatusServiceUnavailable, "closing")
			return
		}
		defer d.serving.RUnlock()
		b := exchanges.Get().(*exchange)
		if d.serve(ctx, w, r, b) {
			exchanges.Put(b)
		}
	})
}

// An exchange is the room for a question and its answer.
type exchange struct{ in, out []byte }

// exchanges take what is usual; what is longer is left to the collector.
var exchanges = sync.Pool{New: func() any {
	return &exchange{in: make([]byte, 0, 1024), out: make([]byte, 0, 4096)}
}}

// serve answers a request. It reports whether nobody reads b any more: an answer that
// could not be written whole may still be in the hands of the connection.
func (d *doh) serve(ctx context.Context, w http.ResponseWriter, r *http.Request, b *exchange) bool {
	v := r.Context().Value(visitKey{}).(*visit)
	if r.TLS == nil && !v.trusted { // its question, and its token, were open to everybody on the way
		return refuse(w, http.StatusForbidden, "only trusted proxies may ask here")
	}
	token, ok := d.token(r.URL.Path)
	if !ok {
		return refuse(w, http.StatusNotFound, "there is nothing here")
	}
	if r.Method == http.MethodOptions {
		w.Header()["Allow"] = allowed
		w.WriteHeader(http.StatusNoContent)
		return true
	}
	req, status, why := message(r, b.in)
	if status != 0 {
		if status == http.StatusMethodNotAllowed {
			w.Header()["Allow"] = allowed
		}
		return refuse(w, status, why)
	}
	client, ok := d.client(r, v, token)
	if !ok {
		return refuse(w, http.StatusBadRequest, "the proxy does not say who asks")
	}
	resp, ok := d.quick(client, req, b.out, maxAnswer)
	if !ok {
		if resp, status = d.slow(ctx, client, req); status != 0 {
			return refuse(w, status, "too many questions at once")
		}
	}
	if resp = d.terms.finish(req, resp, maxAnswer); len(resp) < headerLen || len(resp) > maxAnswer {
		return refuse(w, http.StatusServiceUnavailable, "no answer")
	}
	return respond(w, resp)
}

// token returns what follows the path of the service.
func (d *doh) token(path string) (string, bool) {
	rest, ok := strings.CutPrefix(path, d.Path)
	if !ok || rest == "" {
		return "", ok
	}
	token, ok := strings.CutPrefix(rest, "/")
	return token, ok && !strings.Contains(token, "/")
}

// client returns who asks. He is the same for all questions of a connection
// unless it is a proxy's.
func (d *doh) client(r *http.Request, v *visit, token string) (*Client, bool) {
	if v.trusted {
		addr, ok := asker(r.Header, v.from, d.Trusted)
		return &Client{Addr: addr, Listener: v.gate.name, Transport: DoH, Token: token}, ok
	}
	if c := v.client.Load(); c != nil && c.Token == token {
		return c, true
	}
	c := &Client{Addr: v.from, Listener: v.gate.name, Transport: DoH, Token: token, ServerName: strings.ToLower(r.TLS.ServerName)}
	v.client.Store(c)
	return c, true
}

// slow answers a question that takes its time, unless there are too many.
func (d *doh) slow(ctx context.Context, c *Client, req []byte) (resp []byte, status int) {
	if !d.clients.take(c.Addr.Addr(), or(d.Limits.PerClient, 256)) {
		d.dropped(c.Listener, Busy)
		return nil, http.StatusTooManyRequests
	}
	defer d.clients.give(c.Addr.Addr())
	select {
	case d.door.work <- struct{}{}:
	default:
		d.dropped(c.Listener, Busy)
		return nil, http.StatusServiceUnavailable
	}
	defer func() { <-d.door.work }()
	return d.answer(ctx, c, req), 0
}

// Values of header fields, which nobody changes.
var (
	allowed     = []string{"GET, HEAD, POST, OPTIONS"}
	messageType = "application/dns-message"
	contentType = []string{messageType}
)

func refuse(w http.ResponseWriter, status int, why string) bool {
	w.Header()["Cache-Control"] = []string{"no-store"}
	http.Error(w, why, status)
	return true
}

// respond writes an answer. It is private, because another client may get
// another one.
func respond(w http.ResponseWriter, resp []byte) bool {
	h := w.Header()
	h["Content-Type"] = contentType
	h["Cache-Control"] = []string{"private, max-age=" + strconv.FormatUint(uint64(freshness(resp)), 10)}
	if len(resp) > 1024 { // else it is all there when the header is written, and counted
		h["Content-Length"] = []string{strconv.Itoa(len(resp))}
	}
	_, err := w.Write(resp)
	return err == nil
}

// message takes the question out of a request (RFC 8484 section 4.1), with the
// room of buf; or it says with which status the request is refused, and why.
func message(r *http.Request, buf []byte) (req []byte, status int, why string) {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		req, status, why = fromQuery(r.URL.RawQuery, buf)
	case http.MethodPost:
		req, status, why = fromBody(r, buf)
	default:
		return nil, http.StatusMethodNotAllowed, "GET or POST"
	}
	if status == 0 && (len(req) < headerLen || req[2]&0x80 != 0) {
		return nil, http.StatusBadRequest, "not a DNS query"
	}
	return req, status, why
}

// fromBody reads the body of a POST.
func fromBody(r *http.Request, buf []byte) (req []byte, status int, why string) {
	kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	if !strings.EqualFold(strings.TrimSpace(kind), messageType) {
		return nil, http.StatusUnsupportedMediaType, "the body must be " + messageType
	}
	if r.ContentLength > maxQuestion {
		return nil, http.StatusRequestEntityTooLarge, "too long for a DNS message"
	}
	for buf = buf[:0]; ; {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := r.Body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case len(buf) > maxQuestion:
			return nil, http.StatusRequestEntityTooLarge, "too long for a DNS message"
		case err == io.EOF:
			return buf, 0, ""
		case err != nil:
			return nil, http.StatusBadRequest, "the body is cut off"
		}
	}
}

// fromQuery decodes the variable dns of a GET. Its first value counts. That
// base64url comes without padding is overlooked where somebody put some.
func fromQuery(query string, buf []byte) (req []byte, status int, why string) {
	value, ok := variable(query, "dns")
	if !ok {
		return nil, http.StatusBadRequest, "there is no dns= with a query"
	}
	if strings.ContainsAny(value, "%") {
		value, _ = url.PathUnescape(value) // what is broken is empty, and refused below
	}
	value = strings.TrimRight(value, "=")
	n := base64.RawURLEncoding.DecodedLen(len(value))
	if n > maxQuestion {
		return nil, http.StatusRequestURITooLong, "too long for a DNS message"
	}
	if strings.ContainsAny(value, "\r\n") { // which the decoder skips
		return nil, http.StatusBadRequest, "dns= is not base64url"
	}
	req, err := base64.RawURLEncoding.AppendDecode(buf[:0], []byte(value))
	if err != nil {
		return nil, http.StatusBadRequest, "dns= is not base64url"
	}
	return req, 0, ""
}

// variable returns the first value of a name in a query, still escaped.
func variable(query, name string) (string, bool) {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		if n, v, _ := strings.Cut(pair, "="); n == name {
			return v, true
		}
	}
	return "", false
}
