package configs

import (
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/starferry/starferry/fetch"
	"github.com/starferry/starferry/policy"
)

const adsURL = "https://lists.example/ads.txt"

// fetching returns the example egress with a policy that has a list elsewhere,
// in a file that it includes.
func fetching() fstest.MapFS {
	egress, _ := fs.ReadFile(Examples, "egress.yaml")
	return fstest.MapFS{
		"egress.yaml":        {Data: egress},
		"egress-policy.yaml": {Data: []byte("policies: [include: ads.yaml]\n")},
		"ads.yaml": {Data: []byte("lists: {ads: {url: \"" + adsURL + "\", format: plain}}\n" +
			"policies: [{name: ads, if: {name: {list: ads}}, then: block}]\n")},
	}
}

// A loader tells of the lists that have to be fetched before it opens them.
func TestCopies(t *testing.T) {
	var wanted []policy.Download
	l := Loader{Copies: Copies{
		Want: func(all []policy.Download) { wanted = all },
		Open: func(url string) (io.ReadCloser, error) {
			if len(wanted) != 1 || url != wanted[0].URL {
				return nil, fmt.Errorf("%s is opened, wanted is %v", url, wanted)
			}
			return io.NopCloser(strings.NewReader("ads.test\nmore.test\n")), nil
		},
	}}
	s, err := l.Load(FS(fetching()), "egress.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if lists := s.Policy.Lists(); len(lists) != 1 || lists[0].Entries != 2 {
		t.Errorf("lists %+v", lists)
	}
	for _, f := range s.Files {
		if fetch.IsURL(f) {
			t.Errorf("%s cannot be watched", f)
		}
	}
}

// Who fetches nothing takes the node's copies; who only looks does without.
func TestCopiesOfTheNode(t *testing.T) {
	tree := fetching()
	if _, err := Load(FS(tree), "egress.yaml"); err == nil || !strings.Contains(err.Error(), "ads.yaml:1:") || !strings.Contains(err.Error(), "no copy of "+adsURL) {
		t.Errorf("without a copy: %v", err)
	}
	s, err := LoadLenient(FS(tree), "egress.yaml")
	if err != nil || len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], adsURL+" is not here: ") {
		t.Errorf("who only looks: %v %v", s, err)
	}
	open := func(path string) (io.ReadCloser, error) {
		if path == fetch.Copy(DefaultStateDir+"/lists", adsURL) {
			return io.NopCloser(strings.NewReader("ads.test\n")), nil
		}
		return FS(tree)(path)
	}
	if s, err = LoadLenient(open, "egress.yaml"); err != nil || len(s.Warnings) != 0 || s.Policy.Lists()[0].Entries != 1 {
		t.Errorf("with a copy: %v %v", s, err)
	}
}
