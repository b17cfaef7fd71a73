// Package control is how a running node is talked to on its own machine: HTTP
// over a unix socket that only its owner may open.
//
// [Serve] answers these questions with the functions of [Handlers], and
// [Client] asks them:
//
//	GET  /status                          a [Status] in JSON
//	GET  /explain?name=&device=&type=     text, or JSON with &form=json; of a flow with &flow=tcp/443
//	POST /reload                          reads the files anew, and answers with a [Reloaded] in JSON; an error leaves the old in force
//	POST /flush?name=&suffix=true         forgets cached answers: of all names, of one, or of one and all under it
//	POST /query?name=&device=&type=       asks the node as a device would; text
//	POST /do/WORD?...                     what else a program offers, by [Handlers].Do
//
// The socket is the authentication: its mode is 0600 from the moment that it
// exists, and who can open it may do all of this. An answer other than 200 has
// the error as text.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/starferry/starferry/resolver/replay"
)

// Handlers are what a node can be asked. One that is nil is answered with 404.
type Handlers struct {
	Status  func() *Status
	Explain func(ctx context.Context, q Question) (text string, value any, err error)
	Reload  func(ctx context.Context) (*Reloaded, error)
	Flush   func(name string, suffix bool) (int, error)
	Query   func(ctx context.Context, q Question) (text string, err error)
	Do      map[string]func(ctx context.Context, args url.Values) (text string, err error)
	Log     *slog.Logger // of what goes wrong in serving; nil: none
}

// Reloaded says what came of a reload that was taken.
type Reloaded struct {
	Version string `json:"version"`        // of the policy in force
	Same    bool   `json:"same,omitempty"` // that is the one before, with its lists
	// Changes is what the new policy makes of recent questions; nil where nothing
	// is known of those: at an egress, and without a query log in a file.
	Changes *replay.Difference `json:"changes,omitempty"`
}

// A Question asks what would happen to a name.
type Question struct {
	Name   string
	Device string // may be empty: nobody that is known
	Type   string // DNS type; empty: A
	Flow   string // to explain a flow to the name, or to an address: what it wants to reach, tcp/443; empty: the question
}

// questionOf reads what a [Client] has written by arguments.
func questionOf(args url.Values) Question {
	return Question{Name: args.Get("name"), Device: args.Get("device"), Type: args.Get("type"), Flow: args.Get("flow")}
}

func (q *Question) arguments() url.Values {
	return url.Values{"name": {q.Name}, "device": {q.Device}, "type": {q.Type}, "flow": {q.Flow}}
}

// grace is how long requests may still take after the context is done.
const grace = 2 * time.Second

// Serve answers at the socket until ctx is done. The folder of the socket is
// made if it is not there. A socket that a dead process has left is replaced;
// one at which another process answers is an error.
func Serve(ctx context.Context, path string, h Handlers) error {
	l, err := listen(ctx, path)
	if err != nil {
		return fmt.Errorf("opening control socket: %w", err)
	}
	srv := &http.Server{
		Handler:           h.mux(),
		ReadHeaderTimeout: 5 * time.Second,
		MaxHeaderBytes:    1 << 16,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	if h.Log != nil {
		srv.ErrorLog = slog.NewLogLogger(h.Log.Handler(), slog.LevelError)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-ctx.Done()
		shutdown(srv)
	}()
	if err := srv.Serve(l); ctx.Err() == nil {
		return fmt.Errorf("serving %s: %w", path, err)
	}
	<-done
	return nil
}

func shutdown(srv *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if srv.Shutdown(ctx) != nil {
		srv.Close()
	}
}

// listen opens the socket. Two processes that start at once take turns by a
// lock on the folder, or the second could remove what the first has just made.
func listen(ctx context.Context, path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil {
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	if err := clear(path); err != nil {
		return nil, err
	}
	// Linux gives the socket's file the mode that the descriptor has when it
	// is bound: there is no moment at which others could open it.
	private := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		if e := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) }); e != nil {
			return e
		}
		return err
	}}
	l, err := private.Listen(ctx, "unix", path)
	if errors.Is(err, syscall.EINVAL) {
		return nil, fmt.Errorf("%w (the path may have 107 bytes, it has %d)", err, len(path))
	} else if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// clear removes a socket at which nobody answers any more.
func clear(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if st.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is there and is no socket", path)
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
		return fmt.Errorf("another process answers at %s", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

func (h Handlers) mux() http.Handler {
	mux := http.NewServeMux()
	if h.Status != nil {
		mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, h.Status()) })
	}
	if h.Explain != nil {
		mux.HandleFunc("GET /explain", h.explain)
	}
	if h.Reload != nil {
		mux.HandleFunc("POST /reload", func(w http.ResponseWriter, r *http.Request) {
			done, err := h.Reload(r.Context())
			if err != nil {
				writeText(w, "", err)
				return
			}
			writeJSON(w, done)
		})
	}
	if h.Flush != nil {
		mux.HandleFunc("POST /flush", func(w http.ResponseWriter, r *http.Request) {
			n, err := h.Flush(r.URL.Query().Get("name"), r.URL.Query().Get("suffix") == "true")
			writeText(w, strconv.Itoa(n), err)
		})
	}
	if h.Query != nil {
		mux.HandleFunc("POST /query", func(w http.ResponseWriter, r *http.Request) {
			text, err := h.Query(r.Context(), questionOf(r.URL.Query()))
			writeText(w, text, err)
		})
	}
	for word, do := range h.Do {
		mux.HandleFunc("POST /do/"+word, func(w http.ResponseWriter, r *http.Request) {
			text, err := do(r.Context(), r.URL.Query())
			writeText(w, text, err)
		})
	}
	return mux
}

func (h Handlers) explain(w http.ResponseWriter, r *http.Request) {
	args := r.URL.Query()
	text, value, err := h.Explain(r.Context(), questionOf(args))
	if err == nil && args.Get("form") == "json" {
		writeJSON(w, value)
		return
	}
	writeText(w, text, err)
}

func writeJSON(w http.ResponseWriter, v any) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		writeText(w, "", err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(append(b, '\n'))
}

func writeText(w http.ResponseWriter, text string, err error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if err != nil {
		w.WriteHeader(http.StatusUnprocessableEntity)
		text = err.Error()
	}
	w.Write([]byte(text))
}
