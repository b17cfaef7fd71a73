package policy_test

import (
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starferry/starferry/policy"
)

const fetched = `lists:
  ads: {url: "https://lists.example/ads.txt", format: adblock, min_labels: 2, except: cn}
  cn:  {url: "https://lists.example/cn.txt", format: v2fly, select: ["@cn", "@-ads"], refresh: 90m, max_shrink: 20%,
        sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08}
  own: {file: own.txt, format: plain}
policies:
  - {name: ads, if: {name: {list: [ads, cn, own]}}, then: {block: nxdomain}}
`

func TestDownloads(t *testing.T) {
	all, err := policy.Downloads("p", []byte(fetched), nil)
	if err != nil || len(all) != 2 {
		t.Fatal(all, err)
	}
	ads, cn := all[0], all[1]
	if ads.URL != "https://lists.example/ads.txt" || ads.Refresh != 6*time.Hour || ads.MaxShrink != 50 || ads.Sum != nil ||
		ads.Source.Name != "ads" || ads.Source.Format != "adblock" || ads.Source.MinLabels != 2 || ads.At.Line != 2 {
		t.Errorf("%+v", ads)
	}
	if cn.Refresh != 90*time.Minute || cn.MaxShrink != 20 || cn.Sum == nil || cn.Sum[0] != 0x9f || !slices.Equal(cn.Source.Select, []string{"@cn", "@-ads"}) {
		t.Errorf("%+v", cn)
	}
	if none, err := policy.Downloads("p", []byte("policies: []\n"), nil); none != nil || err != nil {
		t.Error(none, err)
	}
	if _, err := policy.Downloads("p", []byte("lists: {x: {url: ftp}}\n"), nil); err == nil {
		t.Error("a mistake passes")
	}
}

// The lists of included files are fetched too.
func TestDownloadsOfIncludedFiles(t *testing.T) {
	open := func(path string) (io.ReadCloser, error) {
		if path != "more.yaml" {
			t.Errorf("%s is opened", path)
		}
		return io.NopCloser(strings.NewReader(fetched)), nil
	}
	src := "lists:\n  x: {url: \"https://lists.example/x.txt\", format: plain}\npolicies:\n  - {include: more.yaml}\n"
	all, err := policy.Downloads("p", []byte(src), open)
	if err != nil || len(all) != 3 || all[0].Source.Name != "x" || all[2].Source.Name != "cn" {
		t.Error(all, err)
	}
}

// A list with a URL is opened by it.
func TestParseOpensURLs(t *testing.T) {
	var opened []string
	p, err := policy.Parse("p", []byte(fetched), func(path string) (io.ReadCloser, error) {
		opened = append(opened, path)
		text := "a.test @cn\nb.test @cn @ads\nc.test @!cn\n"
		if strings.HasSuffix(path, "ads.txt") {
			text = "||x.test^\n@@||y.x.test^\n"
		}
		if path == "own.txt" {
			text = "own.test\n"
		}
		return io.NopCloser(strings.NewReader(text)), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"https://lists.example/ads.txt", "https://lists.example/cn.txt", "own.txt"}; !slices.Equal(opened, want) {
		t.Errorf("opened %q, want %q", opened, want)
	}
	for name, blocked := range map[string]bool{"x.test": true, "y.x.test": false, "a.test": true, "own.test": true} {
		q := policy.Query{Name: name, Type: 1, Now: noon}
		if d := p.Decide(&q); (d.Then.Block == policy.NXDomain) != blocked {
			t.Errorf("%s: %v, want it blocked: %v", name, &d, blocked)
		}
	}
}

func TestMistakesInDownloads(t *testing.T) {
	for src, want := range map[string]string{
		`{url: "http://a.example/x", format: plain}`:                                   `p:1:18: url: "http://a.example/x" is not https`,
		`{url: "/x", format: plain}`:                                                   `"/x" is no URL`,
		`{url: "https://u:p@a.example/x", format: plain}`:                              `has a user or a fragment`,
		`{url: "https://a.example/x", file: x, format: plain}`:                         `a list has a file or a url`,
		`{format: plain}`:                                                              `key "file" is missing`,
		`{file: "https://a.example/x", format: plain}`:                                 `url: https://a.example/x`,
		`{file: own.txt, format: plain, refresh: 1h}`:                                  `refresh is for lists with a url`,
		`{url: "https://a.example/x", format: plain, refresh: 1s}`:                     `"1s" is less than 1m0s`,
		`{url: "https://a.example/x", format: plain, max_shrink: 50}`:                  `"50" is no share from 0% to 100%`,
		`{url: "https://a.example/x", format: plain, sha256: abcd}`:                    `"abcd" is no SHA-256 sum`,
		`{url: "https://a.example/x", format: plain, select: [drop]}`:                  `format plain is read whole`,
		`{url: "https://a.example/x", format: rpz, select: [drop, nothing]}`:           `"nothing" is nothing that a zone has`,
		`{url: "https://a.example/x", format: v2fly, select: ["geosite:../a"]}`:        `is no name of a list`,
		`{url: "https://a.example/x", format: v2fly, select: [], except: ["a b"]}`:     `"a b" is no name`,
		`{url: "https://a.example/x", format: mmdb, select: [China]}`:                  `and no country`,
		`{url: "https://a.example/x", format: plain, sha: x}`:                          `unknown key "sha"`,
		`{url: "https://a.example/x", format: plain, max_shrink: 101%, refresh: what}`: `"what" is no time span`,
	} {
		_, err := policy.Parse("p", []byte("lists: {x: "+src+"}\n"), func(string) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader("a.test CNAME .\n")), nil
		})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n%v\nwant %s", src, err, want)
		}
	}
}

