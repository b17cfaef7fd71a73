package listen

import "testing"

// Of the workers that wait the last that came is called first; too many are sent home,
// and all are when there is no more work.
func TestBench(t *testing.T) {
	var b bench
	if b.call(new(packet)) {
		t.Error("somebody is there who never came")
	}
	var all []chan *packet
	for range maxWaiting {
		next := make(chan *packet, 1)
		if all = append(all, next); !b.sit(next) {
			t.Fatal("there is no room")
		}
	}
	if b.sit(make(chan *packet, 1)) {
		t.Error("there is too much room")
	}
	for _, next := range []chan *packet{all[maxWaiting-1], all[maxWaiting-2]} {
		p := new(packet)
		if !b.call(p) || len(next) != 1 || <-next != p {
			t.Error("another one was called")
		}
	}
	b.close()
	for _, next := range all[:maxWaiting-2] {
		if p, ok := <-next; p != nil || ok {
			t.Fatal("somebody waits for ever")
		}
	}
	if b.sit(make(chan *packet, 1)) || b.call(new(packet)) {
		t.Error("somebody came after all was over")
	}
}
