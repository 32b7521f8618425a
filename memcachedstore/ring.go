package memcachedstore

// ring says which server a key belongs to, by rendezvous hashing: each server
// gives each key a number, and the highest one has it. So a server that joins
// takes its share from all the others, and no key moves between those. The
// client's own list (CRC-32 modulo the number of servers) moves 75 % of the
// keys when a fourth server joins three.
type ring []ringServer

type ringServer struct {
	addr string
	seed uint64
}

// newRing returns the ring of these addresses, in their order. A server's
// share depends on how its address is spelled and not on its place.
func newRing(addrs []string) ring {
	r := make(ring, len(addrs))
	for i, addr := range addrs {
		r[i] = ringServer{addr, hash(addr)}
	}
	return r
}

// pick returns the place of the key's server.
func (r ring) pick(key string) int {
	if len(r) == 1 {
		return 0
	}
	h := hash(key)
	best, most := 0, uint64(0)
	for i, s := range r {
		weight := mix(h ^ s.seed)
		if i == 0 || weight > most || weight == most && s.addr > r[best].addr {
			best, most = i, weight
		}
	}
	return best
}

// hash is FNV-1a, mixed. It must be the same in every process and in every
// version of this package.
func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return mix(h)
}

// mix spreads every bit over all (the finalizer of MurmurHash3).
func mix(h uint64) uint64 {
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
