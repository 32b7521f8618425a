package filestore_test

import (
	"context"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/filestore"
	"github.com/distsession/session/internal/dirstore/treetest"
)

// The store's calls, on the disk that has the temporary folder, of a session of
// 500 bytes whose context has a deadline, as a request's has.
func BenchmarkStore(b *testing.B) {
	for name, opts := range map[string]*filestore.Options{"sync": {}, "nosync": {InsecureNoSync: true}} {
		b.Run(name, func(b *testing.B) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
			defer cancel()
			s := create(b, folder(b), opts)
			made := func(b *testing.B) (*session.Record, string) {
				rec, token := treetest.Record("ann")
				rec.Data = make([]byte, 500)
				if _, err := s.Save(ctx, rec); err != nil {
					b.Fatal(err)
				}
				return rec, token
			}
			b.Run("create", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					made(b)
				}
			})
			b.Run("load", func(b *testing.B) {
				_, token := made(b)
				b.ReportAllocs()
				for b.Loop() {
					if _, err := s.Load(ctx, token); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run("load and save", func(b *testing.B) {
				_, token := made(b)
				b.ReportAllocs()
				for b.Loop() {
					rec, err := s.Load(ctx, token)
					if err != nil {
						b.Fatal(err)
					}
					if _, err := s.Save(ctx, rec); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run("touch", func(b *testing.B) {
				rec, _ := made(b)
				rec.Expires = rec.Expires.Add(-30 * time.Minute)
				b.ReportAllocs()
				for b.Loop() {
					rec.Seen = rec.Seen.Add(time.Millisecond)
					if err := s.Touch(ctx, rec.ID, rec.Seen, rec.Expires); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run("create and delete", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					rec, _ := made(b)
					if err := s.Delete(ctx, rec.ID); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// A list of eight sessions among ten thousand.
func BenchmarkList(b *testing.B) {
	s := create(b, folder(b), &filestore.Options{InsecureNoSync: true})
	for i := range 10_000 {
		rec, _ := treetest.Record("user")
		if rec.User = session.NewToken(); i < 8 {
			rec.User = "ann"
		}
		if _, err := s.Save(b.Context(), rec); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for _, err := range s.List(b.Context(), "ann") {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != 8 {
			b.Fatalf("%d sessions", n)
		}
	}
}
