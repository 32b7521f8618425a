package filestore_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/filestore"
	"github.com/distsession/session/internal/dirstore/treetest"
	"github.com/distsession/session/internal/servers"
)

// smallDisk mounts a file system of its own.
func smallDisk(t *testing.T, options string) string {
	t.Helper()
	if os.Getenv("SESSION_SERVERS") == "none" {
		t.Skip("SESSION_SERVERS=none: nothing is mounted")
	}
	if os.Geteuid() != 0 {
		servers.Lacking(t, "mounting a small disk takes root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=700,"+options); err != nil {
		servers.Lacking(t, "mounting a small disk: "+err.Error())
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// A full disk is an error, nothing is lost, and a session can still be ended.
func TestFullDisk(t *testing.T) {
	for _, tt := range []struct {
		why, options string
		fill         func(dir string) error // the next piece
	}{
		{"no more blocks", "size=512k", func(dir string) error {
			f, err := os.OpenFile(filepath.Join(dir, "ballast"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			if err != nil {
				return err
			}
			_, err = f.Write(make([]byte, 4096))
			return errors.Join(err, f.Close())
		}},
		{"no more inodes", "size=10m,nr_inodes=60", func() func(string) error {
			n := 0
			return func(dir string) error {
				n++
				return os.WriteFile(filepath.Join(dir, fmt.Sprint("ballast", n)), nil, 0o600)
			}
		}()},
	} {
		t.Run(tt.why, func(t *testing.T) {
			dir := smallDisk(t, tt.options)
			s := create(t, dir, nil)
			m, err := session.New(s, &session.Options{Logger: slog.New(slog.DiscardHandler)})
			must(t, err)
			key := session.NewKey[string]("cart")
			site := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if in, err := session.From(r.Context()); err == nil {
					key.Set(in, "book")
				}
			}))
			visit := func() int {
				w := httptest.NewRecorder()
				site.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
				return w.Code
			}
			ended, endedToken := treetest.Record("ann")
			kept, token := treetest.Record("ann")
			for _, rec := range []*session.Record{ended, kept} {
				if _, err := s.Save(t.Context(), rec); err != nil {
					t.Fatal(err)
				}
			}
			rec, err := s.Load(t.Context(), token)
			must(t, err)
			full := false
			for range 10_000 {
				if err := tt.fill(dir); err != nil {
					full = errors.Is(err, syscall.ENOSPC)
					break
				}
			}
			if !full {
				t.Fatal("the disk does not fill")
			}
			rec.Data = make([]byte, 8000)
			if _, err := s.Save(t.Context(), rec); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("save on a full disk: %v; want ENOSPC", err)
			}
			if code := visit(); code != http.StatusServiceUnavailable {
				t.Errorf("a visit: status %d; want 503", code)
			}
			if now, err := s.Load(t.Context(), token); err != nil || string(now.Data) != "old" || now.Version != 1 {
				t.Errorf("load on a full disk: %+v, %v", now, err)
			}
			if err := s.Delete(t.Context(), ended.ID); err != nil {
				t.Errorf("delete on a full disk: %v", err)
			}
			if _, err := s.Load(t.Context(), endedToken); !errors.Is(err, session.ErrNotFound) {
				t.Errorf("load of what was deleted: %v", err)
			}
			if left, err := os.ReadDir(filepath.Join(dir, "new")); err != nil || len(left) > 0 {
				t.Errorf("left: %v, %v", left, err)
			}
			ballast, _ := filepath.Glob(filepath.Join(dir, "ballast*"))
			for _, path := range ballast {
				must(t, os.Remove(path))
			}
			if _, err := s.Save(t.Context(), rec); err != nil {
				t.Errorf("save when there is room again: %v", err)
			}
			if code := visit(); code != http.StatusOK {
				t.Errorf("a visit: status %d; want 200", code)
			}
		})
	}
}

func TestReadOnlyDisk(t *testing.T) {
	dir := smallDisk(t, "size=512k")
	s := create(t, dir, nil)
	rec, token := treetest.Record("ann")
	_, err := s.Save(t.Context(), rec)
	must(t, err)
	rec, err = s.Load(t.Context(), token)
	must(t, err)
	must(t, syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	for what, err := range map[string]error{
		"save":   func() error { _, err := s.Save(t.Context(), rec); return err }(),
		"touch":  s.Touch(t.Context(), rec.ID, rec.Seen.Add(time.Minute), rec.Expires),
		"delete": s.Delete(t.Context(), rec.ID),
	} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v; want EROFS", what, err)
		}
	}
	if _, err := s.Load(t.Context(), token); err != nil {
		t.Errorf("load: %v", err)
	}
	if _, err := filestore.New(t.Context(), dir, nil); !errors.Is(err, session.ErrConfig) {
		t.Errorf("a store in a folder that is read-only: %v; want ErrConfig", err)
	}
	must(t, syscall.Mount("", dir, "", syscall.MS_REMOUNT, ""))
	if err := s.Delete(t.Context(), rec.ID); err != nil {
		t.Errorf("delete when it can be written again: %v", err)
	}
}
