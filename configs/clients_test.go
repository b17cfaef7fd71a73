package configs

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Rules of lists for clients that nobody is, or that an egress does not know,
// are told of.
func TestClientsOfLists(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, Examples); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"policy.yaml", "egress-policy.yaml"} {
		b, err := fs.ReadFile(Examples, name)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Replace(string(b), "\nlists:\n", "\nlists:\n  ads: {file: lists/ads.txt, format: adblock}\n", 1)
		write(name, strings.Replace(text, "\npolicies:\n", "\npolicies:\n  - {name: ads, if: {name: {list: ads}}, then: block}\n", 1))
	}
	write("lists/ads.txt", "||a.test^$client=alice-laptop|staff\n||b.test^$client=~nobody-here|10.0.0.0/8\n")
	r := Check([]string{dir})
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range r.Warnings {
		if strings.Contains(w.Msg, "for the client") {
			got = append(got, filepath.Base(w.At.File)+" "+w.Msg)
		}
	}
	for i, want := range []string{
		"egress-policy.yaml the list has rules for the client alice-laptop: an egress knows devices by their groups only, and takes it for none of them",
		"egress-policy.yaml the list has rules for the client nobody-here, which is neither a device nor a group",
		"policy.yaml the list has rules for the client nobody-here, which is neither a device nor a group",
	} {
		if i >= len(got) || got[i] != want {
			t.Fatalf("got %q, want %s", got, want)
		}
	}
	if len(got) != 3 {
		t.Errorf("got %q", got)
	}
}
