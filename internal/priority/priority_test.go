package priority

import (
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
)

func TestAsideEnds(t *testing.T) {
	if err := Aside(func() error { panic("at the disco") }); err == nil || !strings.Contains(err.Error(), "at the disco") || !strings.Contains(err.Error(), "priority_test.go") {
		t.Errorf("a panic: %v", err)
	}
	if err := Aside(func() error { runtime.Goexit(); return nil }); err != errEnded {
		t.Errorf("an end: %v", err)
	}
}

// What is done aside has a processor beyond those that there were, however many
// do so at a time, and afterwards there are as many as before.
func TestAside(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	want := errors.New("what it returns")
	var both, seen sync.WaitGroup
	both.Add(2)
	for range 2 {
		seen.Go(func() {
			err := Aside(func() error {
				both.Done()
				both.Wait()
				if n := runtime.GOMAXPROCS(0); n != before+1 {
					t.Errorf("%d processors, want %d", n, before+1)
				}
				return want
			})
			if err != want {
				t.Errorf("Aside returns %v, want %v", err, want)
			}
		})
	}
	seen.Wait()
	if n := runtime.GOMAXPROCS(0); n != before {
		t.Errorf("%d processors afterwards, want %d", n, before)
	}
}

// Not more processors are lent than there are, and work aside has its own beside them.
func TestLend(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	var back []func()
	for i := range before + 2 {
		giveBack, ok := Lend()
		if n, want := runtime.GOMAXPROCS(0), before+min(i+1, before); n != want || ok != (i < before) {
			t.Errorf("%d processors after %d were asked for, the last lent: %t; want %d", n, i+1, ok, want)
		}
		if ok {
			back = append(back, giveBack)
		}
	}
	if n := Processors(); n != before {
		t.Errorf("%d processors without those that are lent, want %d", n, before)
	}
	err := Aside(func() error {
		if n := runtime.GOMAXPROCS(0); n != 2*before+1 {
			t.Errorf("%d processors, want %d", n, 2*before+1)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for _, giveBack := range back {
		giveBack()
		giveBack()
	}
	if n := runtime.GOMAXPROCS(0); n != before {
		t.Errorf("%d processors afterwards, want %d", n, before)
	}
}
