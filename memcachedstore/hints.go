package memcachedstore

import "sync/atomic"

// hints remember whose a session was when it was read last, so that the next
// Load can ask for the record and for the user's index at once. A hint that is
// wrong or gone costs time and nothing else.
type hints [8192]atomic.Pointer[hint]

type hint struct{ id, userKey string }

func (h *hints) get(id string) (userKey string) {
	if at := h[hash(id)%uint64(len(h))].Load(); at != nil && at.id == id {
		return at.userKey
	}
	return ""
}

func (h *hints) put(id, userKey string) {
	at := &h[hash(id)%uint64(len(h))]
	if old := at.Load(); old == nil || old.id != id || old.userKey != userKey {
		at.Store(&hint{id, userKey})
	}
}
