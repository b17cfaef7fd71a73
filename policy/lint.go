package policy

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/starferry/starferry/internal/yamlpos"
	"github.com/starferry/starferry/policy/match"
)

// A Flaw is a kind of finding.
type Flaw string

// The flaws that are looked for.
const (
	AlwaysTrue     Flaw = "always true"
	NeverTrue      Flaw = "never true"
	AnyNegations   Flaw = "any of negations"
	AllOfLists     Flaw = "all of lists"
	Shadowed       Flaw = "shadowed"
	BelowAnswer    Flaw = "below an answer"
	Unasked        Flaw = "not asked"
	DeadBranch     Flaw = "dead branch"
	UseContradicts Flaw = "use contradicted"
)

// A Finding is something in the file that works, and hardly as it is meant.
type Finding struct {
	At      yamlpos.Pos
	Policy  string
	Flaw    Flaw
	Msg     string
	Hint    string // what to do
	Example string // a question that shows it, and what becomes of it

	Query Query    // the question of Example
	By    []string // of what is shadowed: the policies that decide in its place
}

// String is the finding in three lines.
func (f *Finding) String() string {
	s := fmt.Sprintf("%v: policy %s: %s", f.At, f.Policy, f.Msg)
	if f.Example != "" {
		s += "\n    example: " + f.Example
	}
	if f.Hint != "" {
		s += "\n    " + f.Hint
	}
	return s
}

// Lint looks for policies that say something else than they seem to. open opens
// the files of lists, as in [Parse]: examples are drawn from them.
//
// What a finding says of all questions is proven over all values that its
// conditions can tell apart; where these are too many, nothing is said. And
// each comes with a question that shows it, by [Policy.Decide]; of what no
// question shows nothing is said either.
func (p *Policy) Lint(open func(path string) (io.ReadCloser, error)) []Finding {
	l := newLinter(open)
	l.prepare(p)
	for i := range l.policy.rules {
		r := &l.policy.rules[i]
		if r.when != nil {
			l.look(i)
		} else if l.shadowed(i); !r.shadow {
			break // nothing below is looked at, which is a warning of its own
		}
	}
	return l.found
}

func newLinter(open func(path string) (io.ReadCloser, error)) *linter {
	return &linter{open: open, now: time.Now(), lists: map[string]*sampled{}, apart: map[[2]*match.Names]bool{}, inside: map[[2]*match.Names]bool{}}
}

// look looks at one policy with conditions.
func (l *linter) look(i int) {
	r := &l.policy.rules[i]
	l.constants(r)
	l.slips(r)
	l.uses(r)
	l.dead(r)
	if !l.never(want{r.when, Yes}) {
		l.shadowed(i)
		l.belowAnswer(i)
		l.unasked(i)
	}
}

// A linter looks at one policy.
type linter struct {
	policy   *Policy // with a country database of invented addresses
	open     func(path string) (io.ReadCloser, error)
	now      time.Time
	lists    map[string]*sampled
	apart    map[[2]*match.Names]bool // pairs of lists of which it is known whether they share a name
	inside   map[[2]*match.Names]bool // and whether all names of the first are in the second
	places   map[netip.Addr]place     // what an invented address stands for
	found    []Finding
	order    map[*Rule]int // the places of the policies
	asking   int           // the place of the first policy that looks at answers
	cost     int           // what it takes to decide a question
	work     int           // that was done for examples
	proven   int           // conditions that were looked at for proofs
	compared int           // names that were looked for in other lists
}

func (l *linter) find(r *Rule, flaw Flaw, q *Query, example, hint, format string, args ...any) {
	l.found = append(l.found, Finding{
		At: r.At, Policy: r.Name, Flaw: flaw, Msg: fmt.Sprintf(format, args...), Hint: hint, Example: example, Query: *q,
	})
}

// constants finds the innermost conditions of a policy that are the same for
// every question.
func (l *linter) constants(r *Rule) { l.constant(r, r.when) }

