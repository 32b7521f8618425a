package hdfsstore_test

import (
	"errors"
	"io/fs"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/hdfsstore"
	"github.com/distsession/session/internal/dirstore"
)

// What is wrong with a place is told at the start, with the mend.
func (c *cluster) testCheck(t *testing.T) {
	must(t, c.super.Mkdir("/closed", 0o700)) // the superuser's
	for _, tt := range []struct {
		root, mend, why string
		make            func(root string) error
	}{
		{"/closed/sessions", "-chown app /closed/sessions", "in a directory that the user may not enter", nil},
		{"/sessions", "-chown app /sessions", "beside directories that are the superuser's", nil},
		{c.folder(), "-chmod 700", "writable by others", func(root string) error {
			return errors.Join(c.super.Mkdir(root, 0o770), c.super.Chown(root, user, ""), c.super.Chmod(root, 0o770))
		}},
		{c.folder(), "a file", "a file", func(root string) error { return c.super.CreateEmptyFile(root) }},
		{c.folder(), "-chown app", "somebody else's", func(root string) error { return c.super.Mkdir(root, 0o700) }},
	} {
		t.Run(tt.why, func(t *testing.T) {
			if tt.make != nil {
				must(t, tt.make(tt.root))
			}
			_, err := session.Open(t.Context(), c.url(tt.root))
			if !errors.Is(err, session.ErrConfig) || !strings.Contains(err.Error(), tt.mend) {
				t.Errorf("%v; want ErrConfig with %q", err, tt.mend)
			}
		})
	}
}

// What is made is for the user alone, lies in one directory, and goes again.
func (c *cluster) testDirectory(t *testing.T) {
	root := c.folder()
	s := c.store(t, root, hdfsstore.Options{Replication: 1})
	rec, token := create(t, s)
	save(t, s, load(t, s, token))
	files := 0
	must(t, c.super.Walk(root, func(name string, info fs.FileInfo, err error) error {
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
		if err == nil && !info.IsDir() {
			files++
		}
		return err
	}))
	if files != 1 {
		t.Errorf("%d files for one session; want 1", files)
	}
	must(t, s.Delete(t.Context(), rec.ID))
	for _, dir := range []string{path.Dir(dirstore.Dir(rec.ID)), dirstore.NewDir, dirstore.OldDir} {
		left, err := c.super.ReadDir(path.Join(root, dir))
		must(t, err)
		if len(left) != 0 {
			t.Errorf("%s: %d names are left", dir, len(left))
		}
	}
}

// Nodes whose clocks are a minute off: a session ends a minute early or late on
// them, and no write is lost.
func (c *cluster) testClocks(t *testing.T) {
	root := c.folder()
	off := func(d time.Duration) *hdfsstore.Store {
		return c.store(t, root, hdfsstore.Options{Now: func() time.Time { return time.Now().Add(d) }})
	}
	behind, right, ahead := off(-time.Minute), off(0), off(time.Minute)
	rec, token := create(t, right)
	for i, s := range []*hdfsstore.Store{ahead, behind, right, behind, ahead} {
		got := load(t, s, token)
		if got.Version != int64(i+1) {
			t.Errorf("version %d; want %d", got.Version, i+1)
		}
		save(t, s, got)
		_, err := right.Save(t.Context(), got)
		wantErr(t, "the same version again", err, session.ErrConflict)
	}
	// A touch by a clock that is behind takes nothing back.
	seen, expires := time.Now().Add(time.Minute), rec.Expires.Add(time.Minute)
	must(t, ahead.Touch(t.Context(), rec.ID, seen, expires))
	must(t, behind.Touch(t.Context(), rec.ID, seen.Add(-2*time.Minute), expires.Add(-2*time.Minute)))
	if got := load(t, right, token); got.Seen.UnixMilli() != seen.UnixMilli() || got.Expires.UnixMilli() != expires.UnixMilli() {
		t.Errorf("seen %v, expires %v; want %v, %v", got.Seen, got.Expires, seen, expires)
	}
	short := load(t, right, token)
	short.Expires = time.Now().Add(30 * time.Second)
	save(t, right, short)
	load(t, right, token)
	load(t, behind, token)
	_, err := ahead.Load(t.Context(), token)
	wantErr(t, "half a minute before its end, by a clock that is ahead", err, session.ErrNotFound)
	if n, err := behind.Clean(t.Context(), time.Now().Add(-time.Minute), 0); n != 0 || err != nil {
		t.Errorf("clean, a minute behind: %d, %v", n, err)
	}
	// What is being made is swept by the namenode's clock.
	must(t, c.super.Mkdir(path.Join(root, dirstore.NewDir, "young"), 0o700))
	if n, err := ahead.Clean(t.Context(), time.Now().Add(time.Minute), 0); n != 1 || err != nil {
		t.Errorf("clean, a minute ahead: %d, %v", n, err)
	}
	if _, err := c.super.Stat(path.Join(root, dirstore.NewDir, "young")); err != nil {
		t.Errorf("what another node is making was swept: %v", err)
	}
}
