package node

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/starferry/starferry/resolver/querylog"
)

// The addresses that an asker gets are on record, also where no resolver gave them.
func TestAnswersOnRecord(t *testing.T) {
	w := newTower(t)
	w.text.Store(`policies:
  - {name: zero, if: {name: zero.example}, then: {block: zero-ip}}
  - {name: gone, if: {name: gone.example}, then: {block: nxdomain}}
  - {name: other, if: {name: other.example}, then: {override: {a: [203.0.113.8, 203.0.113.9]}}}
  - {name: alias, if: {name: alias.example}, then: {override: {cname: www.example.com}}}
default: allow
`)
	if _, err := w.client.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"zero.example": "[0.0.0.0]", "gone.example": "[]", "other.example": "[203.0.113.8 203.0.113.9]",
		"alias.example": "[203.0.113.7]", "www.example.com": "[203.0.113.7]",
	}
	for name := range want {
		w.ask(t, name, "alice")
	}
	w.written(t, uint64(len(want)))
	r, c, err := querylog.Open(w.set.QueryLog.File)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range want {
		got, _, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(got.Addrs, netip.Addr.Compare)
		if s := fmt.Sprint(got.Addrs); s != want[got.Name] {
			t.Errorf("%s: %s, want %s", got.Name, s, want[got.Name])
		}
	}
}
