package ring_test

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/starferry/starferry/tunnel/ring"
)

func buffers(n, size int) ([][]byte, []int) {
	bufs := make([][]byte, n)
	for i := range bufs {
		bufs[i] = make([]byte, size)
	}
	return bufs, make([]int, n)
}

func TestOrderAndBounds(t *testing.T) {
	r := ring.New(3, 4)
	for i, want := range []bool{true, true, true, false} {
		if got := r.Put([]byte{byte(i), 9}); got != want {
			t.Errorf("packet %d: taken %v, want %v", i, got, want)
		}
	}
	bufs, sizes := buffers(2, 8)
	for _, want := range []string{"[0 1]", "[2]"} {
		n, ok := r.Take(bufs, sizes, 3)
		var got []byte
		for i := range n {
			if sizes[i] != 2 || bufs[i][4] != 9 {
				t.Errorf("packet %v of %d bytes", bufs[i], sizes[i])
			}
			got = append(got, bufs[i][3])
		}
		if !ok || fmt.Sprint(got) != want {
			t.Errorf("took %v, want %v", got, want)
		}
	}
	if r.Put(make([]byte, 5)) || r.Put(nil) {
		t.Error("a packet that is too long or empty was taken")
	}
	if r.Dropped() != 3 {
		t.Errorf("%d dropped, want 3", r.Dropped())
	}
}

func TestCloseWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := ring.New(3, 4)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				bufs, sizes := buffers(1, 4)
				if _, ok := r.Take(bufs, sizes, 0); ok {
					t.Error("took a packet that nobody put")
				}
			})
		}
		synctest.Wait()
		r.Close()
		r.Close()
		wg.Wait()
		if r.Put([]byte{1}) {
			t.Error("a closed ring took a packet")
		}
	})
}

// FuzzModel holds the ring against a plain slice.
func FuzzModel(f *testing.F) {
	f.Add([]byte{1, 2, 3, 0x80, 4, 5, 6, 7, 8, 9, 0x81, 0x82})
	f.Fuzz(func(t *testing.T, steps []byte) {
		const slots, longest = 5, 100
		r := ring.New(slots, longest)
		var model [][]byte
		bufs, sizes := buffers(3, longest)
		for i, s := range steps {
			if s < 0x80 {
				pkt := bytes.Repeat([]byte{byte(i)}, int(s))
				fits := len(pkt) > 0 && len(pkt) <= longest && len(model) < slots
				if r.Put(pkt) != fits {
					t.Fatalf("step %d: %d bytes with %d waiting: taken %v", i, s, len(model), !fits)
				}
				if fits {
					model = append(model, pkt)
				}
				continue
			}
			if len(model) == 0 {
				continue // Take would wait
			}
			n, _ := r.Take(bufs, sizes, 0)
			if n != min(len(model), len(bufs)) {
				t.Fatalf("step %d: took %d of %d", i, n, len(model))
			}
			for j := range n {
				if !bytes.Equal(bufs[j][:sizes[j]], model[j]) {
					t.Fatalf("step %d: got %v, want %v", i, bufs[j][:sizes[j]], model[j])
				}
			}
			model = model[n:]
		}
	})
}

func TestAllocations(t *testing.T) {
	r := ring.New(8, 1500)
	pkt := make([]byte, 1380)
	bufs, sizes := buffers(128, 1500)
	for range 8 {
		r.Put(pkt)
	}
	r.Take(bufs, sizes, 0)
	if n := testing.AllocsPerRun(100, func() { r.Put(pkt); r.Take(bufs, sizes, 0) }); n != 0 {
		t.Errorf("%v allocations a packet", n)
	}
}

func BenchmarkRing(b *testing.B) {
	r := ring.New(4096, 1500)
	pkt := make([]byte, 1380)
	bufs, sizes := buffers(128, 1500)
	b.SetBytes(int64(len(pkt)))
	for i := range b.N {
		r.Put(pkt)
		if i%128 == 127 {
			r.Take(bufs, sizes, 0)
		}
	}
}
