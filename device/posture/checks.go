package posture

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/starferry/starferry/internal/yamlpos"
)

type test = func(v any, r Report) string

const missing = "report does not say"

// readTests reads what is demanded of a field.
func readTests(field string, n *yamlpos.Node) []test {
	if n.Kind != yamlpos.Mapping {
		if t := yamlpos.Value(n, nil, parseTest); t != nil {
			return []test{t}
		}
		return nil
	}
	m := n.AsMap()
	defer m.Done()
	switch {
	case field == "disk_encryption" && m.Has("volumes"):
		return []test{volumesTest(m)}
	case field == "os_version":
		return []test{systemsTest(m)}
	}
	return listTests(n, m)
}

// parseTest reads a demand that is one word or a comparison.
func parseTest(s string) (test, error) {
	switch s {
	case "present":
		return func(v any, _ Report) string {
			if v == nil {
				return "want present, " + missing
			}
			return ""
		}, nil
	case "absent":
		return func(v any, _ Report) string {
			if v != nil {
				return "want absent, report says " + show(v)
			}
			return ""
		}, nil
	}
	if on, err := yamlpos.Bool(s); err == nil {
		return func(v any, _ Report) string { return switchWrong(v, on) }, nil
	}
	if isRange(s) {
		return versionTest(s)
	}
	err := fmt.Errorf("%q is none of on, off, present, absent, and no comparison such as \">= 15.0\"", s)
	return nil, yamlpos.Hint(err, fmt.Sprintf("a field with this value: {in: [%s]}", s))
}

func switchWrong(v any, want bool) string {
	if v == nil {
		return fmt.Sprintf("want %s, %s", onOff(want), missing)
	}
	if on, ok := truth(v); !ok || on != want {
		return fmt.Sprintf("want %s, report says %s", onOff(want), show(v))
	}
	return ""
}

func versionTest(s string) (test, error) {
	bounds, err := parseRange(s)
	if err != nil {
		return nil, err
	}
	return func(v any, _ Report) string { return versionWrong(v, s, bounds) }, nil
}

func versionWrong(v any, want string, bounds []bound) string {
	if v == nil {
		return fmt.Sprintf("want %s, %s", want, missing)
	}
	said, _ := text(v)
	got, ok := readVersion(said)
	if !ok || !holdAll(bounds, got) {
		return fmt.Sprintf("want %s, report says %s", want, show(v))
	}
	return ""
}

func holdAll(bounds []bound, v version) bool {
	return !slices.ContainsFunc(bounds, func(b bound) bool { return !b.holds(v) })
}

// systemsTest reads {macos: ">= 15.0", linux: ">= 6.1"}: a version for each
// operating system. A system that is not named fails.
func systemsTest(m *yamlpos.Map) test {
	bySystem := map[string]test{}
	for _, system := range m.Keys() {
		if !slices.Contains(systems, system) {
			m.KeyErrorf(system, yamlpos.DidYouMean(system, systems), "os_version: unknown system %q", system)
		}
		if t := yamlpos.Read(m, system, nil, versionTest); t != nil {
			bySystem[system] = t
		}
	}
	if len(m.Keys()) == 0 {
		m.Errorf("", "os_version: no system given")
	}
	return func(v any, r Report) string {
		said, _ := r.Field("os")
		system, _ := text(said)
		system = strings.ToLower(strings.TrimSpace(system))
		if system == "darwin" {
			system = "macos"
		}
		t, ok := bySystem[system]
		if system == "" {
			return "want the system in field os, " + missing
		} else if !ok {
			return fmt.Sprintf("want one of %s, report says %s", strings.Join(slices.Sorted(maps.Keys(bySystem)), ", "), quote(system))
		}
		if wrong := t(v, r); wrong != "" {
			return system + " " + wrong
		}
		return ""
	}
}

var systems = []string{"macos", "windows", "linux", "ios", "android", "chromeos", "freebsd", "openbsd"}

// volumesTest reads {volumes: all, except: [/boot]} or {volumes: [/, /home]}.
// The report gives volumes with on or off each, or on for them all.
func volumesTest(m *yamlpos.Map) test {
	want := yamlpos.ReadOneOrList(m, "volumes", yamlpos.Word)
	except := yamlpos.ReadOneOrList(m, "except", yamlpos.Word)
	all := slices.Equal(want, []string{"all"})
	if len(except) > 0 && !all {
		m.KeyErrorf("except", "", "except goes with volumes: all")
	}
	return func(v any, _ Report) string {
		vols, ok := volumes(v)
		switch {
		case v == nil:
			return "want on, " + missing
		case !ok:
			return switchWrong(v, true)
		case !all:
			return volumesWrong(vols, want)
		}
		rest := slices.DeleteFunc(slices.Sorted(maps.Keys(vols)), func(s string) bool { return slices.Contains(except, s) })
		if len(rest) == 0 {
			return "want on, report names no volumes"
		}
		return volumesWrong(vols, rest)
	}
}

// volumes returns the volumes that a report lists under "volumes".
func volumes(v any) (map[string]any, bool) {
	m, ok := v.(map[string]any)
	if !ok {
		return nil, false
	}
	vols, ok := m["volumes"].(map[string]any)
	return vols, ok
}

func volumesWrong(vols map[string]any, want []string) string {
	var off []string
	for _, name := range want {
		if on, _ := truth(vols[name]); !on {
			off = append(off, quote(name))
		}
	}
	if len(off) == 0 {
		return ""
	}
	if len(off) > 3 {
		off = append(off[:3], fmt.Sprintf("%d more", len(off)-3))
	}
	return "want on, report does not say so of " + strings.Join(off, ", ")
}

// listTests reads demands on the members of a field.
func listTests(n *yamlpos.Node, m *yamlpos.Map) []test {
	var out []test
	for _, form := range []struct {
		key   string
		wrong func(want, got []string) string
	}{{"in", wrongIn}, {"not_in", wrongNotIn}, {"absent", wrongNotIn}, {"present", wrongPresent}} {
		if !m.Has(form.key) {
			continue
		}
		want := yamlpos.ReadOneOrList(m, form.key, yamlpos.Word)
		if len(want) == 0 {
			m.KeyErrorf(form.key, "", "%s: nothing listed", form.key)
		}
		out = append(out, func(v any, _ Report) string {
			got, ok := members(v)
			switch {
			case v == nil:
				return fmt.Sprintf("want %s %s, %s", form.key, strings.Join(want, ", "), missing)
			case !ok:
				return "report holds something that is no list of words"
			}
			return form.wrong(want, got)
		})
	}
	if len(out) == 0 {
		n.Errorf("", "want one of in, not_in, present, absent")
	}
	return out
}

func wrongIn(want, got []string) string {
	for _, g := range got {
		if !holds(want, g) {
			return fmt.Sprintf("want one of %s, report says %s", strings.Join(want, ", "), quote(g))
		}
	}
	if len(got) == 0 {
		return fmt.Sprintf("want one of %s, report says nothing", strings.Join(want, ", "))
	}
	return ""
}

func wrongNotIn(want, got []string) string {
	for _, g := range got {
		if holds(want, g) {
			return "want no " + quote(g) + ", report has it"
		}
	}
	return ""
}

func wrongPresent(want, got []string) string {
	for _, w := range want {
		if !holds(got, w) {
			return "want " + quote(w) + ", report does not have it"
		}
	}
	return ""
}

// holds reports whether list has the word; case does not count, since systems
// spell the names of programs in their own ways.
func holds(list []string, word string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return strings.EqualFold(s, word) })
}
