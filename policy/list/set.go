package list

import (
	"fmt"

	"github.com/starferry/starferry/policy/match"
)

// A Set is what a list says of names. Nearly all lists say the same of a name
// whoever asks for it and for whatever type: for them Names is all.
type Set struct {
	*match.Names // what the list has, whoever asks

	// Rules are all rules of a list, those that are for everybody first, where
	// some are only for some questions or some who ask; else nil. Of those that
	// cover a name and are for the question, an important exception counts for
	// most, then an important rule, then an exception.
	Rules []Rules
}

// Rules are those rules of a list that have the same modifiers.
type Rules struct {
	Names              *match.Names
	Excepts, Important bool
	Scope

	lines map[string]int // by what is covered; not of all
}

// What rules do, and how much it counts.
const (
	blocking = iota
	excepting
	important
	exceptingMost
	classes
)

func classOf(excepts, isImportant bool) int {
	switch {
	case excepts && isImportant:
		return exceptingMost
	case isImportant:
		return important
	case excepts:
		return excepting
	}
	return blocking
}

// forAll makes the rules that are for everybody; those that block are there also
// if there are none.
func forAll(of [classes]*match.Names) (out []Rules) {
	for class, names := range of {
		if class == blocking || names.Len() > 0 {
			out = append(out, Rules{Names: names, Excepts: class == excepting || class == exceptingMost, Important: class >= important})
		}
	}
	return out
}

// String writes the rule that covers a name as the list does, with the line in
// which it stands where that is known.
func (r *Rules) String(m match.Match) string {
	key, text := m.Name, ""
	switch {
	case m.Kind == 0: // a regular expression
		key = m.String()
		text = key
	case m.Kind&match.Tree == match.Tree:
		text = "||" + m.Name + "^"
	case m.Kind&match.Under != 0:
		text = "||*." + m.Name + "^"
	default:
		text = "|" + m.Name + "^"
	}
	if r.Excepts {
		text = "@@" + text
	}
	mods := r.Scope.String()
	if r.Important && mods != "" {
		mods += ","
	}
	if r.Important {
		mods += "important"
	}
	if mods != "" {
		text += "$" + mods
	}
	if line := r.lines[key]; line > 0 {
		text = fmt.Sprintf("%s in line %d", text, line)
	}
	return text
}

// counts reports whether an entry is in the set, for somebody at least, and not
// taken out for all that it covers.
func (s *Set) counts(m match.Match) bool {
	for _, name := range []string{m.Name, "some-label." + m.Name, "some-label.some-label." + m.Name} {
		if in, ok := s.Lookup(name); ok && in.Name == m.Name && in.Kind&m.Kind != 0 || s.countsForSome(name, m) {
			return true
		}
	}
	return false
}

// countsForSome reports whether a rule with this entry covers a name, and none
// that is for all excepts it.
func (s *Set) countsForSome(name string, m match.Match) bool {
	var excepted, exceptedMost, in, inImportant bool
	for i := range s.Rules {
		r := &s.Rules[i]
		of, ok := r.Names.Lookup(name)
		switch {
		case !ok:
		case r.Excepts && r.Scope.Empty():
			excepted, exceptedMost = excepted || !r.Important, exceptedMost || r.Important
		case !r.Excepts && of.Name == m.Name && of.Kind&m.Kind != 0:
			in, inImportant = in || !r.Important, inImportant || r.Important
		}
	}
	return !exceptedMost && (inImportant || in && !excepted)
}
