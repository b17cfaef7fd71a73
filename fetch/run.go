package fetch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/starferry/starferry/policy"
)

// atOnce is how many publishers are asked at once: enough that a few which are
// slow keep nobody waiting, and few enough for a small machine.
const atOnce = 8

// idle is how long Run waits if there is no list.
const idle = 24 * time.Hour

// Want does what [Fetcher.Set] does, for those who are about to read a policy:
// it fetches the lists that there is no copy of, and keeps what it gets without
// offering it to anybody. The error is of all those that are missing still. Once
// the policy is in force [Fetcher.Keep] is called, and else Set with the lists of
// the one that is.
func (f *Fetcher) Want(ctx context.Context, lists []policy.Download) error {
	f.mu.Lock()
	f.set(lists)
	missing := f.claim(func(h *held) bool { return !h.copy.have() })
	f.wake()
	f.mu.Unlock()
	errs := make([]error, len(missing))
	slots := make(chan struct{}, atOnce) // Run's may be taken by those who are slow
	var all sync.WaitGroup
	for i, url := range missing {
		all.Go(func() {
			defer f.release(url)
			if h, err := f.renew(ctx, url, slots, nil); err != nil {
				errs[i] = fmt.Errorf("list %s: %w", h.name(), err)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// Keep says that the policy is in force whose lists were set last: what was
// fetched for it takes the place of the copies of before.
func (f *Fetcher) Keep() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, h := range f.copies {
		if !h.aside {
			os.Remove(f.file(h.url, asAside)) // which a refused policy left, if there is one
			continue
		}
		if err := f.place(h, f.path(h), false, h.copy); err != nil {
			f.cfg.Log.Warn("a list stays beside the copy of before", "list", h.name(), "url", h.url, "err", err)
			continue
		}
		if err := f.note(h.url, h.copy); err != nil {
			f.cfg.Log.Warn("a list was kept without what is known of it", "list", h.name(), "url", h.url, "err", err)
		}
	}
}

// Run looks for newer lists until the context is done.
func (f *Fetcher) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	slots := make(chan struct{}, atOnce)
	for ctx.Err() == nil {
		for _, url := range f.due() {
			all.Go(func() {
				defer f.release(url)
				h, err := f.renew(ctx, url, slots, f.cfg.Apply)
				if err != nil && ctx.Err() == nil {
					f.cfg.Log.Warn("a list could not be renewed, the old one stays", "list", h.name(), "url", url, "err", err)
				}
			})
		}
		wait := time.NewTimer(time.Until(f.nextDue()))
		select {
		case <-ctx.Done():
		case <-f.changed:
		case <-wait.C:
		}
		wait.Stop()
	}
	return nil
}

// due claims the lists whose time has come and that nobody is looking for.
func (f *Fetcher) due() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	return f.claim(func(h *held) bool { return f.busy[h.url] == 0 && !h.next.After(now) })
}

// claim returns the URLs for which want is true, and holds that they are being
// looked for until each is released.
func (f *Fetcher) claim(want func(*held) bool) (urls []string) {
	for _, url := range f.order {
		if want(f.copies[url]) {
			f.busy[url]++
			urls = append(urls, url)
		}
	}
	return urls
}

func (f *Fetcher) release(url string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.busy[url]--; f.busy[url] == 0 {
		delete(f.busy, url)
	}
	f.wake()
}

func (f *Fetcher) nextDue() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := time.Now().Add(idle)
	for url, h := range f.copies {
		if f.busy[url] == 0 {
			next = earlier(next, h.next)
		}
	}
	return next
}
