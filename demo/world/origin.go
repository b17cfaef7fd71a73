package world

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"
)

const (
	chunk    = 64 << 10 // bytes written at a time
	bigRate  = 4 << 20  // bytes a second of /big, unless asked for another
	lineLen  = 64       // of the pattern
	maxBytes = 1 << 40  // of /bytes
)

// Pattern fills p with what a download has at this offset: lines of 64 bytes
// that begin with their own offset in hexadecimal digits, so that a byte that
// is missing, doubled or out of place shows.
func Pattern(p []byte, offset int64) {
	var line [lineLen]byte
	for i := range line[:lineLen-1] {
		line[i] = '.'
	}
	line[lineLen-1] = '\n'
	for len(p) > 0 {
		at := offset % lineLen
		copy(line[:], fmt.Sprintf("%016x", offset-at))
		n := copy(p, line[at:])
		p, offset = p[n:], offset+int64(n)
	}
}

// origin is the web site in China:
//
//	/                who asks, and for what
//	/big?rate=BYTES  the pattern for as long as it is read, so many bytes a second (0: as fast as it goes)
//	/bytes?n=BYTES   so much of the pattern, announced by Content-Length
//	/upload          takes a body and says how long it was
func origin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", page)
	mux.HandleFunc("GET /big", big)
	mux.HandleFunc("GET /bytes", exactly)
	mux.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err == nil {
			fmt.Fprintf(w, "%d bytes\n", n)
		}
	})
	return mux
}

func page(w http.ResponseWriter, r *http.Request) {
	asker := r.RemoteAddr
	if ap, err := netip.ParseAddrPort(asker); err == nil {
		asker = ap.Addr().Unmap().String()
	}
	at := fmt.Sprint(r.Context().Value(http.LocalAddrContextKey))
	fmt.Fprintf(w, "This is the origin in China, %s, asked for %s.\nThe request came from %s.\n", at, r.Host, asker)
}

// number reads a number from the query.
func number(w http.ResponseWriter, r *http.Request, key, otherwise string) (int64, bool) {
	s := cmp.Or(r.FormValue(key), otherwise)
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > maxBytes {
		http.Error(w, fmt.Sprintf("%s=%q is no number from 0 to %d", key, s, int64(maxBytes)), http.StatusBadRequest)
		return 0, false
	}
	return n, true
}

func big(w http.ResponseWriter, r *http.Request) {
	rate, ok := number(w, r, "rate", strconv.Itoa(bigRate))
	if !ok {
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=us-ascii")
	rc := http.NewResponseController(w)
	size := chunk
	if rate > 0 {
		size = int(max(1, min(chunk, rate/8))) // several times a second even if it is slow
	}
	buf := make([]byte, size)
	start := time.Now()
	for offset := int64(0); ; offset += int64(len(buf)) {
		if rate > 0 && !pause(r.Context(), time.Until(start.Add(time.Duration(float64(offset)/float64(rate)*float64(time.Second))))) {
			return
		}
		Pattern(buf, offset)
		if _, err := w.Write(buf); err != nil {
			return
		}
		if rc.Flush() != nil {
			return
		}
	}
}

// pause waits and reports whether to go on.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func exactly(w http.ResponseWriter, r *http.Request) {
	n, ok := number(w, r, "n", "0")
	if !ok {
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=us-ascii")
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	buf := make([]byte, chunk)
	for offset := int64(0); offset < n; offset += chunk {
		part := buf[:min(chunk, n-offset)]
		Pattern(part, offset)
		if _, err := w.Write(part); err != nil {
			return
		}
	}
}

// serveOrigin serves the site until ctx is done.
func serveOrigin(ctx context.Context, ln net.Listener) error {
	s := &http.Server{
		Handler:           origin(),
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	defer context.AfterFunc(ctx, func() { s.Close() })()
	if err := s.Serve(ln); ctx.Err() == nil {
		return err
	}
	return nil
}

// echo sends back what comes, until ctx is done.
func echo(ctx context.Context, pc net.PacketConn) error {
	defer context.AfterFunc(ctx, func() { pc.Close() })()
	buf := make([]byte, 64<<10)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		pc.WriteTo(buf[:n], from) // lost if it cannot be sent, as UDP is
	}
}
