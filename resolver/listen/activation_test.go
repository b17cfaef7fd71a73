package listen

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestActivatedChild is the process that the sockets are passed to.
func TestActivatedChild(t *testing.T) {
	if os.Getenv("LISTEN_CHILD") == "" {
		t.Skip("is started by TestActivated")
	}
	if os.Getenv("LISTEN_CHILD") == "mine" {
		os.Setenv("LISTEN_PID", fmt.Sprint(os.Getpid())) // which its parent could not know
	}
	socks, err := Activated()
	if err != nil {
		fmt.Printf("\n%s\n", must(json.Marshal([]string{"error", err.Error()})))
		return
	}
	out := []string{}
	for _, s := range socks {
		if s.Packet != nil {
			out = append(out, s.Name+" udp "+s.Packet.LocalAddr().String())
		} else {
			out = append(out, s.Name+" tcp "+s.Stream.Addr().String())
		}
		s.Close()
	}
	again, _ := Activated()
	if len(again) > 0 || os.Getenv("LISTEN_FDS") != "" {
		out = append(out, "passed on")
	}
	fmt.Printf("\n%s\n", must(json.Marshal(out)))
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func TestActivated(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	pc, err := net.ListenPacket("udp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	var files []*os.File
	for _, s := range []interface{ File() (*os.File, error) }{l.(*net.TCPListener), pc.(*net.UDPConn)} {
		f, err := s.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	tcp, udp := " tcp "+l.Addr().String(), " udp "+pc.LocalAddr().String()
	tests := []struct {
		what  string
		child string
		env   []string
		files []*os.File
		want  []string
	}{
		{"two sockets", "mine", []string{"LISTEN_FDS=2", "LISTEN_FDNAMES=dot:dns"}, files, []string{"dot" + tcp, "dns" + udp}},
		{"of one name", "mine", []string{"LISTEN_FDS=2", "LISTEN_FDNAMES=dns:dns"}, files, []string{"dns" + tcp, "dns" + udp}},
		{"without names", "mine", []string{"LISTEN_FDS=2"}, files, []string{"LISTEN_FD_3" + tcp, "LISTEN_FD_4" + udp}},
		{"for another process", "other", []string{"LISTEN_FDS=2", "LISTEN_PID=1"}, files, []string{}},
		{"none", "mine", nil, nil, []string{}},
		{"junk", "mine", []string{"LISTEN_FDS=many"}, files, []string{}},
		{"no socket", "mine", []string{"LISTEN_FDS=2", "LISTEN_FDNAMES=dns:file"}, []*os.File{files[0], null}, []string{"error", `"file"`}},
	}
	for _, tt := range tests {
		cmd := exec.Command(os.Args[0], "-test.run=^TestActivatedChild$")
		cmd.Env = append(append(os.Environ(), "LISTEN_CHILD="+tt.child), tt.env...)
		cmd.ExtraFiles = tt.files
		b, err := cmd.Output()
		if err != nil {
			t.Errorf("%s: %v\n%s", tt.what, err, b)
			continue
		}
		var got []string
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, "[") {
				json.Unmarshal([]byte(line), &got)
			}
		}
		ok := len(got) == len(tt.want)
		for i := range min(len(got), len(tt.want)) {
			ok = ok && strings.Contains(got[i], tt.want[i])
		}
		if !ok {
			t.Errorf("%s: got %q, want %q", tt.what, got, tt.want)
		}
	}
}
