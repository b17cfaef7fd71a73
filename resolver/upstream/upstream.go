// Package upstream is being written.
package upstream
