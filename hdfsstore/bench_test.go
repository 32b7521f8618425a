package hdfsstore_test

import (
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/hdfsstore"
)

func BenchmarkStore(b *testing.B) {
	c := newCluster(b)
	s := c.store(b, c.folder(), hdfsstore.Options{})
	draft := func() (*session.Record, string) {
		token := session.NewToken()
		now := time.Now()
		return &session.Record{
			ID: session.ID(token), Created: now, Seen: now, Expires: now.Add(time.Hour), Deadline: now.Add(1000 * time.Hour), Data: make([]byte, 2000),
		}, token
	}
	b.Run("create", func(b *testing.B) {
		for b.Loop() {
			rec, _ := draft()
			save(b, s, rec)
		}
	})
	rec, token := draft()
	save(b, s, rec)
	b.Run("load", func(b *testing.B) {
		for b.Loop() {
			load(b, s, token)
		}
	})
	b.Run("load and save", func(b *testing.B) {
		for b.Loop() {
			save(b, s, load(b, s, token))
		}
	})
	b.Run("touch", func(b *testing.B) {
		at := rec.Seen
		for b.Loop() {
			at = at.Add(time.Millisecond)
			must(b, s.Touch(b.Context(), rec.ID, at, at.Add(time.Hour)))
		}
	})
	b.Run("delete", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			rec, _ := draft()
			save(b, s, rec)
			b.StartTimer()
			must(b, s.Delete(b.Context(), rec.ID))
		}
	})
}
