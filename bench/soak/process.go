package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// A process is a child of this program, and ends with it at the latest.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // it has ended
	err  error         // how; to be read when it has
}

// begin starts a program. What it says is added to the file log.
func begin(log, program string, args ...string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p := &process{cmd: exec.Command(program, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// kill ends it as kill -9 does. One that has ended already stays so.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it has ended by itself, which done tells too
	<-p.done
}

// stop has it end, and says if it does not do so in this time, or ends as one
// that has failed.
func (p *process) stop(within time.Duration) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
		return p.err
	case <-time.After(within):
		p.kill()
		return fmt.Errorf("it has not ended in %v", within)
	}
}

var errEnded = errors.New("it has ended by itself")
