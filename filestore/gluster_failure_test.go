package filestore_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/filestore"
	"github.com/distsession/session/internal/dirstore/treetest"
	"github.com/distsession/session/internal/ledger"
	"github.com/distsession/session/internal/servers"
)

// A brick is killed under load, and comes back: nothing is lost.
func TestGlusterKilledBrick(t *testing.T) {
	g := servers.Gluster(t)
	s := create(t, onGluster(t, g)[0], nil)
	l := ledger.Start(t, s, 4, 8)
	l.During("a brick is killed", func() {
		g.Bricks[0].Kill()
		l.Progress()
	})
	l.During("it comes back", func() {
		g.StartBrick(t, 0)
		l.Progress()
	})
	if lost := l.Check(); lost != 0 {
		t.Errorf("%d lost", lost)
	}
}

// All bricks restart: errors meanwhile, and then the store goes on as it is.
func TestGlusterRestart(t *testing.T) {
	g := servers.Gluster(t)
	s := create(t, onGluster(t, g)[0], nil)
	l := ledger.Start(t, s, 4, 8)
	l.During("all bricks are killed and come back", func() {
		g.Bricks[0].Kill()
		g.Bricks[1].Kill()
		l.Fails()
		g.StartBrick(t, 0)
		g.StartBrick(t, 1)
	})
	l.Progress()
	if lost := l.Check(); lost != 0 {
		t.Errorf("%d lost", lost)
	}
}

// The servers stop answering, and no connection breaks: system calls hang. Every
// call of the store returns at its deadline, the visitor sees 503, and when the
// servers go on, so does the store.
func TestGlusterHalfOpen(t *testing.T) {
	g := servers.Gluster(t)
	const calls = 16
	s := create(t, onGluster(t, g)[0], &filestore.Options{Calls: calls})
	rec, token := treetest.Record("ann")
	_, err := s.Save(t.Context(), rec)
	must(t, err)
	loaded, err := s.Load(t.Context(), token)
	must(t, err)
	m, err := session.New(s, &session.Options{Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	site := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := session.From(r.Context()); err == nil {
			w.WriteHeader(http.StatusNoContent)
		}
	}))
	visit := func() int {
		r := httptest.NewRequest("GET", "/", nil)
		r.AddCookie(&http.Cookie{Name: "__Host-session", Value: token})
		w := httptest.NewRecorder()
		site.ServeHTTP(w, r)
		return w.Code
	}
	if code := visit(); code != http.StatusNoContent {
		t.Fatalf("a visit: status %d", code)
	}
	const deadline, slack = time.Second, 2 * time.Second
	within := func(what string, call func(ctx context.Context) error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		defer cancel()
		at := time.Now()
		err := call(ctx)
		if err == nil || errors.Is(err, session.ErrNotFound) || errors.Is(err, session.ErrConflict) {
			t.Errorf("%s: %v; want an error of the file system", what, err)
		}
		if d := time.Since(at); d > deadline+slack {
			t.Errorf("%s: answered after %v", what, d)
		}
	}
	for _, b := range g.Bricks {
		b.Pause()
	}
	defer func() {
		for _, b := range g.Bricks {
			b.Resume()
		}
	}()
	within("load", func(ctx context.Context) error { _, err := s.Load(ctx, token); return err })
	within("save", func(ctx context.Context) error { _, err := s.Save(ctx, loaded); return err })
	within("touch", func(ctx context.Context) error {
		return s.Touch(ctx, rec.ID, rec.Seen.Add(time.Minute), rec.Expires.Add(-time.Minute))
	})
	within("delete", func(ctx context.Context) error { return s.Delete(ctx, rec.ID) })
	within("list", func(ctx context.Context) error {
		for _, err := range s.List(ctx, "ann") {
			return err
		}
		return nil
	})
	at := time.Now()
	if code := visit(); code != http.StatusServiceUnavailable {
		t.Errorf("a visit: status %d; want 503", code)
	}
	if d := time.Since(at); d > deadline+slack {
		t.Errorf("the visitor waited for %v", d)
	}
	for _, b := range g.Bricks {
		b.Resume()
	}
	servers.Wait(t, "the store to go on", 30*time.Second, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, deadline)
		defer cancel()
		fresh, _ := treetest.Record("ann")
		_, err := s.Save(ctx, fresh)
		return err
	})
	// The Delete's answer did not come: it may have been done.
	if now, err := s.Load(t.Context(), token); err == nil && now.Version != 1 && now.Version != 2 || err != nil && !errors.Is(err, session.ErrNotFound) {
		t.Errorf("after that: %+v, %v", now, err)
	}
}

// The program behind the mount crashes, and the folder is mounted anew: the
// store goes on, and takes what lies below the mount for nothing.
func TestGlusterRemount(t *testing.T) {
	g := servers.Gluster(t)
	dir := onGluster(t, g)[0]
	s := create(t, dir, nil)
	rec, token := treetest.Record("ann")
	_, err := s.Save(t.Context(), rec)
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	fails := func(when string) {
		t.Helper()
		if _, err := s.Load(ctx, token); err == nil || errors.Is(err, session.ErrNotFound) {
			t.Errorf("load %s: %v; want an error of the file system", when, err)
		}
	}
	g.Remount(t, 0, func() {
		fails("while nothing is mounted")
		create(t, below(t, dir), nil)       // somebody has started another program too early
		time.Sleep(1100 * time.Millisecond) // it looks once a second
		fails("while another folder is there")
		must(t, os.RemoveAll(dir))
	})
	servers.Wait(t, "the store to go on", 20*time.Second, func(ctx context.Context) error {
		_, err := s.Load(ctx, token)
		return err
	})
	now, err := s.Load(ctx, token)
	must(t, err)
	if _, err := s.Save(ctx, now); err != nil {
		t.Errorf("save: %v", err)
	}
}

// below makes the folder under the mount point.
func below(t *testing.T, dir string) string {
	t.Helper()
	must(t, os.Mkdir(dir, 0o700))
	return dir
}
