package natsstore_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/faults"
	"github.com/distsession/session/natsstore"
)

// publishes matches the request that writes a session.
func publishes(id string) func([]byte) bool {
	return func(request []byte) bool { return bytes.Contains(request, []byte("HPUB $KV.sessions.r."+id)) }
}

// An answer that was lost on the way is told from a conflict, whatever else
// happens to the session meanwhile.
func TestLostAnswers(t *testing.T) {
	addr := runServer(t, nil)
	direct := openURL(t, "nats://"+addr)
	proxy := faults.NewProxy(t, addr)
	s := openURL(t, "nats://"+proxy.Addr+"?consistency=local")
	lose := func(what, id string, then, call func()) {
		t.Helper()
		proxy.LoseNext(1, publishes(id), then)
		call()
		if proxy.Lost() != 1 {
			t.Fatalf("%s: %d answers were lost", what, proxy.Lost())
		}
	}
	other := func(token string) func() {
		return func() { save(t, direct, load(t, direct, token)) }
	}

	rec, token := draft("ann")
	lose("a sign-in", rec.ID, nil, func() { save(t, s, rec) })
	if got := load(t, direct, token); got.Version != 1 {
		t.Errorf("a sign-in whose answer was lost made version %d", got.Version)
	}
	rec, token = draft("ann")
	lose("a sign-in that another request has used already", rec.ID, other(token), func() { save(t, s, rec) })
	mine := load(t, direct, token)
	mine.Data = []byte(`{"n":2}`)
	lose("a save", rec.ID, nil, func() { save(t, s, mine) })
	if got := load(t, direct, token); got.Version != 3 || string(got.Data) != `{"n":2}` {
		t.Errorf("a save whose answer was lost made version %d, %s", got.Version, got.Data)
	}
	mine = load(t, direct, token)
	lose("a save that another followed", rec.ID, other(token), func() { save(t, s, mine) })
	if got := load(t, direct, token); got.Version != 5 {
		t.Errorf("two saves made version %d of 3", got.Version)
	}
	seen, expires := time.Now().Add(time.Minute), time.Now().Add(2*time.Hour)
	lose("a touch", rec.ID, nil, func() {
		if err := s.Touch(t.Context(), rec.ID, seen, expires); err != nil {
			t.Errorf("Touch: %v", err)
		}
	})
	if got := load(t, direct, token); got.Version != 5 || got.Expires.UnixMilli() != expires.UnixMilli() {
		t.Errorf("after the touch: version %d, expires %v", got.Version, got.Expires)
	}
	lose("a delete", rec.ID, nil, func() {
		if err := s.Delete(t.Context(), rec.ID); err != nil {
			t.Errorf("Delete: %v", err)
		}
	})
	gone(t, direct, token, "after a delete whose answer was lost")

	rec, token = create(t, direct, "bob")
	mine = load(t, direct, token)
	lose("a save that a delete followed", rec.ID, func() {
		if err := direct.Delete(t.Context(), rec.ID); err != nil {
			t.Error(err)
		}
	}, func() {
		if _, err := s.Save(t.Context(), mine); err != nil {
			wantErr(t, "a save that a delete followed", err, session.ErrNotFound)
		}
	})
	gone(t, direct, token, "after the delete that followed the save")

	rec, token = create(t, direct, "carl")
	lose("DeleteUser", rec.ID, nil, func() {
		if n, err := s.DeleteUser(t.Context(), "carl", ""); n != 1 || err != nil {
			t.Errorf("DeleteUser = %d, %v", n, err)
		}
	})
	gone(t, direct, token, "after a DeleteUser whose answer was lost")
}

// Every call returns at its deadline over a connection that is half open, and
// what fails is never "no session".
func TestDeadlines(t *testing.T) {
	addr := runServer(t, nil)
	proxy := faults.NewProxy(t, addr)
	s := openURL(t, "nats://"+proxy.Addr+"?max_stale=500ms")
	rec, token := create(t, s, "ann")
	loaded := load(t, s, token)
	for name, fault := range map[string]func(){"half open": proxy.Stall, "cut": proxy.Cut} {
		fault()
		for call, f := range map[string]func(context.Context) error{
			"Load":        func(ctx context.Context) error { _, err := s.Load(ctx, token); return err },
			"LoadAtLeast": func(ctx context.Context) error { _, err := s.LoadAtLeast(ctx, token, 1); return err },
			"Save":        func(ctx context.Context) error { _, err := s.Save(ctx, loaded); return err },
			"a sign-in":   func(ctx context.Context) error { rec, _ := draft("ann"); _, err := s.Save(ctx, rec); return err },
			"Touch": func(ctx context.Context) error {
				return s.Touch(ctx, rec.ID, time.Now().Add(time.Minute), time.Now().Add(2*time.Hour))
			},
			"Delete":     func(ctx context.Context) error { return s.Delete(ctx, rec.ID) },
			"DeleteUser": func(ctx context.Context) error { _, err := s.DeleteUser(ctx, "ann", ""); return err },
			"List": func(ctx context.Context) error {
				for _, err := range s.List(ctx, "ann") {
					return err
				}
				return nil
			},
			"Scan": func(ctx context.Context) error {
				for _, err := range s.Scan(ctx) {
					return err
				}
				return nil
			},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
			done := make(chan error, 1)
			go func() { done <- f(ctx) }()
			select {
			case err := <-done:
				failed(t, name+": "+call, err)
			case <-time.After(patience):
				t.Fatalf("%s: %s does not return", name, call)
			}
			cancel()
		}
		proxy.Heal()
		until(t, name+": the store's return", func() bool { return s.Ready(t.Context()) == nil })
	}
}

// Eight writers on four stores count to 1600.
func TestIncrements(t *testing.T) {
	addr := runServer(t, nil)
	var stores []*natsstore.Store
	for _, consistency := range []string{"strong", "local", "strong", "local"} {
		stores = append(stores, openURL(t, "nats://"+addr+"?storage=memory&consistency="+consistency))
	}
	_, token := create(t, stores[0], "ann")
	const writers, each = 8, 200
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			s := stores[w%len(stores)]
			rec, err := s.Load(t.Context(), token)
			for n := 0; n < each; {
				if err != nil {
					t.Errorf("Load: %v", err)
					return
				}
				_, saved := s.Save(t.Context(), rec)
				switch {
				case saved == nil:
					n++
					rec, err = s.Load(t.Context(), token)
				case errors.Is(saved, session.ErrConflict):
					rec, err = s.LoadAtLeast(t.Context(), token, rec.Version+1)
				default:
					t.Errorf("Save: %v", saved)
					return
				}
			}
		})
	}
	wg.Wait()
	if got := load(t, stores[0], token); got.Version != writers*each+1 {
		t.Errorf("%d increments made version %d", writers*each, got.Version)
	}
}
