package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Those who follow a log miss nothing when it is put aside, cut, or written in pieces.
func TestLogFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "q.jsonl")
		line := func(name string) string {
			return fmt.Sprintf(`{"time":"2026-11-04T18:30:00Z","name":%q,"type":"A","action":"allow","rcode":"NOERROR"}`+"\n", name)
		}
		write := func(how int, text string) {
			t.Helper()
			f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|how, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteString(text); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		write(os.O_APPEND, line("a")+line("b")+line("c"))
		ctx, cancel := context.WithCancel(t.Context())
		var out, errs bytes.Buffer
		ended := make(chan int, 1)
		go func() {
			ended <- run(ctx, []string{"log", "tail", "-f", "-n", "2", "--json", file}, strings.NewReader(""), &out, &errs)
		}()
		time.Sleep(time.Second)
		write(os.O_APPEND, line("d")+line("e")[:20])
		write(os.O_APPEND, line("e")[20:]+"nonsense\n")
		write(os.O_APPEND, line("f"))
		if err := os.Rename(file, file+".1"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		write(os.O_APPEND, line("g"))
		write(os.O_TRUNC, line("h")[:20])
		write(os.O_APPEND, line("h")[20:])
		cancel()
		if status := <-ended; status != 0 {
			t.Errorf("status %d: %s", status, errs.String())
		}
		if want := line("b") + line("c") + line("d") + line("e") + line("f") + line("g") + line("h"); out.String() != want {
			t.Errorf("got\n%swant\n%s", out.String(), want)
		}
		if errs.String() != "1 line is no record\n" {
			t.Errorf("it says %q", errs.String())
		}
	})
}

// Who reads a log from a pipe that is silent can be told to end.
func TestLogOfSilentPipeEnds(t *testing.T) {
	for _, args := range [][]string{{"log", "tail", "-f", "-"}, {"log", "tail", "-"}, {"log", "top", "-"}, {"log", "grep", "-"}} {
		synctest.Test(t, func(t *testing.T) {
			in, w := io.Pipe()
			defer w.Close()
			ctx, cancel := context.WithCancel(t.Context())
			var out, errs bytes.Buffer
			ended := make(chan int, 1)
			go func() { ended <- run(ctx, args, in, &out, &errs) }()
			synctest.Wait()
			cancel()
			synctest.Wait()
			select {
			case status := <-ended:
				if status != 0 || errs.Len() > 0 {
					t.Errorf("%q: status %d, %s", args, status, errs.String())
				}
			default:
				w.Close()
				t.Fatalf("%q goes on", args)
			}
		})
	}
}

// What can be in no record is not looked for.
func TestLogOfNothing(t *testing.T) {
	line := fmt.Sprintf(`{"time":%q,"name":"a.test","type":"TYPE65400","action":"no-way","rcode":"none"}`+"\n", time.Now().Add(-36*time.Hour).Format(time.RFC3339))
	for _, c := range []struct{ args, says string }{
		{"--type type65400 --action NO-WAY --rcode none --since 2d", ""},
		{"--type AAAA --since 30h", ""},
		{"--type TYP65", `--type: "TYP65" is neither a known name nor TYPE with a number`},
		{"--rcode NXDOMIAN", `--rcode: "NXDOMIAN" is no response code`},
		{"--action blocked", `--action: "blocked" is none of allow, block, deny`},
		{"--since d", `--since: "d" is neither a time like`},
		{"--until 1.5d", `--until: "1.5d" is neither a time like`},
	} {
		var out, errs bytes.Buffer
		status := run(t.Context(), append(strings.Fields("log grep --json - "), strings.Fields(c.args)...), strings.NewReader(line), &out, &errs)
		if !strings.Contains(errs.String(), c.says) || (status == 2) != (c.says != "") {
			t.Errorf("%s: status %d, %s", c.args, status, errs.String())
		}
		if found := out.Len() > 0; found != strings.Contains(c.args, "65400") {
			t.Errorf("%s: found %q", c.args, out.String())
		}
	}
}
