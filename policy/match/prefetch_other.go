//go:build !amd64 && !arm64

package match

// prefetch does nothing where we do not know how to ask memory for a line.
func prefetch(*line) {}
