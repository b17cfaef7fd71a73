package policy_test

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/starferry/starferry/internal/yamlpos"
	"github.com/starferry/starferry/policy"
)

func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(policy.Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("policy.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("policy.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// jsonOf makes of YAML what editors do.
func jsonOf(n *yamlpos.Node) any {
	switch n.Kind {
	case yamlpos.Mapping:
		out := map[string]any{}
		m := n.AsMap()
		for _, key := range m.Keys() {
			out[key] = jsonOf(m.Node(key))
		}
		return out
	case yamlpos.List:
		out := []any{}
		for _, item := range n.Items() {
			out = append(out, jsonOf(item))
		}
		return out
	}
	text := n.Text()
	if b, err := strconv.ParseBool(text); err == nil && len(text) > 3 {
		return b
	}
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		return json.Number(text)
	}
	return text
}

func document(t *testing.T, src string) any {
	t.Helper()
	_, root, err := yamlpos.Open("f", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]any{}
	for _, key := range root.Keys() {
		out[key] = jsonOf(root.Node(key))
	}
	return out
}

// What the manual and the examples say is right by the schema.
func TestSchemaTakesTheManual(t *testing.T) {
	s := schema(t)
	manual, err := os.ReadFile("../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?ms)^```yaml\n(# policy.yaml.*?)^```").FindAllStringSubmatch(string(manual), -1)
	if len(blocks) < 10 {
		t.Fatalf("only %d blocks", len(blocks))
	}
	texts := []string{company, fifty()}
	for _, b := range blocks {
		texts = append(texts, b[1])
	}
	for _, pattern := range []string{"../configs/*policy*.yaml", "../demo/*policy*.yaml"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			texts = append(texts, string(b))
		}
	}
	for _, text := range texts {
		if err := s.Validate(document(t, text)); err != nil {
			t.Errorf("%v\nin\n%s", err, text)
		}
	}
}

// Mistakes in keys and words are mistakes by the schema too.
func TestSchemaFindsMistakes(t *testing.T) {
	s := schema(t)
	for src, said := range mistakes {
		if !strings.Contains(said, "did you mean") && !strings.Contains(said, "is missing") || strings.Contains(src, "lists: {x: {file: no") {
			continue
		}
		found := s.Validate(document(t, src)) != nil
		named := regexp.MustCompile(`log: |ofice|alpm|cleint`).MatchString(src) // words that only the parser knows
		if !found && !named {
			t.Errorf("no mistake by the schema: %s", src)
		}
	}
}

// Each key that the parser asks for is in the schema.
func TestSchemaKnowsWhatTheParserReads(t *testing.T) {
	text := string(policy.Schema())
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	readers := []string{"Node", "Map", "Maps", "Has", "Read", "ReadList", "ReadOneOrList", "Require"}
	keys := map[string]bool{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || !slices.Contains(readers, sel.Sel.Name) {
				return true
			}
			for i, arg := range call.Args {
				lit, ok := arg.(*ast.BasicLit)
				second := strings.HasPrefix(sel.Sel.Name, "Read")
				if ok && lit.Kind == token.STRING && (!second || i == 1) {
					key, _ := strconv.Unquote(lit.Value) // the parser took it
					keys[key] = true
				}
			}
			return true
		})
	}
	if len(keys) < 50 {
		t.Errorf("only %d keys found", len(keys))
	}
	for key := range keys {
		if !strings.Contains(text, strconv.Quote(key)+": ") {
			t.Errorf("the parser reads %q, which the schema does not know", key)
		}
	}
}
