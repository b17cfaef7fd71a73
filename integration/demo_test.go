package integration

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// The demo as people try it: transcripts of dig and curl in testdata/demo. Each
// begins with the command
//
//	demo
//
// which starts one of its own and sets $DNS and $LAN (ports on 127.0.0.1) and
// $PROXY (address and port). The command
//
//	cut CURL...
//
// starts a download, takes the device's posture away once some of it is there,
// and fails unless curl is cut off, with an error, within a second.
func TestDemo(t *testing.T) {
	for _, program := range []string{"dig", "curl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%s is needed, as CONTRIBUTING.md says: %v", program, err)
		}
	}
	testscript.Run(t, testscript.Params{
		Dir:  filepath.Join("testdata", "demo"),
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"demo": startDemo, "cut": cutDownload},
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", filepath.Dir(binary)+string(os.PathListSeparator)+env.Getenv("PATH"))
			env.Setenv("XDG_RUNTIME_DIR", env.WorkDir)
			return nil
		},
	})
}

func startDemo(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: demo")
	}
	out, in := io.Pipe()
	cmd := exec.Command(binary, "demo", "--dns", "127.0.0.1:0", "--lan-dns", "127.0.0.1:0", "--proxy", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+ts.Getenv("XDG_RUNTIME_DIR"))
	cmd.Stdout, cmd.Stderr = in, in
	ts.Check(cmd.Start())
	ended := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		in.CloseWithError(fmt.Errorf("the demo ended: %w", io.EOF))
		ended <- err
	}()
	ts.Defer(func() {
		cmd.Process.Signal(os.Interrupt)
		if err := <-ended; err != nil {
			ts.Logf("the demo at its end: %v", err)
		}
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		ts.Logf("%s", lines.Text())
		learnPorts(ts, lines.Text())
		if lines.Text() == "ready" {
			go io.Copy(io.Discard, out)
			return
		}
	}
	ts.Fatalf("no line says ready: %v", lines.Err())
}

// learnPorts reads the ports out of the lines that say what to type.
func learnPorts(ts *testscript.TestScript, line string) {
	if _, rest, ok := strings.Cut(line, "curl --proxy http://"); ok {
		ts.Setenv("PROXY", strings.Fields(rest)[0])
	}
	if _, rest, ok := strings.Cut(line, "dig @127.0.0.1 -p "); ok {
		name := "DNS"
		if strings.Contains(line, "the office:") {
			name = "LAN"
		}
		ts.Setenv(name, strings.Fields(rest)[0])
	}
}

func cutDownload(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: cut CURL...")
	}
	out, in := io.Pipe()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout = in
	ts.Check(cmd.Start())
	ended := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		in.Close()
		ended <- err
	}()
	if _, err := io.CopyN(io.Discard, out, 1<<20); err != nil {
		ts.Fatalf("the download did not begin: %v", err)
	}
	go io.Copy(io.Discard, out)
	ts.Check(ts.Exec(binary, "demo", "posture", "fail"))
	select {
	case err := <-ended:
		if err == nil {
			ts.Fatalf("the download ended as if it were complete")
		}
		ts.Logf("curl: %v", err) // 18: partial file; 56: reset
	case <-time.After(time.Second):
		cmd.Process.Kill()
		ts.Fatalf("the download goes on after a second")
	}
}
