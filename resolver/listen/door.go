package listen

import (
	"net/netip"
	"sync"
)

// A door lets connections of one listener in as far as the limits allow.
type door struct {
	limits Limits
	free   chan struct{} // as many as connections may be open
	work   chan struct{} // as many as questions may be in work

	mu     sync.Mutex
	guests map[netip.Addr]*guest
}

// A guest is a client with open connections.
type guest struct {
	conns  int
	places chan struct{} // as many as questions of it may be in work
}

func newDoor(l Limits) *door {
	return &door{
		limits: l,
		free:   make(chan struct{}, or(l.Conns, 2048)),
		work:   make(chan struct{}, or(l.Workers, 1024)),
		guests: make(map[netip.Addr]*guest),
	}
}

// admit takes a place for a connection of a client, or reports that there is
// none. One that is not counted takes only of what there is for all.
func (d *door) admit(client netip.Addr, counted bool) bool {
	select {
	case d.free <- struct{}{}:
	default:
		return false
	}
	if !counted || d.enter(client) {
		return true
	}
	<-d.free
	return false
}

func (d *door) enter(client netip.Addr) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	g := d.guests[client]
	if g == nil {
		g = &guest{places: make(chan struct{}, or(d.limits.PerClient, 256))}
		d.guests[client] = g
	}
	if g.conns >= or(d.limits.ConnsPerClient, 256) {
		return false
	}
	g.conns++
	return true
}

// leave gives back what admit took.
func (d *door) leave(client netip.Addr, counted bool) {
	if counted {
		d.mu.Lock()
		if g := d.guests[client]; g.conns > 1 {
			g.conns--
		} else {
			delete(d.guests, client)
		}
		d.mu.Unlock()
	}
	<-d.free
}

// places returns the places of a client that has a connection.
func (d *door) places(client netip.Addr) chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.guests[client].places
}
