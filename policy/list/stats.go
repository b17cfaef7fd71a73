package list

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// maxShown is how many bad lines are kept to be shown, maxWide how many wide
// entries: each of those is a domain that somebody may have to think of.
const (
	maxShown = 5
	maxWide  = 60
)

// Stats is what was found in a list.
type Stats struct {
	Entries  int      // entries taken
	Also     int      // those of the answers that are taken as names too, of a list that is read as both
	Bad      int      // entries and lines left out
	BadLines []Place  // the first few of those that could not be read
	Unsaid   int      // those of Bad that could be read, and say what a set cannot
	Wide     int      // entries that cover a whole top-level domain, or less than MinLabels allows
	WideOnes []string // the first few of them
	WideOut  int      // exceptions so wide, which take out whatever is under them
	WideOuts []string // the first few of them
	Aside    int      // rules of a zone for networks, by the trigger that is not selected

	name   string
	line   int  // that is being read
	passed int  // entries that were read and are not selected
	left   bool // the wide ones were left out
	unsaid []unsaid
}

// A Place is a line of a list with what is wrong with it.
type Place struct {
	File string // that the list includes; empty for the list itself
	Line int
	Text string // the beginning of the line
	Why  string
}

// Warnings says what the operator should know of the list, a sentence each.
func (s Stats) Warnings() []string {
	var out []string
	done, todo := "taken", "set min_labels: 2 to leave them out, or name those that are meant in except"
	if s.left {
		done, todo = "left out", "name those that are meant in except"
	}
	if s.WideOut > 0 {
		so := done
		if !s.left {
			so = "taken, so that the list has nothing under them"
		}
		out = append(out, fmt.Sprintf("list %s: exceptions as wide as a top-level domain, %s: %d (%s); %s", s.name, so, s.WideOut, some(s.WideOuts, s.WideOut), todo))
	}
	if s.Wide > 0 {
		out = append(out, fmt.Sprintf("list %s: entries as wide as a top-level domain, %s: %d (%s); %s", s.name, done, s.Wide, some(s.WideOnes, s.Wide), todo))
	}
	if s.Entries == 0 && s.passed > 0 {
		out = append(out, fmt.Sprintf("list %s: nothing of it is selected, of %d entries", s.name, s.passed))
	}
	if s.Unsaid > 0 {
		var shown []string
		for _, u := range s.unsaid {
			shown = append(shown, fmt.Sprintf("%s: %d, first in %s", string(u.what), u.times, u.first))
		}
		out = append(out, fmt.Sprintf("list %s: entries that are not supported, left out: %d (%s)", s.name, s.Unsaid, some(shown, len(shown))))
	}
	if bad := s.Bad - s.Unsaid; bad > 0 {
		var shown []string
		for _, p := range s.BadLines {
			shown = append(shown, fmt.Sprintf("%s: %s", p, p.Why))
		}
		out = append(out, fmt.Sprintf("list %s: entries that cannot be read, left out: %d (%s)", s.name, bad, some(shown, bad)))
	}
	return out
}

// Twice returns what was found in a zone that was read twice, as names (s) and
// for what it answers with: what both found counts once. An action that no names
// are made of is none that is left out where answers are.
func (s Stats) Twice(answers Stats) Stats {
	out := s
	out.Entries += answers.Entries - answers.Also
	if answers.Wide > out.Wide {
		out.Wide, out.WideOnes = answers.Wide, answers.WideOnes
	}
	broken := s.Bad - s.Unsaid
	if more := answers.Bad - answers.Unsaid; more > broken {
		broken, out.BadLines = more, answers.BadLines
	}
	out.unsaid, out.Unsaid = nil, 0
	for _, u := range slices.Concat(s.unsaid, answers.unsaid) {
		if u.what == notSelected("local") || u.what == notSelected("cname") {
			continue
		}
		i := slices.IndexFunc(out.unsaid, func(o unsaid) bool { return o.what == u.what })
		if i < 0 {
			out.unsaid = append(out.unsaid, u)
			continue
		}
		out.unsaid[i].times = max(out.unsaid[i].times, u.times)
	}
	for _, u := range out.unsaid {
		out.Unsaid += u.times
	}
	out.Bad = broken + out.Unsaid
	return out
}

// String says where it is.
func (p Place) String() string {
	if p.File != "" {
		return fmt.Sprintf("%s, line %d", p.File, p.Line)
	}
	return fmt.Sprintf("line %d", p.Line)
}

// A beyond is what is wrong with an entry that was understood, but says what a
// set cannot: its words are few, so that such entries can be counted by them.
type beyond string

func (b beyond) Error() string { return string(b) + " is not supported" }

// A placed is what is wrong with a line before the one that is read.
type placed struct {
	line int
	text string
	err  error
}

func (p *placed) Error() string { return p.err.Error() }
func (p *placed) Unwrap() error { return p.err }

// An unsaid tells how often entries were beyond a set for the same reason.
type unsaid struct {
	what  beyond
	times int
	first Place
}

// maxReasons bounds of how many kinds such entries are told apart.
const maxReasons = 20

// count notes what is wrong with a line, which can hold several entries.
func (s *Stats) count(err error, at Place) {
	for _, e := range split(err) {
		s.Bad++
		at := at
		var where *placed
		if errors.As(e, &where) && where.line > 0 {
			at.Line, at.Text, e = where.line, where.text, where.err
		}
		var what beyond
		if errors.As(e, &what) {
			s.countUnsaid(what, at)
		} else if len(s.BadLines) < maxShown {
			at.Why = e.Error()
			s.BadLines = append(s.BadLines, at)
		}
	}
}

func (s *Stats) countUnsaid(what beyond, at Place) {
	s.Unsaid++
	for i := range s.unsaid {
		if u := &s.unsaid[i]; u.what == what || i == maxReasons {
			u.times++
			return
		}
	}
	if len(s.unsaid) == maxReasons {
		what = "something else"
	}
	s.unsaid = append(s.unsaid, unsaid{what, 1, at})
}

func some(shown []string, of int) string {
	text := strings.Join(shown, ", ")
	if of > len(shown) {
		text += ", ..."
	}
	return text
}

// split returns the errors of one line; a line can hold several entries.
func split(err error) []error {
	if err == nil {
		return nil
	}
	var several interface{ Unwrap() []error }
	if errors.As(err, &several) {
		return several.Unwrap()
	}
	return []error{err}
}

func clip[T string | []byte](text T) string {
	const most = 80
	s := string(text[:min(len(text), most)])
	if len(text) > most {
		s += "..."
	}
	return strings.ToValidUTF8(s, "\ufffd")
}
