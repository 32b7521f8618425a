package sticky

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"time"
)

// Rendezvous hashing (Thaler and Ravishankar, 1998): each node has a score for
// each user, and the highest that can serve does. So a node's end moves its own
// users and no others, the next rank is the same for every balancer, and there
// is no table to build. Research and measurements over modulo, rings and Maglev
// chose it: no collateral moves, and 30 ns for ten nodes.

// entry is a node as it is ranked; a slice of them is walked per request.
type entry struct {
	seed   uint64
	weight float64
	node   *node
	ramp   *ramp // nil: not in slow start
}

// ramp is a slow start.
type ramp struct {
	from time.Time
	over time.Duration
}

// part is how much of its users the node has at t, in 2^64ths.
func (r *ramp) part(t time.Time) uint64 {
	f := float64(t.Sub(r.from)) / float64(r.over)
	switch {
	case f <= 0:
		return 0
	case f >= 1:
		return math.MaxUint64
	}
	return uint64(f * (1 << 63) * 2)
}

// seedOf is the same in every balancer.
func seedOf(id string) uint64 {
	h := sha256.Sum256([]byte("sticky node\x00" + id))
	return binary.LittleEndian.Uint64(h[:])
}

// mix is the finaliser of splitmix64 (Steele, Lea and Flood, 2014).
func mix(z uint64) uint64 {
	z += 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// score of a node of this weight. Both kinds order equal weights alike, so a
// weight that changes moves no more than it must.
func score(h uint64, weight float64, weighted bool) uint64 {
	if !weighted {
		return h
	}
	// −w/ln u is exponentially distributed by weight, so the largest of them is
	// at each node in proportion (weighted rendezvous; Schindelhauer and
	// Schomaker, 2005). 52 bits and a half: never 0, never 1. Positive floats
	// are ordered as their bits are.
	u := (float64(h>>12) + 0.5) / (1 << 52)
	return math.Float64bits(-weight / math.Log(u))
}

// rank returns the node with the highest score for key that is not among the
// tried, nil if there is none. Nodes in slow start take part for some keys only.
func rank(entries []entry, weighted bool, key uint64, tried []*node, now time.Time) *node {
	var best, slow *node
	var bestScore, slowScore uint64
	for i := range entries {
		e := &entries[i]
		if len(tried) > 0 && slices.Contains(tried, e.node) {
			continue
		}
		h := mix(key ^ e.seed)
		s := score(h, e.weight, weighted)
		if e.ramp != nil && mix(h) >= e.ramp.part(now) {
			if slow == nil || s > slowScore {
				slow, slowScore = e.node, s
			}
			continue
		}
		if best == nil || s > bestScore {
			best, bestScore = e.node, s
		}
	}
	if best == nil {
		return slow // better early than nobody
	}
	return best
}

// keyOfAddr is the user behind an address: all of IPv4, a /64 of IPv6.
func keyOfAddr(a netip.Addr) uint64 {
	a = a.Unmap()
	if a.Is4() {
		b := a.As4()
		return mix(uint64(binary.BigEndian.Uint32(b[:])))
	}
	b := a.As16()
	return mix(binary.BigEndian.Uint64(b[:8]))
}

// keyOfString is FNV-1a with a finaliser; alone it spreads badly.
func keyOfString(s string) uint64 {
	h := uint64(0xcbf29ce484222325)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 0x100000001b3
	}
	return mix(h)
}
