package posture

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxReport = 256 << 10 // bytes; a long list of installed programs takes some 50 KiB
	maxDepth  = 16
)

// A Report is what a device says of itself: a JSON object. Values are as
// encoding/json decodes them, with numbers as [json.Number].
type Report map[string]any

// ParseReport reads a report: one JSON object of at most 256 KiB, nested at
// most 16 deep.
func ParseReport(b []byte) (Report, error) {
	if len(b) > maxReport {
		return nil, fmt.Errorf("reading posture report: %d bytes, more than %d", len(b), maxReport)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var r Report
	if err := dec.Decode(&r); err != nil {
		return nil, fmt.Errorf("reading posture report: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("reading posture report: something follows the object")
	}
	if r == nil {
		return nil, errors.New("reading posture report: want an object, got null")
	}
	if deeper(map[string]any(r), maxDepth) {
		return nil, fmt.Errorf("reading posture report: nested more than %d deep", maxDepth)
	}
	return r, nil
}

// deeper reports whether v nests more than n objects and lists.
func deeper(v any, n int) bool {
	switch v := v.(type) {
	case map[string]any:
		for _, e := range v {
			if n == 0 || deeper(e, n-1) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, func(e any) bool { return n == 0 || deeper(e, n-1) })
	}
	return false
}

// Field returns the value at a dotted path, and whether there is one; null is
// none. A key that holds dots itself is found too.
func (r Report) Field(path string) (any, bool) {
	return field(map[string]any(r), path)
}

func field(m map[string]any, path string) (any, bool) {
	if v, ok := m[path]; ok && v != nil {
		return v, true
	}
	for i := range len(path) {
		if path[i] != '.' {
			continue
		}
		if sub, ok := m[path[:i]].(map[string]any); ok {
			if v, ok := field(sub, path[i+1:]); ok {
				return v, true
			}
		}
	}
	return nil, false
}

// text returns a scalar as text.
func text(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		return onOff(v), true
	}
	return "", false
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// truth reads a value as on or off.
func truth(v any) (on, ok bool) {
	switch v := v.(type) {
	case bool:
		return v, true
	case string:
		switch strings.ToLower(strings.TrimSpace(v)) {
		case "on", "true", "yes", "enabled", "active":
			return true, true
		case "off", "false", "no", "disabled", "inactive":
			return false, true
		}
	}
	return false, false
}

// members returns the names that a value holds: of a list its members (of
// objects in it their "name"), of an object its keys, of a scalar itself.
func members(v any) ([]string, bool) {
	var out []string
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			if m, ok := e.(map[string]any); ok {
				e = m["name"]
			}
			s, ok := text(e)
			if !ok {
				return nil, false
			}
			out = append(out, s)
		}
		return out, true
	case map[string]any:
		for k := range v {
			out = append(out, k)
		}
		slices.Sort(out)
		return out, true
	}
	s, ok := text(v)
	return []string{s}, ok
}

// show puts a value of a report into a sentence. Reports come from devices, so
// that nothing in them may be long or odd.
func show(v any) string {
	s, ok := text(v)
	switch {
	case !ok:
		if list, ok := v.([]any); ok {
			return "a list of " + strconv.Itoa(len(list))
		}
		return "an object"
	case s == "":
		return "nothing"
	}
	return quote(s)
}

const maxShown = 60 // characters

// quote shortens a text and quotes it unless it is a plain word.
func quote(s string) string {
	if utf8.RuneCountInString(s) > maxShown {
		s = string([]rune(s)[:maxShown]) + "…"
	}
	plain := func(r rune) bool {
		return unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("._-/+…", r)
	}
	if strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) >= 0 {
		return strconv.Quote(s)
	}
	return s
}
