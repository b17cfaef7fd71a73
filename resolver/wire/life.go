package wire

import "encoding/binary"

// Lives bound how long answers are kept, in seconds.
type Lives struct {
	Least, Most    uint32 // of answers with records of the asked type
	Negative, Fail uint32 // the most for NXDOMAIN and NODATA, and for failures
}

// Settle writes into the answer the TTLs that it is kept with, and returns for
// how many seconds that may be, zero for not at all: the least TTL of its
// records within bounds; for a negative answer what its SOA record says (RFC
// 2308 section 5), nothing without one; for failures a moment (RFC 9520 section
// 3.2). It belongs to whoever has just read the answer, before others see it.
func (a *Answer) Settle(l Lives) uint32 {
	switch {
	case a.Failed():
		return l.Fail
	case a.Negative():
		return min(a.settleNegative(), l.Negative)
	}
	least := max(l.Most, 1)
	for i := range a.TTLs.Len() {
		at := a.TTLs.At(i)
		ttl := a.ttl(at)
		ttl = min(max(ttl, l.Least), l.Most)
		binary.BigEndian.PutUint32(a.Msg[at:], ttl)
		least = min(least, ttl)
	}
	return least
}

// Failed reports whether the answer is none: SERVFAIL, REFUSED and the like.
func (a *Answer) Failed() bool { return a.Rcode != Success && a.Rcode != NXDomain }

// ttl reads a TTL. RFC 2181 section 8: one with the highest bit set is zero.
func (a *Answer) ttl(at int) uint32 {
	ttl := binary.BigEndian.Uint32(a.Msg[at:])
	if ttl > 1<<31-1 {
		return 0
	}
	return ttl
}

// Negative reports whether the name does not exist or has nothing of the asked
// type. A chain of CNAMEs that ends in nothing has not.
func (a *Answer) Negative() bool {
	if a.Rcode == NXDomain {
		return true
	}
	for rr := range a.Records {
		if rr.Section > 0 {
			break
		}
		if rr.Type == a.typ || a.typ == typeANY {
			return false
		}
	}
	return true
}

// settleNegative returns the lesser of the SOA record's TTL and its MINIMUM,
// and no more than what the CNAMEs before it have; zero without a SOA record.
// The record's own TTL is brought down to its MINIMUM, which would prolong the
// answer elsewhere.
func (a *Answer) settleNegative() uint32 {
	least, soa := uint32(1<<31-1), false
	for rr := range a.Records {
		if rr.TTL > 1<<31-1 {
			binary.BigEndian.PutUint32(a.Msg[rr.At:], 0)
			rr.TTL = 0
		}
		if rr.Section == 1 && rr.Type == TypeSOA {
			soa = true
			if minimum := binary.BigEndian.Uint32(rr.Data[len(rr.Data)-4:]); minimum < rr.TTL {
				binary.BigEndian.PutUint32(a.Msg[rr.At:], minimum)
				rr.TTL = minimum
			}
		}
		if rr.Section < 2 {
			least = min(least, rr.TTL)
		}
	}
	if !soa {
		return 0
	}
	return least
}

// Least returns the least TTL of all records, otherwise if there is none.
func (a *Answer) Least(otherwise uint32) uint32 {
	if len(a.TTLs) == 0 {
		return otherwise
	}
	least := a.ttl(a.TTLs.At(0))
	for i := range a.TTLs.Len() {
		least = min(least, a.ttl(a.TTLs.At(i)))
	}
	return least
}
