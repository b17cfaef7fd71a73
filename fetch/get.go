package fetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/starferry/starferry/policy"
)

// The bounds of a download.
const (
	timeout      = 10 * time.Minute
	toAnswer     = 30 * time.Second
	maxRedirects = 5
	sniffed      = 512 // bytes, by which a text is told from other things
)

// An answer is what a publisher has to say.
type answer struct {
	record record        // of the new text; of the old one if that is still good
	size   int64         // of the new text
	file   string        // where the new text lies; empty if the old one is still good
	wait   time.Duration // that it asks for before the next question
}

// client returns a client for one download. Its connections are not kept: the
// next one is hours away.
func (f *Fetcher) client() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext:           f.cfg.Dial,
			TLSClientConfig:       &tls.Config{RootCAs: f.cfg.RootCAs, MinVersion: tls.VersionTLS12},
			Proxy:                 http.ProxyFromEnvironment,
			DisableKeepAlives:     true,
			ForceAttemptHTTP2:     true,
			TLSHandshakeTimeout:   toAnswer,
			ResponseHeaderTimeout: toAnswer,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			switch {
			case r.URL.Scheme != "https":
				return fmt.Errorf("led to %s, which is not https", r.URL.Redacted())
			case len(via) > maxRedirects:
				return errors.New("led from one place to the next")
			}
			return nil
		},
	}
}

// get asks for a list.
func (f *Fetcher) get(ctx context.Context, h *held) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ctx, stalled := context.WithCancelCause(ctx)
	silence := time.AfterFunc(toAnswer, func() { stalled(errSilent) })
	silence.Stop() // until the text is read
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url, nil)
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("User-Agent", "starferry")
	if h.copy.ETag != "" {
		req.Header.Set("If-None-Match", h.copy.ETag)
	}
	if h.copy.LastModified != "" {
		req.Header.Set("If-Modified-Since", h.copy.LastModified)
	}
	client := f.client()
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close() // only read from
	switch {
	case resp.StatusCode == http.StatusNotModified && h.copy.have():
		return answer{record: h.copy}, nil
	case resp.StatusCode != http.StatusOK:
		return answer{wait: retryAfter(resp)}, fmt.Errorf("%s answers %s", req.URL.Host, resp.Status)
	}
	return f.save(ctx, resp, &flow{resp.Body, silence}, h)
}

// errSilent is what is wrong with a publisher that keeps us waiting for the rest.
var errSilent = fmt.Errorf("nothing more came for %v", toAnswer)

// A flow reads a text. If nothing comes of it for too long silence ends that.
type flow struct {
	io.Reader
	silence *time.Timer
}

func (f *flow) Read(b []byte) (int, error) {
	f.silence.Reset(toAnswer)
	defer f.silence.Stop()
	return f.Reader.Read(b)
}

// retryAfter returns how long the publisher asks to wait (RFC 9110, section 10.2.3).
func retryAfter(resp *http.Response) time.Duration {
	text := resp.Header.Get("Retry-After")
	if s, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(s) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

// save writes what comes to a file.
func (f *Fetcher) save(ctx context.Context, resp *http.Response, text io.Reader, h *held) (answer, error) {
	if err := os.MkdirAll(f.cfg.Dir, 0o700); err != nil {
		return answer{}, fmt.Errorf("making a folder for lists: %w", err)
	}
	out, err := os.CreateTemp(f.cfg.Dir, "*"+asComing) // mode 0600
	if err != nil {
		return answer{}, fmt.Errorf("keeping the list: %w", err)
	}
	sum := sha256.New()
	head := new(bytes.Buffer)
	n, err := io.Copy(io.MultiWriter(out, sum, &first{head, sniffed}), io.LimitReader(text, f.cfg.MaxSize+1))
	if why := context.Cause(ctx); why != nil { // a publisher may end the text in good order when it sees us go
		err = why
	}
	if err = closed(out, err); err == nil {
		err = f.judge(resp, h, n, head.Bytes())
	}
	if err != nil {
		os.Remove(out.Name()) // which is of no use
		return answer{}, err
	}
	got := answer{file: out.Name(), size: n, record: record{
		URL:          h.url,
		ETag:         resp.Header.Get("ETag"),
		LastModified: resp.Header.Get("Last-Modified"),
		Sum:          hex.EncodeToString(sum.Sum(nil)),
		Counts:       h.copy.Counts,
		Changed:      time.Now(),
	}}
	if got.record.Sum == h.copy.Sum { // a publisher that does not tell what is new
		os.Remove(got.file)
		got.file, got.record.Changed = "", h.copy.Changed
	}
	return got, nil
}

// judge says why a whole answer is no list.
func (f *Fetcher) judge(resp *http.Response, h *held, size int64, head []byte) error {
	switch typ := http.DetectContentType(head); {
	case size > f.cfg.MaxSize:
		return refusal{fmt.Errorf("more than %d bytes", f.cfg.MaxSize)}
	case resp.ContentLength >= 0 && !resp.Uncompressed && size != resp.ContentLength:
		return io.ErrUnexpectedEOF
	case slices.ContainsFunc(h.lists, func(d policy.Download) bool { return d.Source.Format == "mmdb" }):
		return nil
	case strings.HasPrefix(typ, "text/html"):
		return refusal{errors.New("a page (HTML) in place of a list")}
	case bytes.IndexByte(head, 0) >= 0 || strings.HasPrefix(typ, "application/") && typ != "application/octet-stream":
		return refusal{fmt.Errorf("no text in place of a list, but %s", typ)}
	}
	return nil
}

// first keeps the first bytes of what is written to it.
type first struct {
	to   *bytes.Buffer
	left int
}

func (f *first) Write(b []byte) (int, error) {
	n := min(len(b), f.left)
	f.to.Write(b[:n])
	f.left -= n
	return len(b), nil
}
