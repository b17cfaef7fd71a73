package match

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// unicodeNames turns names in other scripts into A-labels (RFC 5891), mapping
// case and width first as browsers do (UTS 46, nontransitional).
var unicodeNames = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.BidiRule())

// Clean returns a name as the rest of the house holds it: lower case, without
// the final dot, A-labels for other scripts. It refuses what is no host name:
// labels of letters, digits, hyphens and underscores, each of at most 63
// bytes, at most 253 in all (RFC 1035, section 2.3.4; underscores by RFC 8552).
func Clean(name string) (string, error) {
	out := strings.TrimSuffix(name, ".")
	if !isASCII(out) {
		if !utf8.ValidString(out) {
			return "", fmt.Errorf("%q is no name: it is not UTF-8", name)
		}
		ascii, err := unicodeNames.ToASCII(out)
		if err != nil {
			return "", fmt.Errorf("%q is no name: %w", name, err)
		}
		out = strings.TrimSuffix(ascii, ".")
	}
	out = strings.ToLower(out)
	if err := checkName(out); err != nil {
		return "", fmt.Errorf("%q is no name: %w", name, err)
	}
	return out, nil
}

// The bounds of RFC 1035, section 2.3.4, for names as they are written.
const (
	maxName  = 253
	maxLabel = 63
)

// Labels counts the labels of a name.
func Labels(name string) int {
	if name == "" {
		return 0
	}
	return 1 + strings.Count(name, ".")
}

func checkName(name string) error {
	if len(name) > maxName {
		return fmt.Errorf("%d bytes, more than %d", len(name), maxName)
	}
	label := 0
	for i := range len(name) {
		switch c := name[i]; {
		case c == '.':
			if label == 0 {
				return errors.New("an empty label")
			}
			label = 0
		case inLabel(c):
			if label++; label > maxLabel {
				return fmt.Errorf("a label of more than %d bytes", maxLabel)
			}
		default:
			return fmt.Errorf("it holds %q", c)
		}
	}
	if label == 0 {
		return errors.New("an empty label")
	}
	return nil
}

// inLabel reports whether the byte may be in a label of a clean name.
func inLabel(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
