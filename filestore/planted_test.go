package filestore_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/dirstore"
	"github.com/distsession/session/internal/dirstore/treetest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// What somebody has planted in the folder leads nowhere.
func TestPlanted(t *testing.T) {
	for _, tt := range []struct {
		why   string
		plant func(t *testing.T, e *linkEnv, victim *session.Record, at, outside string)
	}{
		{"a record is a link to a folder outside", func(t *testing.T, e *linkEnv, _ *session.Record, at, outside string) {
			must(t, os.Symlink(outside, at))
		}},
		{"a record is a link to another record", func(t *testing.T, e *linkEnv, victim *session.Record, at, _ string) {
			must(t, os.Symlink(filepath.Join(e.dir, dirstore.Dir(victim.ID)), at))
		}},
		{"a record is a relative link to another record", func(t *testing.T, e *linkEnv, victim *session.Record, at, _ string) {
			must(t, os.Symlink(filepath.Join("../../..", dirstore.Dir(victim.ID)), at))
		}},
		{"a record is a copy of another record", func(t *testing.T, e *linkEnv, victim *session.Record, at, _ string) {
			must(t, os.CopyFS(at, os.DirFS(filepath.Join(e.dir, dirstore.Dir(victim.ID)))))
		}},
		{"a version is a link to a file outside", func(t *testing.T, e *linkEnv, _ *session.Record, at, outside string) {
			must(t, os.Mkdir(at, 0o700))
			must(t, os.Symlink(filepath.Join(outside, "1.aaaaaa"), filepath.Join(at, "1.aaaaaa")))
		}},
		{"a version is a pipe, at which a reader would wait for ever", func(t *testing.T, e *linkEnv, _ *session.Record, at, _ string) {
			must(t, os.Mkdir(at, 0o700))
			must(t, syscall.Mkfifo(filepath.Join(at, "1.aaaaaa"), 0o600))
		}},
		{"a version is a folder", func(t *testing.T, e *linkEnv, _ *session.Record, at, _ string) {
			must(t, os.MkdirAll(filepath.Join(at, "1.aaaaaa"), 0o700))
		}},
		{"a version is empty", func(t *testing.T, e *linkEnv, _ *session.Record, at, _ string) {
			must(t, os.Mkdir(at, 0o700))
			must(t, os.WriteFile(filepath.Join(at, "1.aaaaaa"), nil, 0o600))
		}},
		{"a version is huge", func(t *testing.T, e *linkEnv, _ *session.Record, at, _ string) {
			must(t, os.Mkdir(at, 0o700))
			must(t, os.WriteFile(filepath.Join(at, "1.aaaaaa"), nil, 0o600))
			must(t, os.Truncate(filepath.Join(at, "1.aaaaaa"), 1<<40))
		}},
		{"a record is a file", func(t *testing.T, e *linkEnv, _ *session.Record, at, _ string) {
			must(t, os.WriteFile(at, []byte("x"), 0o600))
		}},
		{"a record is empty", func(t *testing.T, e *linkEnv, _ *session.Record, at, _ string) {
			must(t, os.Mkdir(at, 0o700))
		}},
	} {
		t.Run(tt.why, func(t *testing.T) {
			e := newLinkEnv(t)
			victim, token := e.create("ann")
			outside := folder(t)
			kept := filepath.Join(outside, "1.aaaaaa")
			must(t, os.WriteFile(kept, []byte("kept"), 0o600))
			planted := session.NewToken()
			id := session.ID(planted)
			at := filepath.Join(e.dir, dirstore.Dir(id))
			must(t, os.MkdirAll(filepath.Dir(at), 0o700))
			tt.plant(t, e, victim, at, outside)

			if rec, err := e.well.Load(t.Context(), planted); err == nil {
				t.Errorf("it is loaded: %+v", rec)
			}
			late := *victim
			late.ID, late.Tag = id, nil
			if _, err := e.well.Save(t.Context(), &late); err == nil {
				t.Error("it is saved")
			}
			if err := e.well.(session.Toucher).Touch(t.Context(), id, time.Now(), time.Now().Add(3*time.Hour)); err == nil {
				t.Error("it is touched")
			}
			if _, err := e.well.(session.Cleaner).Clean(t.Context(), time.Now(), 0); err != nil {
				t.Errorf("Clean: %v", err)
			}
			if err := e.well.Delete(t.Context(), id); err != nil {
				t.Errorf("delete: %v", err)
			}
			if _, err := e.well.Load(t.Context(), planted); !errors.Is(err, session.ErrNotFound) {
				t.Errorf("after Delete: %v", err)
			}
			if text, err := os.ReadFile(kept); string(text) != "kept" {
				t.Errorf("what lies outside: %q, %v", text, err)
			}
			if now := e.load(token); now.User != "ann" || !now.Expires.Equal(victim.Expires) {
				t.Errorf("the other session: %+v", now)
			}
		})
	}
}

