package hazelcaststore_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/hazelcaststore"
	"github.com/distsession/session/hazelcaststore/internal/wire"
	"github.com/distsession/session/internal/servers"
)

// BenchmarkStore measures the store beside a bare get and a bare replace by its
// own client, of as many bytes.
func BenchmarkStore(b *testing.B) {
	cluster := servers.Hazelcast(b, 2)
	s := newStore(b, cluster.Addrs(), hazelcaststore.Options{Cluster: cluster.Cluster})
	conn, err := wire.Dial(b.Context(), cluster.Members[0].Addr, wire.Options{Cluster: cluster.Cluster, Cache: "sessions", Limit: 1 << 20, KeepAlive: time.Minute})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(conn.Close)
	value := bytes.Repeat([]byte("x"), 600)
	if _, err := conn.PutIfAbsent(b.Context(), "bare", value, time.Hour); err != nil {
		b.Fatal(err)
	}
	rec, token := draft("ann", time.Now())
	rec.Data = bytes.Repeat([]byte("x"), 400)
	save(b, s, rec)
	for _, bb := range []struct {
		name string
		do   func(ctx context.Context) error
	}{
		{"load", func(ctx context.Context) error { _, err := s.Load(ctx, token); return err }},
		{"bare get", func(ctx context.Context) error { _, err := conn.Get(ctx, "bare"); return err }},
		{"load and save", func(ctx context.Context) error {
			rec, err := s.Load(ctx, token)
			if err == nil {
				_, err = s.Save(ctx, rec)
			}
			return err
		}},
		{"bare get and replace", func(ctx context.Context) error {
			v, err := conn.Get(ctx, "bare")
			if err == nil {
				_, err = conn.Replace(ctx, "bare", v, value, time.Hour)
			}
			return err
		}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := bb.do(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("load and save, at once", func(b *testing.B) {
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
