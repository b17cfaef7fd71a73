// Package wire reads questions as they came and answers without unpacking
// them, for those that must not allocate.
package wire

// A Question is what a request asks, read in place: its slices are parts of
// the request.
type Question struct {
	Req   []byte // the whole request
	Name  []byte // in wire form and in the asker's letter case, root label included
	Type  uint16
	Class uint16
	End   int // of the question section, where it may be echoed from

	RD, AD, CD bool // header bits

	EDNS    bool
	Version uint8
	DO      bool
	Size    int    // that the asker can take over UDP: at least 512
	Options []byte // of the OPT record, unread
}