// A list of no entries is told of with its place, be it new or not.
func TestEmptyLists(t *testing.T) {
	for text, want := range map[string]string{
		"":         "p:1:9: list own: own.txt is empty: conditions on it are never true",
		"a.test\n": "",
	} {
		for _, use := range []string{"name: {list: own}", "type: A"} {
			p, err := policy.Parse("p", []byte("lists: {own: {file: own.txt, format: plain}}\npolicies: [{name: x, if: {"+use+"}, then: block}]\n"), func(string) (io.ReadCloser, error) {
				return io.NopCloser(strings.NewReader(text)), nil
			})
			if err != nil {
				t.Fatal(err)
			}
			got := slices.DeleteFunc(slices.Clone(p.Warnings()), func(w string) bool { return !strings.Contains(w, "empty") })
			if strings.Join(got, "\n") != want {
				t.Errorf("%q, %s: %q, want %q", text, use, got, want)
			}
		}
	}
}

// A file that is held to it may not lack more of its entries than it says.
func TestShrunk(t *testing.T) {
	of := func(def, text string) *policy.Policy {
		p, err := policy.Parse("p", []byte("lists: {own: "+def+"}\n"), func(string) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(text)), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	const held, four = `{file: own.txt, format: plain, max_shrink: 50%}`, "a.test\nb.test\nc.test\nd.test\n"
	for _, tt := range []struct{ def, text, want string }{
		{held, "a.test\n", "p:1:9: list own: own.txt shrank from 4 entries to 1, by more than 50%: if that is right raise max_shrink"},
		{held, "", "shrank from 4 entries to 0"},
		{held, "a.test\nb.test\n", ""},
		{`{file: own.txt, format: plain, max_shrink: 100%}`, "", ""},
		{`{file: own.txt, format: plain}`, "a.test\n", ""},
		{`{file: other.txt, format: plain, max_shrink: 0%}`, "a.test\n", ""},
		{`{file: own.txt, format: hosts, max_shrink: 0%}`, "0.0.0.0 a.test\n", ""},
		{`{url: "https://a.example/x", format: plain, max_shrink: 0%}`, "a.test\n", ""},
	} {
		before := of(held, four)
		if strings.Contains(tt.def, "url") {
			before = of(tt.def, four)
		}
		err := of(tt.def, tt.text).Shrunk(before)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s %q: %v, want %q", tt.def, tt.text, err, tt.want)
		}
	}
	if err := of(held, "").Shrunk(nil); err != nil {
		t.Errorf("the first policy: %v", err)
	}
}
