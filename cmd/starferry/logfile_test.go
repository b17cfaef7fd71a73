package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/starferry/starferry/configs"
)

// The query log is where the gateway's file says, from the folder of that.
func TestLogFile(t *testing.T) {
	example, err := fs.ReadFile(configs.Examples, "gateway.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Chdir(dir)
	if got, err := logFileHere("usual"); got != "usual" || err != nil {
		t.Errorf("without a file: %q, %v", got, err)
	}
	if err := os.Mkdir("configs", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ more, want, wrong string }{
		{"", "", "names no query log"},
		{"query_log: {file: q.jsonl}\n", filepath.Join("configs", "q.jsonl"), ""},
		{"query_log: {file: /var/log/q.jsonl}\n", "/var/log/q.jsonl", ""},
		{"query_log: {dnstap: {tcp: \"127.0.0.1:6000\"}}\n", "", "names no query log"},
		{"query_log: {file: '-'}\n", "", "goes to the standard output"},
		{"query_log: {fil: q.jsonl}\n", "", "did you mean"},
	} {
		if err := os.WriteFile("configs/gateway.yaml", append([]byte(c.more), example...), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := logFileHere("usual")
		if got != c.want || (err == nil) != (c.wrong == "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%q: %q, %v, want %q", c.more, got, err, c.want)
		}
	}
	if _, err := logFileOf("configs/none.yaml"); err == nil {
		t.Error("a file that is not there is a gateway")
	}
}
