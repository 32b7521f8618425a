package natsstore_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/distsession/session"
	"github.com/distsession/session/natsstore"
)

func BenchmarkStore(b *testing.B) {
	for _, n := range []int{1, 3} {
		nodes := startNodes(b, n)
		for _, c := range []natsstore.Consistency{natsstore.Strong, natsstore.Local} {
			s := open(b, nodes[0], &natsstore.Options{Bucket: newBucket(), Consistency: c})
			name := fmt.Sprintf("%d nodes, %v", n, c)
			b.Run(name+", read", func(b *testing.B) {
				_, token := create(b, s, "ann")
				b.ReportAllocs()
				for b.Loop() {
					load(b, s, token)
				}
			})
			b.Run(name+", change", func(b *testing.B) {
				_, token := create(b, s, "ann")
				for b.Loop() {
					if _, err := s.Save(b.Context(), load(b, s, token)); err != nil && !errors.Is(err, session.ErrConflict) {
						b.Fatal(err)
					}
				}
			})
		}
	}
	b.Run("memory, read", func(b *testing.B) {
		s := session.NewMemoryStore(nil)
		_, token := create(b, s, "ann")
		b.ReportAllocs()
		for b.Loop() {
			load(b, s, token)
		}
	})
}
