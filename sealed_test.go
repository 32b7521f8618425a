package session_test

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"sync"
	"time"

	"github.com/distsession/session"
)

// sealing is the smallest client-side store that is one: the token is the
// record, signed. It shows what the manager and the transports make of long
// tokens, apart from any cryptography of the library's.
type sealing struct {
	key []byte
	now func() time.Time

	mu      sync.Mutex
	ended   map[string]bool
	markers map[string]session.Record
}

func newSealing(now func() time.Time) *sealing {
	if now == nil {
		now = time.Now
	}
	s := &sealing{key: make([]byte, 32), now: now, ended: map[string]bool{}, markers: map[string]session.Record{}}
	rand.Read(s.key)
	return s
}

func (s *sealing) mac(b []byte) []byte {
	h := hmac.New(sha256.New, s.key)
	h.Write(b)
	return h.Sum(nil)
}

func (s *sealing) Load(_ context.Context, token string) (*session.Record, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(b) < sha256.Size || !hmac.Equal(b[:sha256.Size], s.mac(b[sha256.Size:])) {
		return nil, session.ErrNotFound
	}
	rec := &session.Record{}
	if err := json.Unmarshal(b[sha256.Size:], rec); err != nil {
		return nil, session.ErrNotFound
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if marker, ok := s.markers[rec.ID]; ok {
		rec = &marker
	}
	if s.ended[rec.ID] || rec.Expired(s.now()) {
		return nil, session.ErrNotFound
	}
	return rec, nil
}

func (s *sealing) Save(_ context.Context, rec *session.Record) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended[rec.ID] {
		return "", session.ErrNotFound
	}
	saved := *rec
	saved.Version++
	saved.Tag = nil
	if rec.Replaced {
		if _, there := s.markers[rec.ID]; there {
			return "", session.ErrConflict
		}
		s.markers[rec.ID] = saved
		return "", nil
	}
	b, err := json.Marshal(saved)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(append(s.mac(b), b...)), nil
}

func (s *sealing) Delete(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended[id] = true
	return nil
}
