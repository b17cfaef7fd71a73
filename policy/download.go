package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/starferry/starferry/internal/yamlpos"
	"github.com/starferry/starferry/policy/list"
)

// A Download is a list that is kept on another machine. [Parse] opens it by its
// URL, like files by their paths; fetching it is up to who opens.
type Download struct {
	Source    list.Source
	URL       string
	Refresh   time.Duration // how often to look for a newer one
	Sum       *list.Sum     // nil: any text is taken
	MaxShrink int           // percent of the entries that a newer one may lack
	At        yamlpos.Pos
}

// Downloads returns the lists of a policy file, and of those that it includes,
// that are kept on other machines, so that they can be fetched before the file
// is parsed. open opens the included files. Of mistakes it reports those in lists.
func Downloads(name string, src []byte, open func(path string) (io.ReadCloser, error)) ([]Download, error) {
	c := &compiler{
		open: open, hash: sha256.New(), lists: map[string]*namedList{}, policy: &Policy{},
		defined: defined{places: map[string]yamlpos.Pos{}},
	}
	c.file.name = name
	if err := c.gather(include{path: name}, name, src); err != nil {
		return nil, err
	}
	for _, root := range c.file.roots {
		c.mergeLists(root.Map("lists"))
	}
	if err := c.file.err(); err != nil {
		return nil, err
	}
	var out []Download
	for _, l := range c.listsInOrder() {
		if l.download != nil {
			l.download.Source = l.src
			out = append(out, *l.download)
		}
	}
	return out, nil
}

// ErrNotHere is wrapped by the error of an opener that has no copy of a list and
// wants the policy to be read all the same: for those who only look, on a machine
// that need not be the node's own. Nothing is in the list then, and a warning says so.
var ErrNotHere = errors.New("is not here")

// The defaults and bounds of downloads.
const (
	defaultRefresh = 6 * time.Hour
	leastRefresh   = time.Minute
	defaultShrink  = 50
)

// readPlace reads where a list lies.
func (l *namedList) readPlace(def *yamlpos.Map) {
	file, from := def.Node("file"), def.Node("url")
	switch {
	case file != nil && from != nil:
		from.Errorf("leave one of them out", "a list has a file or a url")
	case file != nil:
		l.at = file.Pos()
		l.info.File = yamlpos.Value(file, "", filePath)
	case from != nil:
		l.at = from.Pos()
		l.info.File = yamlpos.Value(from, "", httpsURL)
		l.download = &Download{URL: l.info.File, At: from.Pos()}
	default:
		def.Require("file")
	}
	l.readDownload(def)
}

// readDownload reads how a newer text is judged, and the keys that only a list
// with a URL has. A file may shrink as it likes unless something is said.
func (l *namedList) readDownload(def *yamlpos.Map) {
	d := l.download
	if d == nil {
		l.info.MaxShrink = yamlpos.Read(def, "max_shrink", 100, shareOf)
		for _, key := range []string{"refresh", "sha256"} {
			if n := def.Node(key); n != nil {
				n.Errorf("files are read when the policy is", "%s is for lists with a url", key)
			}
		}
		return
	}
	d.Refresh = yamlpos.Read(def, "refresh", defaultRefresh, refreshEvery)
	d.Sum = yamlpos.Read(def, "sha256", nil, textSum)
	d.MaxShrink = yamlpos.Read(def, "max_shrink", defaultShrink, shareOf)
	l.info.MaxShrink = d.MaxShrink
}

// Shrunk returns what is wrong with a newer text that has so many entries, in place
// of one with the old ones: of these it may lack most percent.
func Shrunk(old, entries, most int) error {
	if (old-entries)*100 <= old*most {
		return nil
	}
	return fmt.Errorf("shrank from %d entries to %d, by more than %d%%: if that is right raise max_shrink", old, entries, most)
}

// filePath keeps files apart from URLs, by which others are opened.
func filePath(s string) (string, error) {
	if list.IsURL(s) {
		return "", yamlpos.Hint(fmt.Errorf("%q is no path", s), "url: "+s)
	}
	return yamlpos.Word(s)
}

func httpsURL(s string) (string, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "":
		return "", fmt.Errorf("%q is no URL", s)
	case u.Scheme != "https":
		return "", yamlpos.Hint(fmt.Errorf("%q is not https", s), "anybody on the way could change the list")
	case u.User != nil || u.Fragment != "":
		return "", fmt.Errorf("%q has a user or a fragment", s)
	}
	return s, nil
}

func refreshEvery(s string) (time.Duration, error) {
	d, err := yamlpos.Duration(s)
	if err == nil && d < leastRefresh {
		return 0, fmt.Errorf("%q is less than %v", s, leastRefresh)
	}
	return d, err
}

func textSum(s string) (*list.Sum, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(list.Sum{}) {
		return nil, yamlpos.Hint(fmt.Errorf("%q is no SHA-256 sum", s), "64 hexadecimal digits, as sha256sum prints them")
	}
	return (*list.Sum)(b), nil
}

func shareOf(s string) (int, error) {
	digits, ok := strings.CutSuffix(s, "%")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || n < 0 || n > 100 {
		return 0, fmt.Errorf("%q is no share from 0%% to 100%%", s)
	}
	return n, nil
}
