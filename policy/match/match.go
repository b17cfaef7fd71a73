// Package match holds large sets of names and of address prefixes and answers
// in well under a microsecond, without allocating, whether something is in one.
//
// A set is built once and never changes; whoever has a newer list builds a new
// set and swaps it in. Names are asked for in lower case and without the final
// dot. Where several entries cover a name or an address the most specific one
// is returned.
//
// Who asks many sets for a name computes its [Hashes] once for all of them, and
// may have a [Filter] say beforehand which of its suffixes are in none.
package match
