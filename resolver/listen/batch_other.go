//go:build !linux

package listen

import (
	"context"
	"errors"
)

// A batch moves many datagrams with one system call. Here there is none.
type batch struct{}

func newBatch(*Server, socket, string) *batch { return nil }

func (*batch) serve(context.Context, func(*packet)) error { return nil }

// A rawAddr is a peer's address as the kernel writes it. Here nobody asks for it.
type rawAddr struct{ len uint32 }

// An outbox sends many answers at a time. Here there is none.
type outbox struct{}

type answered struct {
	p    *packet
	resp []byte
	done func(p *packet)
}

func newOutbox(socket) *outbox { return nil }

func (*outbox) put(*Server, string, answered) {}

func (s socket) apart() (socket, error) { return s, nil }

func (socket) writeRaw(*packet, []byte) error { return errors.ErrUnsupported }