func (l *linter) constant(r *Rule, c *cond) (found bool) {
	for i := range c.kids {
		if !c.ofRules() {
			found = l.constant(r, &c.kids[i]) || found
		}
	}
	if found {
		return true
	}
	possible, ok := possibilities(l, c)
	switch {
	case !ok:
	case possible&Yes == 0:
		return l.neverTrue(r, c)
	case possible&No == 0:
		return l.alwaysTrue(r, c, possible == Yes)
	}
	return false
}

func (l *linter) alwaysTrue(r *Rule, c *cond, known bool) bool {
	q, ok := l.search([]*Rule{r}, func(q *Query, d *Decision) bool {
		return c.truthFor(l.policy, q) == Yes && l.oneIs(c, q, No) && d.Rule == r
	})
	if !ok {
		q, ok = l.search([]*Rule{r}, func(q *Query, _ *Decision) bool { return c.truthFor(l.policy, q) == Yes && l.oneIs(c, q, No) })
	}
	if !ok {
		return false
	}
	hint := "leave it out if it is meant so"
	if c.op == opAny && c.negations() {
		hint = "nothing is all of them at once; to except them all write not: {any: [...]}, or one not: with a list of values"
	}
	but := ""
	if !known {
		but = " wherever it is known"
	}
	l.find(r, AlwaysTrue, q, l.show(r, q), hint, "always true%s: %s", but, c.phrase())
	return true
}

func (l *linter) neverTrue(r *Rule, c *cond) bool {
	q, ok := l.search([]*Rule{r}, func(q *Query, d *Decision) bool { return l.oneIs(c, q, Yes) && d.Rule != r })
	if !ok {
		q, ok = l.search([]*Rule{r}, func(q *Query, _ *Decision) bool { return c.truthFor(l.policy, q) != Yes })
	}
	if !ok {
		return false
	}
	hint := "nothing is that"
	if c.op == opAll {
		hint = "nothing is all of them at once; if one of them is meant write any: [...], or one condition with a list of values"
	}
	l.find(r, NeverTrue, q, l.show(r, q), hint, "never true: %s", c.phrase())
	return true
}

// oneIs reports whether one of the parts is so for a question; true of what
// has no parts.
func (l *linter) oneIs(c *cond, q *Query, t Truth) bool {
	if len(c.kids) == 0 || c.op == opNot {
		return true
	}
	for i := range c.kids {
		if c.kids[i].truthFor(l.policy, q) == t {
			return true
		}
	}
	return false
}

// negations reports whether all parts are negations.
func (c *cond) negations() bool {
	for i := range c.kids {
		if c.kids[i].op != opNot {
			return false
		}
	}
	return len(c.kids) > 1
}

// phrase says in words what the condition is.
func (c *cond) phrase() string {
	var parts []string
	for i := range c.kids {
		parts = append(parts, c.kids[i].phrase())
	}
	of := strings.Join(parts, ", ")
	switch c.op {
	case opAll:
		return "all of (" + of + ")"
	case opAny:
		return "any of (" + of + ")"
	case opNot:
		return "not (" + of + ")"
	case opPosture:
		return fmt.Sprintf("posture %s %v", c.profile, c.result)
	case opWindow:
		return "time " + c.window.String()
	}
	if word := fieldWords[c.op]; word != "" {
		return word + " " + c.text
	}
	return c.text
}

var fieldWords = map[op]string{
	opName: "name", opRegexp: "name", opCountry: "answer", opContinent: "answer", opASN: "answer", opNetwork: "answer",
	opRecord: "answer", opDevice: "device", opIdentity: "identity", opKind: "evidence", opSource: "source", opType: "type",
	opUser: "user", opPlatform: "platform", opListener: "listener", opTransport: "transport", opSchedule: "schedule",
	opService: "flow", opRoute: "route",
}
