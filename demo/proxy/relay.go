package proxy

import (
	"io"
	"net"
	"sync"
)

// relay copies between a client and its connection over the link until both
// directions have ended. An end is passed on as it came: the end of one
// direction as that, anything else as a reset, for nobody can tell a cut
// stream from a complete one otherwise.
func relay(client, far net.Conn) error {
	stop := watch(far, client)
	defer stop()
	var once sync.Once
	var cause error
	carry := func(dst, src net.Conn) {
		_, err := io.Copy(dst, src)
		if err == nil {
			err = closeWrite(dst)
		}
		if err != nil {
			once.Do(func() {
				cause = err
				abort(client)
				abort(far)
			})
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		carry(far, client)
	}()
	carry(client, far)
	<-done
	client.Close()
	far.Close()
	return cause
}

// watch aborts the client as soon as the far connection breaks, even while a
// copy from one to the other waits for the client to read. The function that it
// returns ends that.
func watch(far, client net.Conn) (stop func()) {
	b, ok := far.(interface{ Broken() <-chan struct{} })
	if !ok {
		return func() {}
	}
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-b.Broken():
			abort(client)
		case <-quit:
		}
	}()
	return sync.OnceFunc(func() { close(quit); <-ended })
}

// abort closes a connection with a reset where it knows how.
func abort(c net.Conn) {
	if l, ok := c.(interface{ SetLinger(int) error }); ok {
		l.SetLinger(0)
	}
	c.Close()
}

func closeWrite(c net.Conn) error {
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return c.Close()
}
