package querylog

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// A ModeKind says which questions are wanted.
type ModeKind uint8

// The kinds. What is not said is all.
const (
	All    ModeKind = iota
	Blocks          // those that did not get what they asked for
	Sample          // one in N
	Nothing
)

// A Mode says which questions that a policy decided are to be remembered.
type Mode struct {
	Kind ModeKind
	N    uint32 // of Sample, at least 1
}

// ParseMode reads all, blocks, none, or sample(100) for one question in 100.
func ParseMode(s string) (Mode, error) {
	switch s {
	case "all":
		return Mode{Kind: All}, nil
	case "blocks":
		return Mode{Kind: Blocks}, nil
	case "none":
		return Mode{Kind: Nothing}, nil
	}
	digits, ok := strings.CutPrefix(s, "sample(")
	if digits, ok = cutSuffix(digits, ")", ok); ok {
		if n, err := strconv.ParseUint(digits, 10, 32); err == nil && n > 0 {
			return Mode{Kind: Sample, N: uint32(n)}, nil
		}
		return Mode{}, fmt.Errorf("%q is no number of questions from 1 to 4294967295", digits)
	}
	return Mode{}, fmt.Errorf("%q is none of all, blocks, sample(N), none", s)
}

func cutSuffix(s, suffix string, before bool) (string, bool) {
	rest, ok := strings.CutSuffix(s, suffix)
	return rest, ok && before
}

// String writes the mode as [ParseMode] reads it.
func (m Mode) String() string {
	switch m.Kind {
	case All:
		return "all"
	case Blocks:
		return "blocks"
	case Sample:
		return "sample(" + strconv.FormatUint(uint64(m.N), 10) + ")"
	default:
		return "none"
	}
}

// Wants reports whether to remember a question. Samples are drawn at random
// rather than counted off, since clients ask in patterns that a count could
// fall in step with.
func (m Mode) Wants(blocked bool) bool {
	switch m.Kind {
	case All:
		return true
	case Blocks:
		return blocked
	case Sample:
		return m.N <= 1 || rand.Uint32N(m.N) == 0
	default:
		return false
	}
}
