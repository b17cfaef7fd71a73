//go:build !linux

package listen

import "context"

// A batch moves many datagrams with one system call. Here there is none.
type batch struct{}

func newBatch(*Server, socket, string) *batch { return nil }

func (*batch) serve(context.Context, func(*packet)) error { return nil }
