//go:build amd64 || arm64

package match

// prefetch asks memory for a line and waits for nothing.
//
//go:noescape
func prefetch(l *line)
