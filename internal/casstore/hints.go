package casstore

import "sync/atomic"

// hints remember whose a session was when it was read last, so that the next
// Load can ask for the record and for the user's index at once. A hint that is
// wrong or gone costs time and nothing else.
const slots = 8192

type hints [slots]atomic.Pointer[hint]

type hint struct{ id, userKey string }

// slot is FNV-1a.
func slot(id string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(id) {
		h = (h ^ uint64(id[i])) * 1099511628211
	}
	return h % slots
}

func (h *hints) get(id string) (userKey string) {
	if at := h[slot(id)].Load(); at != nil && at.id == id {
		return at.userKey
	}
	return ""
}

func (h *hints) put(id, userKey string) {
	at := &h[slot(id)]
	if old := at.Load(); old == nil || old.id != id || old.userKey != userKey {
		at.Store(&hint{id, userKey})
	}
}
