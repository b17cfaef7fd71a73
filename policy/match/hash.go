package match

import (
	"math/bits"
	"math/rand/v2"
	"strings"
)

// An entry is found by a hash of its name: a polynomial over the name's bytes,
// last byte first, at a secret random point of the field of 2⁶¹-1 elements. One
// pass over a name gives the hashes of all its suffixes, and whoever does not
// know the point finds no name that is taken for a listed one but by chance:
// once in 2³¹ questions to a set of a million names at worst.
//
// The coefficients are words of up to seven bytes. A word ends where a label
// begins, and begins with a bit that tells words of zeros apart.
//
// The point is the process's own: it differs in each run, and all sets of a run
// share it, so that the hashes of a name serve for all of them.
var point = 1<<32 + rand.Uint64N(prime-1<<33)

const (
	hashBits = 61
	prime    = 1<<hashBits - 1 // a Mersenne prime: reducing is a shift and an addition

	emptyWord = 1
	fullWord  = 1 << 56 // words from here on are full
)

// step multiplies by the point and adds a word, modulo the prime. To be quick it
// leaves results that are up to 3 above the prime, which whole puts right.
func step(hash, at, word uint64) uint64 {
	hi, lo := bits.Mul64(hash, at)
	h := (lo & prime) + (hi<<3 | lo>>hashBits) + word
	return (h & prime) + h>>hashBits
}

// whole returns the hash of the words that were stepped over. It multiplies by
// the point once more, or the last word, which others choose, would be seen in
// it, and spreads the differences that are left: sets are ordered by hashes.
func whole(hash, at uint64) uint64 {
	h := step(hash, at, 0)
	if h >= prime {
		h -= prime
	}
	h ^= h >> 30
	return h * 0x13c6ef372fe94f83 & prime // 2⁶¹/φ
}

// maxLabels is how many labels a name of 253 bytes can have.
const maxLabels = 127

// keptLabels is of how many labels suffixes are whose hashes are kept. Longer
// ones are hashed when a set is looked through that has entries so long, which
// next to none has: Hashes live on the stack of each decision and have to be
// cleared there first.
const keptLabels = 16

// Hashes are those of all suffixes of a name. They are computed once to look
// the name up in any number of sets.
type Hashes struct {
	name   string
	labels int      // also those that are too many to be in a set
	gone   labelSet // the suffixes of so many labels need not be looked for
	hash   [keptLabels]uint64
}

// Reset makes h the hashes of a name, which is in lower case and has no final
// dot. It allocates nothing.
func (h *Hashes) Reset(name string) { h.reset(name, keptLabels) }

// of returns the hash of the suffix of so many labels, of which the name has
// as many.
func (h *Hashes) of(labels int) uint64 {
	if labels <= keptLabels {
		return h.hash[labels-1]
	}
	k, _ := keyOfASCII(h.suffix(labels)) // in lower case, so that this is the hash
	return k.hash
}

// reset computes the hashes of the suffixes of up to so many labels.
func (h *Hashes) reset(name string, deep int) {
	deep = min(deep, keptLabels)
	h.name, h.labels, h.gone = name, 0, labelSet{}
	if name == "" {
		return
	}
	hash, word, at := uint64(0), uint64(emptyWord), point
	i := len(name) - 1
	for ; i >= 0; i-- {
		if word >= fullWord || name[i] == '.' {
			hash, word = step(hash, at, word), emptyWord
		}
		if name[i] == '.' {
			h.hash[h.labels] = whole(hash, at)
			if h.labels++; h.labels >= deep {
				break
			}
		}
		word = word<<8 | uint64(name[i])
	}
	if i < 0 {
		h.hash[h.labels] = whole(step(hash, at, word), at)
		h.labels++
		return
	}
	h.labels += 1 + strings.Count(name[:i], ".")
}

// suffix returns the last labels of the name.
func (h *Hashes) suffix(labels int) string {
	if labels == h.labels {
		return h.name
	}
	for i := len(h.name) - 1; i >= 0; i-- {
		if h.name[i] != '.' {
			continue
		}
		if labels--; labels == 0 {
			return h.name[i+1:]
		}
	}
	return h.name
}

// A Key stands for a clean name in a set. It is good in this process only.
type Key struct {
	hash   uint64
	labels uint8
}

// Labels returns how many labels the name has.
func (k Key) Labels() int { return int(k.labels) }

// KeyOf returns the key of the name that [Clean] would return, and its error.
// For names in ASCII, be they in upper case or with a final dot, it takes one
// pass and allocates nothing.
func KeyOf[T string | []byte](name T) (Key, error) {
	if k, ok := keyOfASCII(name); ok {
		return k, nil
	}
	clean, err := Clean(string(name))
	if err != nil {
		return Key{}, err
	}
	k, _ := keyOfASCII(clean)
	return k, nil
}

// keyOfASCII does what Clean and checkName do, from the last byte to the first.
func keyOfASCII[T string | []byte](name T) (k Key, ok bool) {
	end := len(name)
	if end > 0 && name[end-1] == '.' {
		end--
	}
	if end > maxName {
		return Key{}, false
	}
	hash, word, at := uint64(0), uint64(emptyWord), point
	label := end // where the label ends
	for i := end - 1; i >= 0; i-- {
		c := folded[name[i]]
		if c == 0 {
			return Key{}, false
		}
		if word >= fullWord || c == '.' {
			hash, word = step(hash, at, word), emptyWord
		}
		if c == '.' {
			if n := label - i - 1; n == 0 || n > maxLabel {
				return Key{}, false
			}
			k.labels++
			label = i
		}
		word = word<<8 | uint64(c)
	}
	k.labels++
	k.hash = whole(step(hash, at, word), at)
	return k, label > 0 && label <= maxLabel
}

// folded holds what each byte is in a clean name, 0 for those that are in none.
var folded = func() (t [256]byte) {
	for c := range byte(0x80) {
		switch {
		case c >= 'A' && c <= 'Z':
			t[c] = c | 0x20
		case c == '.' || inLabel(c):
			t[c] = c
		}
	}
	return t
}()
