package match

// Plain reports whether what the set covers is told by its entries alone: by no
// pattern, and nothing is taken out. Where such a set covers a name by an entry
// above it, it covers all names that stand to that entry as this one does.
func (n *Names) Plain() bool {
	switch {
	case n == nil:
		return true
	case n.of == nil:
		return len(n.patterns) == 0
	case n.of.less != nil:
		return false
	}
	for _, p := range n.of.parts {
		if !p.Plain() {
			return false
		}
	}
	return true
}
