package world

import (
	"bytes"
	"context"
)

// cableLen is how many packets are on a cable at most. Those beyond are
// dropped, as by any router: to wait instead could make two stacks that send to
// each other wait for each other.
const cableLen = 2048

// A cable carries packets in one direction, from one stack to another.
type cable chan []byte

func newCable() cable { return make(cable, cableLen) }

// send takes a packet. It may be used again when send returns.
func (c cable) send(pkt []byte) {
	select {
	case c <- bytes.Clone(pkt):
	default:
	}
}

// run hands the packets on until ctx is done.
func (c cable) run(ctx context.Context, to func(pkt []byte)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case pkt := <-c:
			to(pkt)
		}
	}
}
