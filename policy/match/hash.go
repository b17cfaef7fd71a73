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
// once in 2³⁵ suffixes that a set of a million names is asked for at worst, as
// the longest names are polynomials of degree 37.
//
// The coefficients are words of seven bytes and, at the beginning of the name,
// one of fewer, with a bit before them that tells words of zeros apart. Where
// they lie does not depend on where labels end: the hash of a suffix is that of
// the full words in it and one step more.
//
// The point is the process's own: it differs in each run, and all sets of a run
// share it, so that the hashes of a name serve for all of them.
var point = 1<<32 + rand.Uint64N(prime-1<<33)

const (
	hashBits = 61
	prime    = 1<<hashBits - 1 // a Mersenne prime: reducing is a shift and an addition

	inWord    = 7
	emptyWord = 1
	fullWord  = 1 << (8 * inWord) // words from here on are full
)

// step adds a word and multiplies by the point, modulo the prime. That the last
// word too is multiplied keeps those who choose it from seeing it in the hash. To
// be quick it leaves results that are up to 3 above the prime; spread puts them right.
func step(sum, at, word uint64) uint64 {
	hi, lo := bits.Mul64(sum+word, at)
	h := (lo & prime) + (hi<<3 | lo>>hashBits)
	return (h & prime) + h>>hashBits
}

// spread returns the hash of the words that were stepped over. It spreads the
// differences that are left: sets are ordered by hashes.
func spread(h uint64) uint64 {
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
	labels int    // also those that are too many to be in a set
	gone   uint64 // the suffixes of so many labels, less one, need not be looked for
	hash   [keptLabels]uint64
	length [keptLabels]int32 // of the suffixes
}

// Reset makes h the hashes of a name, which is in lower case and has no final
// dot. It allocates nothing.
func (h *Hashes) Reset(name string) { h.reset(name, lastBytes(name), nil) }

// of returns the hash of the suffix of so many labels, of which the name has
// as many.
func (h *Hashes) of(labels int) uint64 {
	if labels <= keptLabels {
		return h.hash[labels-1]
	}
	k, _ := keyOfASCII(h.suffix(labels)) // in lower case, so that this is the hash
	return k.hash
}

// perChunk is how many words of a name are looked at together. Their dots are
// bits of one integer, eight for each word, of which the last one stays free.
const perChunk = 8

// reset computes the hashes of those suffixes that can be in a set of such
// depths, of all without any. The last bytes of the name are asked for before,
// to be on their way while Hashes are cleared.
//
// But for how many words and labels there are it has no branches: the processor
// would guess those that depend on the name's bytes, often wrongly, and it finds
// out only when they have come from memory.
func (h *Hashes) reset(name string, last uint64, in *depths) {
	h.name, h.labels, h.gone = name, 0, 0
	if name == "" {
		return
	}
	if len(name) >= perChunk*inWord {
		h.labels = 1 + strings.Count(name, ".")
	}
	var sums, words [perChunk]uint64
	sum, at, kept, want := uint64(0), point, 0, uint64(1)
	for left := len(name); left >= 0 && want != 0; left -= perChunk * inWord {
		dots, n := uint64(0), 0
		for ; n < perChunk && n*inWord < left; n++ {
			w := last
			if end := left - n*inWord; end < len(name) {
				from := max(end-8, 0)
				w = eight(name[from:]) << (8 * (from + 8 - end) & 63)
			}
			dots |= dotsIn(w) << (8 * n & 63)
			sums[n], words[n] = sum, w>>8
			sum = step(sum, at, w>>8|fullWord)
		}
		if left < perChunk*inWord {
			n = left / inWord
			if left%inWord == 0 {
				sums[n&(perChunk-1)], words[n&(perChunk-1)] = sum, 0
			}
			dots |= 1 << ((n*8 + left%inWord) & 63) // the name begins, as a label does
		}
		if kept == 0 {
			want = h.wanted(dots, in)
		}
		for ; dots != 0 && want != 0; dots, want = dots&(dots-1), want>>1 {
			bit := bits.TrailingZeros64(dots)
			n := bit >> 3 & (perChunk - 1)
			h.length[kept&(keptLabels-1)] = int32(len(name) - left + bit - n)
			if want&1 != 0 {
				word := words[n]>>(8*(inWord-bit&7)&63) | 1<<(8*(bit&7)&63)
				h.hash[kept&(keptLabels-1)] = spread(step(sums[n], at, word))
			}
			kept++
		}
	}
}

// wanted returns of which suffixes hashes are wanted, and counts the labels if
// that was not done; dots are those of the name's last chunk.
func (h *Hashes) wanted(dots uint64, in *depths) uint64 {
	if h.labels == 0 {
		h.labels = bits.OnesCount64(dots)
	}
	if in == nil {
		return 1<<keptLabels - 1
	}
	return in.near(h.labels)
}

// lastBytes returns the last eight bytes of a name, the last one highest, with
// zeros for those that it does not have.
func lastBytes(name string) (w uint64) {
	if len(name) >= 8 {
		return eight(name[len(name)-8:])
	}
	for i := range len(name) {
		w = w>>8 | uint64(name[i])<<56
	}
	return w
}

// eight returns the first eight bytes, the last one highest.
func eight(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// dotsIn returns which of the seven highest bytes are dots, the highest one as bit 0.
func dotsIn(w uint64) uint64 {
	const each, low = 0x0101010101010101, 0x7f7f7f7f7f7f7f7f
	w ^= '.' * each
	w = ^(w&low + low | w | low) // the high bit of each byte that was a dot
	// Byte b gives bit 7-b of the product's highest byte.
	return w >> 7 * (1 | 1<<9 | 1<<18 | 1<<27 | 1<<36 | 1<<45 | 1<<54) >> 56
}

// suffix returns the last labels of the name.
func (h *Hashes) suffix(labels int) string {
	if labels <= keptLabels {
		return h.name[len(h.name)-int(h.length[labels-1]):]
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
	sum, word, at := uint64(0), uint64(emptyWord), point
	label := end // where the label ends
	for i := end - 1; i >= 0; i-- {
		c := folded[name[i]]
		if c == 0 {
			return Key{}, false
		}
		if c == '.' {
			if n := label - i - 1; n == 0 || n > maxLabel {
				return Key{}, false
			}
			k.labels++
			label = i
		}
		if word = word<<8 | uint64(c); word >= fullWord {
			sum, word = step(sum, at, word), emptyWord
		}
	}
	k.labels++
	k.hash = spread(step(sum, at, word))
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
