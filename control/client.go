package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrNobody is the error of a [Client] at whose socket no process answers.
var ErrNobody = errors.New("no node answers")

// Client asks the node whose control socket is at this path.
type Client string

const (
	askTimeout = 60 * time.Second // a reload reads lists of millions of names
	maxAnswer  = 16 << 20
)

// Status asks how the node is.
func (c Client) Status(ctx context.Context) (*Status, error) {
	b, err := c.call(ctx, http.MethodGet, "/status", nil)
	if err != nil {
		return nil, err
	}
	var s Status
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("reading the answer of %s: %w", string(c), err)
	}
	return &s, nil
}

// Explain asks what would happen to a name, or to a flow, and returns the node's text, or
// its JSON.
func (c Client) Explain(ctx context.Context, q Question, asJSON bool) (string, error) {
	args := q.arguments()
	if asJSON {
		args.Set("form", "json")
	}
	b, err := c.call(ctx, http.MethodGet, "/explain", args)
	return string(b), err
}

// Reload has the node read its files anew. An error says why it did not take
// them.
func (c Client) Reload(ctx context.Context) (*Reloaded, error) {
	b, err := c.call(ctx, http.MethodPost, "/reload", nil)
	if err != nil {
		return nil, err
	}
	var r Reloaded
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("reading the answer of %s: %w", string(c), err)
	}
	return &r, nil
}

// Flush has the node forget cached answers: of all names if there is none
// given, of one, or with suffix of one and all under it. It returns how many
// these were.
func (c Client) Flush(ctx context.Context, name string, suffix bool) (int, error) {
	b, err := c.call(ctx, http.MethodPost, "/flush", url.Values{"name": {name}, "suffix": {strconv.FormatBool(suffix)}})
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(b))
}

// Query has the node answer a question as that of a device, and returns the
// answer as text.
func (c Client) Query(ctx context.Context, q Question) (string, error) {
	b, err := c.call(ctx, http.MethodPost, "/query", q.arguments())
	return string(b), err
}

// Do has the program do what it offers under the word.
func (c Client) Do(ctx context.Context, word string, args url.Values) (string, error) {
	b, err := c.call(ctx, http.MethodPost, "/do/"+url.PathEscape(word), args)
	return string(b), err
}

func (c Client) call(ctx context.Context, method, path string, args url.Values) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	u := url.URL{Scheme: "http", Host: "unix", Path: path, RawQuery: args.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", string(c))
	}}
	defer t.CloseIdleConnections()
	res, err := t.RoundTrip(req)
	if err != nil {
		return nil, c.explain(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	switch {
	case err != nil:
		return nil, fmt.Errorf("asking %s: %w", string(c), err)
	case res.StatusCode == http.StatusNotFound || res.StatusCode == http.StatusMethodNotAllowed:
		return nil, fmt.Errorf("the process at %s cannot be asked that", string(c))
	case res.StatusCode != http.StatusOK:
		return nil, errors.New(strings.TrimSpace(string(b)))
	}
	return b, nil
}

// explain says of the usual failures what they mean.
func (c Client) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w at %s", ErrNobody, string(c))
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s may be opened only by the user that runs the node", string(c))
	}
	return fmt.Errorf("asking %s: %w", string(c), err)
}
