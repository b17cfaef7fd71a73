package yamlpos_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/starferry/starferry/internal/yamlpos"
)

func word(s string) (string, error) { return s, nil }

func oneOf(words ...string) func(string) (string, error) {
	return func(s string) (string, error) {
		if !slices.Contains(words, s) {
			return "", fmt.Errorf("%q is none of %q", s, words)
		}
		return s, nil
	}
}

func Example() {
	f, root, err := yamlpos.Open("policy.yaml", []byte(`rules:
  - name: china-sites
    action: stear
    acton: block
    domains: [jd.com]
    ttl: 5 minutes
  - name: [x]
`))
	if err != nil {
		fmt.Println(err)
		return
	}
	root.Maps("rules", func(m *yamlpos.Map) {
		yamlpos.Read(m, "name", "", word)
		yamlpos.Read(m, "action", "", oneOf("allow", "block", "steer"))
		yamlpos.ReadList(m, "domains", word)
		yamlpos.Read(m, "ttl", time.Minute, time.ParseDuration)
		m.Done()
	})
	root.Done()
	fmt.Println(f.Err())
	// Output:
	// policy.yaml:3:13: action: "stear" is none of ["allow" "block" "steer"]
	//         action: stear
	//                 ^
	// policy.yaml:4:5: unknown key "acton"
	//         acton: block
	//         ^ did you mean "action"?
	// policy.yaml:6:10: ttl: time: unknown unit " minutes" in duration "5 minutes"
	//         ttl: 5 minutes
	//              ^
	// policy.yaml:7:11: name: want a single value, got a list
	//       - name: [x]
	//               ^
}

func TestOpen(t *testing.T) {
	for _, src := range []string{"", "a: 1\n---\nb: 2\n", "a:\n\t- b\n"} {
		if _, _, err := yamlpos.Open("x.yaml", []byte(src)); err == nil {
			t.Errorf("Open(%q) succeeded", src)
		}
	}
}
