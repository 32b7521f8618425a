package sqlstore

import (
	"testing"
	"time"

	"github.com/distsession/session"
)

// SetClock gives a store that Open made another clock, before its first use.
func SetClock(s session.Store, now func() time.Time) { s.(*Store).now = now }

// Pages are how many rows a statement of List and of Clean takes.
const ListPage, CleanPage = listPage, cleanPage

// Pragma is the number that a pragma has on the connection that writes.
func Pragma(t testing.TB, s *Store, name string) (n int) {
	t.Helper()
	if err := s.write.QueryRowContext(t.Context(), "PRAGMA "+name).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
