package policy

// A Truth is the set of values that a condition can still have. One that has
// been settled is exactly one of [No], [Unknown] and [Yes]; one that waits for
// the answer is several of them.
type Truth uint8

// The truth values.
const (
	No Truth = 1 << iota
	Unknown
	Yes

	open = No | Unknown | Yes
)

func (t Truth) String() string {
	switch t {
	case No:
		return "no"
	case Unknown:
		return "unknown"
	case Yes:
		return "yes"
	default:
		return "open"
	}
}

func truth(b bool) Truth {
	if b {
		return Yes
	}
	return No
}

// and is the lesser of two values, for each pair that is possible.
func (t Truth) and(u Truth) Truth {
	r := (t|u)&No | t&u&Yes
	if t&Unknown != 0 && u&(Unknown|Yes) != 0 || u&Unknown != 0 && t&Yes != 0 {
		r |= Unknown
	}
	return r
}

// or is the greater of two values, for each pair that is possible.
func (t Truth) or(u Truth) Truth { return t.not().and(u.not()).not() }

func (t Truth) not() Truth { return t&Unknown | t&No<<2 | t&Yes>>2 }
