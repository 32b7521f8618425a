package memcachedstore_test

import (
	"errors"
	"testing"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/servers"
	"github.com/distsession/session/memcachedstore"
)

func BenchmarkStore(b *testing.B) {
	s := newStore(b, []string{servers.Memcached(b).Addr}, memcachedstore.Options{})
	b.Run("read", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			_, token := create(b, s, "ann"+session.NewToken())
			for pb.Next() {
				load(b, s, token)
			}
		})
	})
	b.Run("read, nobody's", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			_, token := create(b, s, "")
			for pb.Next() {
				load(b, s, token)
			}
		})
	})
	b.Run("change", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			_, token := create(b, s, "ann"+session.NewToken())
			for pb.Next() {
				if _, err := s.Save(b.Context(), load(b, s, token)); err != nil && !errors.Is(err, session.ErrConflict) {
					b.Fatal(err)
				}
			}
		})
	})
}
