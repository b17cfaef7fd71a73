package match

import (
	"math/bits"
	"math/rand/v2"
	"strings"
)

// An entry is found by a hash of its name: a polynomial over the bytes, last
// byte first, at a secret random point of the field of 2⁶¹-1 elements. One pass
// over a name gives the hashes of all its suffixes, and whoever does not know
// the point finds no name that is taken for a listed one but by chance: once in
// 2³¹ questions to a set of a million names at worst.
//
// The point is the process's own: it differs in each run, and all sets of a run
// share it, so that the hashes of a name serve for all of them.
var point = 1<<32 + rand.Uint64N(prime-1<<33)

const (
	prime    = 1<<61 - 1 // a Mersenne prime: reducing is a shift and an addition
	hashBits = 61
)

// step multiplies by the point and adds the byte, modulo the prime. To be
// quick it leaves results of up to 8 more than the prime, which whole puts right.
func step(hash, at uint64, c byte) uint64 {
	hi, lo := bits.Mul64(hash, at)
	h := (lo & prime) + (hi<<3 | lo>>hashBits) + uint64(c) + 1
	return (h & prime) + h>>hashBits
}

// whole returns the hash of the bytes that were stepped over. (Multiplying by
// 2⁶¹/φ, made odd, gives each hash another one, with high bits that depend on
// all bits: sets are ordered by them.)
func whole(hash uint64) uint64 {
	if hash >= prime {
		hash -= prime
	}
	return hash * 0x13c6ef372fe94f83 & (1<<hashBits - 1)
}

// maxLabels is how many labels a name of 253 bytes can have.
const maxLabels = 127

// Hashes are those of all suffixes of a name. They are computed once to look
// the name up in any number of sets.
type Hashes struct {
	name   string
	labels int      // also those that are too many to be in a set
	gone   labelSet // the suffixes of so many labels need not be looked for
	hash   [maxLabels]uint64
}

// Reset makes h the hashes of a name, which is in lower case and has no final
// dot. It allocates nothing.
func (h *Hashes) Reset(name string) { h.reset(name, maxLabels) }

// reset computes the hashes of the suffixes of up to so many labels.
func (h *Hashes) reset(name string, deep int) {
	h.name, h.labels, h.gone = name, 0, labelSet{}
	if name == "" {
		return
	}
	hash, at := uint64(0), point
	i := len(name) - 1
	for ; i >= 0; i-- {
		if name[i] == '.' {
			h.hash[h.labels] = whole(hash)
			if h.labels++; h.labels >= deep {
				break
			}
		}
		hash = step(hash, at, name[i])
	}
	if i < 0 {
		h.hash[h.labels] = whole(hash)
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
	hash, at, label := uint64(0), point, 0
	for i := end - 1; i >= 0; i-- {
		c := folded[name[i]]
		if label++; c == '.' {
			if label == 1 {
				return Key{}, false
			}
			k.labels++
			label = 0
		}
		if c == 0 || label > maxLabel {
			return Key{}, false
		}
		hash = step(hash, at, c)
	}
	k.labels++
	k.hash = whole(hash)
	return k, label > 0
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
