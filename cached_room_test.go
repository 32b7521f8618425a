package session_test

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distsession/session"
)

// The bound is what the copies really take, give or take a quarter.
func TestCachedMaxBytes(t *testing.T) {
	const maxBytes = 8 << 20
	heap := func() int {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	for _, data := range []int{7, 300, 4000, 60_000} {
		backup := &generous{data: []byte(`{"v":"` + strings.Repeat("x", data) + `"}`)}
		empty := heap()
		s := session.Cached(backup, &session.CachedOptions{MaxStale: time.Hour, MaxBytes: maxBytes})
		for range 6 * maxBytes / (data + 600) {
			if _, err := s.Load(t.Context(), session.NewToken()); err != nil {
				t.Fatal(err)
			}
		}
		if took := heap() - empty; took < maxBytes/2 || took > maxBytes*5/4 {
			t.Errorf("with values of %d bytes the copies take %d bytes; MaxBytes is %d", data, took, maxBytes)
		}
		runtime.KeepAlive(s)
		session.Close(s)
	}
	// What does not fit at all is not kept, and not in the way.
	backup := &generous{data: make([]byte, 3000)}
	s := session.Cached(backup, &session.CachedOptions{MaxStale: time.Hour, MaxBytes: 2000})
	token := session.NewToken()
	for range 2 {
		load(t, s, token)
	}
	if backup.loads != 2 {
		t.Errorf("%d loads", backup.loads)
	}
}

// generous has a session for every token.
type generous struct {
	data  []byte
	loads int
}

func (g *generous) Load(_ context.Context, token string) (*session.Record, error) {
	g.loads++
	now := time.Now()
	return &session.Record{
		ID: session.ID(token), User: "ann", Device: "Firefox on Linux", Created: now, Seen: now, Expires: now.Add(time.Hour), Version: 1, Data: g.data,
	}, nil
}
func (g *generous) Save(context.Context, *session.Record) (string, error) { return "", nil }
func (g *generous) Delete(context.Context, string) error                  { return nil }

// Sessions in use stay, those that came once go.
func TestCachedKeepsWhatIsUsed(t *testing.T) {
	backup := &generous{data: []byte(`{}`)}
	s := session.Cached(backup, &session.CachedOptions{MaxStale: time.Hour, MaxBytes: 100 * 700})
	var used []string
	for range 20 {
		used = append(used, session.NewToken())
	}
	for range 50 {
		for _, token := range used {
			load(t, s, token)
		}
		for range 30 {
			load(t, s, session.NewToken())
		}
	}
	if n := backup.loads - 50*30; n > 2*len(used) {
		t.Errorf("%d sessions in use were loaded %d times", len(used), n)
	}
}

// What nobody asks for any more leaves the memory by itself.
func TestCachedForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, &session.CachedOptions{MaxStale: 10 * time.Second, StaleIfDown: time.Minute})
		for range 100 {
			create(t, c)
		}
		if n := session.Copies(c.Store); n != 100 {
			t.Fatalf("%d copies of 100", n)
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if n := session.Copies(c.Store); n != 0 {
			t.Errorf("%d copies after all are dead", n)
		}
		create(t, c)
		if err := session.Close(c.Store); err != nil {
			t.Error(err)
		}
		if n := session.Copies(c.Store); n != 0 {
			t.Errorf("%d copies after Close", n)
		}
	})
}

func BenchmarkCached(b *testing.B) {
	memory := session.NewMemoryStore(nil)
	for name, s := range map[string]session.Store{
		"memory": memory, "cached": session.Cached(session.NewMemoryStore(nil), &session.CachedOptions{MaxStale: time.Hour}),
		"missed": session.Cached(session.NewMemoryStore(nil), &session.CachedOptions{MaxBytes: 1}),
	} {
		_, token := create(b, s)
		b.Run("load/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Load(b.Context(), token); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("parallel/"+name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := s.Load(b.Context(), token); err != nil {
						b.Error(err)
					}
				}
			})
		})
		b.Run("save/"+name, func(b *testing.B) {
			b.ReportAllocs()
			rec := load(b, s, token)
			for b.Loop() {
				if _, err := s.Save(b.Context(), rec); err != nil {
					b.Fatal(err)
				}
				rec.Version++
			}
		})
	}
}