// What is not the store's own is passed over, everywhere.
func TestForeignEntries(t *testing.T) {
	e := newLinkEnv(t)
	rec, token := e.create("ann")
	outside := folder(t)
	must(t, os.WriteFile(filepath.Join(outside, "kept"), nil, 0o600))
	record := filepath.Join(e.dir, dirstore.Dir(rec.ID))
	for _, dir := range []string{e.dir, record, filepath.Dir(record), filepath.Join(e.dir, "sessions"), filepath.Join(e.dir, "users")} {
		for _, name := range []string{"lost+found", ".nfs0001", "README", "0", "1", "1.", ".", "99.toolong", "99.abcdef.1.2", "-1.abcdef", "07.abcdef"} {
			if name != "." {
				must(t, os.WriteFile(filepath.Join(dir, name), []byte("foreign"), 0o600))
			}
		}
		must(t, os.Mkdir(filepath.Join(dir, ".snapshots"), 0o700))
		must(t, os.Symlink(outside, filepath.Join(dir, "link")))
	}
	old := time.Now().Add(-48 * time.Hour)
	must(t, os.Symlink(outside, filepath.Join(e.dir, "new", "link")))
	must(t, os.Chtimes(filepath.Join(outside, "kept"), old, old))

	e.others(token, 2)
	if n, err := e.well.(session.Cleaner).Clean(t.Context(), time.Now(), 0); n != 0 || err != nil {
		t.Errorf("Clean = %d, %v", n, err)
	}
	scanned := 0
	for got, err := range e.well.(session.Scanner).Scan(t.Context()) {
		if err != nil || got.ID != rec.ID {
			t.Errorf("Scan: %+v, %v", got, err)
		}
		scanned++
	}
	listed := 0
	for got, err := range session.List(t.Context(), e.well, "ann") {
		if err != nil || got.ID != rec.ID {
			t.Errorf("List: %+v, %v", got, err)
		}
		listed++
	}
	if scanned != 1 || listed != 1 {
		t.Errorf("scanned %d, listed %d", scanned, listed)
	}
	if _, err := os.Stat(filepath.Join(outside, "kept")); err != nil {
		t.Error(err)
	}
}

// Somebody ends all sessions with rm -r, under programs that run.
func TestRemovedByHand(t *testing.T) {
	dir := folder(t)
	a, b := create(t, dir, nil), create(t, dir, nil)
	rec, token := treetest.Record("ann")
	for range 3 {
		_, err := a.Save(t.Context(), rec)
		must(t, err)
		for _, s := range []session.Store{a, b} {
			_, err := s.Load(t.Context(), token)
			must(t, err)
		}
		for _, sub := range []string{"sessions", "users"} {
			entries, err := os.ReadDir(filepath.Join(dir, sub))
			must(t, err)
			for _, e := range entries {
				must(t, os.RemoveAll(filepath.Join(dir, sub, e.Name())))
			}
		}
		for _, s := range []session.Store{a, b} {
			if _, err := s.Load(t.Context(), token); !errors.Is(err, session.ErrNotFound) {
				t.Errorf("what was removed by hand: %v", err)
			}
		}
	}
}
