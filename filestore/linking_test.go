package filestore_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/dirstore"
	"github.com/distsession/session/internal/dirstore/treetest"
)

// linkEnv is a store that works, and one on the same folder whose tree is in
// the test's hands.
type linkEnv struct {
	*testing.T
	dir   string
	well  session.Store
	tree  *treetest.Faulty
	store session.Store
}

func newLinkEnv(t *testing.T) *linkEnv {
	t.Helper()
	dir := folder(t)
	well := faultyTree(t, dir)
	tree := &treetest.Faulty{Tree: well.Tree}
	return &linkEnv{t, dir, openFaulty(well), tree, openFaulty(tree)}
}

func (e *linkEnv) create(user string) (*session.Record, string) {
	e.Helper()
	rec, token := treetest.Record(user)
	if _, err := e.well.Save(e.Context(), rec); err != nil {
		e.Fatalf("create: %v", err)
	}
	return e.load(token), token
}

func (e *linkEnv) load(token string) *session.Record {
	e.Helper()
	rec, err := e.well.Load(e.Context(), token)
	if err != nil {
		e.Fatalf("load: %v", err)
	}
	return rec
}

// others saves n times.
func (e *linkEnv) others(token string, n int) {
	e.Helper()
	for range n {
		rec := e.load(token)
		rec.Data = fmt.Appendf(nil, "theirs %d", rec.Version)
		if _, err := e.well.Save(e.Context(), rec); err != nil {
			e.Fatalf("another's save: %v", err)
		}
	}
}

// files are the names in a record's directory.
func (e *linkEnv) files(id string) []string {
	e.Helper()
	entries, err := os.ReadDir(path.Join(e.dir, dirstore.Dir(id)))
	if err != nil {
		e.Fatal(err)
	}
	var names []string
	for _, f := range entries {
		names = append(names, f.Name())
	}
	return names
}

// atLink calls f when a version is about to be linked, once.
func (e *linkEnv) atLink(f func()) {
	done := false
	e.tree.Before = func(op, _ string) error {
		if op == "Link" && !done {
			done = true
			f()
		}
		return nil
	}
}

// afterLink calls f once a version was linked, and loses the answer to err.
func (e *linkEnv) afterLink(err error, f func()) {
	done := false
	e.tree.After = func(op, _ string) error {
		if op == "Link" && !done {
			done = true
			f()
			return err
		}
		return nil
	}
}

// A writer who is late finds the name of its version free again, and links to
// it. It has lost.
func TestLateWriter(t *testing.T) {
	for _, n := range []int{1, 2, 3, 20, 63} {
		t.Run(fmt.Sprint(n, " saves later"), func(t *testing.T) {
			e := newLinkEnv(t)
			rec, token := e.create("ann")
			rec.Data = []byte("mine")
			e.atLink(func() { e.others(token, n) })
			if _, err := e.store.Save(t.Context(), rec); !errors.Is(err, session.ErrConflict) {
				t.Fatalf("save: %v; want ErrConflict", err)
			}
			if now := e.load(token); now.Version != int64(n+1) || !strings.HasPrefix(string(now.Data), "theirs") {
				t.Errorf("version %d, %q", now.Version, now.Data)
			}
			if f := e.files(rec.ID); len(f) != 1 {
				t.Errorf("left: %v", f)
			}
		})
	}
	t.Run("too many saves later to tell", func(t *testing.T) {
		e := newLinkEnv(t)
		rec, token := e.create("ann")
		e.atLink(func() { e.others(token, 70) })
		_, err := e.store.Save(t.Context(), rec)
		if err == nil || errors.Is(err, session.ErrNotFound) {
			t.Fatalf("save: %v; want an error", err)
		}
		if now := e.load(token); now.Version != 71 {
			t.Errorf("version %d", now.Version)
		}
		e.others(token, 1)
		if f := e.files(rec.ID); len(f) != 1 {
			t.Errorf("left: %v", f)
		}
	})
}

// The first listing after the link is out of date and shows the late writer's
// file alone: its base is missing, so it looks again.
func TestLateWriterStaleListing(t *testing.T) {
	e := newLinkEnv(t)
	rec, token := e.create("ann")
	rec.Data = []byte("mine")
	e.atLink(func() { e.others(token, 3) })
	stale := 5
	e.tree.Hide = func(dir, name string) bool {
		return strings.HasPrefix(dir, "sessions/") && strings.HasPrefix(name, "4.") && stale > 0
	}
	e.tree.After = func(op, dir string) error {
		if op == "ReadDir" && strings.HasPrefix(dir, "sessions/") {
			stale--
		}
		return nil
	}
	if _, err := e.store.Save(t.Context(), rec); !errors.Is(err, session.ErrConflict) {
		t.Fatalf("save: %v; want ErrConflict", err)
	}
	if stale > 0 {
		t.Errorf("%d stale listings were not asked for", stale)
	}
	if now := e.load(token); now.Version != 4 || string(now.Data) != "theirs 3" {
		t.Errorf("version %d, %q", now.Version, now.Data)
	}
}

// A marker that a late writer has linked, and that a load meets in a listing which
// is out of date, is not believed: a migration would take the session for moved.
func TestLateMarker(t *testing.T) {
	e := newLinkEnv(t)
	rec, token := e.create("ann")
	rec.Replaced, rec.Data = true, nil
	e.atLink(func() { e.others(token, 3) })
	stale := 1
	e.tree.Hide = func(dir, name string) bool {
		return strings.HasPrefix(dir, "sessions/") && strings.HasPrefix(name, "4.") && stale > 0
	}
	var got *session.Record
	asked := false
	e.tree.After = func(op, dir string) (err error) {
		switch {
		case op == "ReadDir" && strings.HasPrefix(dir, "sessions/"):
			stale--
		case op == "Link" && !asked:
			asked = true
			got, err = e.store.Load(t.Context(), token)
		}
		return err
	}
	if _, err := e.store.Save(t.Context(), rec); !errors.Is(err, session.ErrConflict) {
		t.Fatalf("save: %v; want ErrConflict", err)
	}
	if got == nil || got.Replaced || got.Version != 4 || string(got.Data) != "theirs 3" {
		t.Errorf("meanwhile a load shows %+v", got)
	}
}

// A link whose answer was lost is told from a conflict, also when others have
// saved since.
func TestLostAnswer(t *testing.T) {
	for _, tt := range []struct {
		why   string
		err   error
		later int
	}{
		{"an error of the server", syscall.EIO, 0},
		{"NFS repeats the call, and finds the name there", syscall.EEXIST, 0},
		{"the mount was torn down", syscall.ENOTCONN, 0},
		{"another has built on it", syscall.EIO, 1},
		{"NFS, and another has built on it", syscall.EEXIST, 1},
		{"sixty have built on it", syscall.EEXIST, 60},
	} {
		t.Run(tt.why, func(t *testing.T) {
			e := newLinkEnv(t)
			rec, token := e.create("ann")
			rec.Data = []byte("mine")
			e.afterLink(tt.err, func() { e.others(token, tt.later) })
			if _, err := e.store.Save(t.Context(), rec); err != nil {
				t.Fatalf("save: %v; it was applied", err)
			}
			now := e.load(token)
			if now.Version != int64(2+tt.later) || tt.later == 0 && string(now.Data) != "mine" {
				t.Errorf("version %d, %q", now.Version, now.Data)
			}
			// What somebody else saves from here is still a conflict.
			if _, err := e.well.Save(t.Context(), rec); !errors.Is(err, session.ErrConflict) {
				t.Errorf("the same save again: %v", err)
			}
		})
	}
	t.Run("the link failed, and another's came in its place", func(t *testing.T) {
		e := newLinkEnv(t)
		rec, token := e.create("ann")
		e.tree.Before = func(op, _ string) error {
			if op == "Link" {
				e.others(token, 1)
				return syscall.EIO
			}
			return nil
		}
		if _, err := e.store.Save(t.Context(), rec); !errors.Is(err, session.ErrConflict) {
			t.Errorf("save: %v", err)
		}
	})
}

// A writer sleeps from before the record ends until it was made anew.
func TestWriterOfARecordMadeAnew(t *testing.T) {
	for _, saves := range []int{0, 1, 5} {
		t.Run(fmt.Sprint(saves, " saves after"), func(t *testing.T) {
			e := newLinkEnv(t)
			old, token := e.create("ann")
			e.others(token, 2)
			old = e.load(token)
			anew := func() {
				if err := e.well.Delete(t.Context(), old.ID); err != nil {
					t.Fatal(err)
				}
				rec := *old
				rec.Version, rec.User, rec.Created, rec.Tag = 0, "bob", old.Created.Add(time.Hour), nil
				if _, err := e.well.Save(t.Context(), &rec); err != nil {
					t.Fatal(err)
				}
				e.others(token, saves)
			}
			bobs := func(when string) {
				if now := e.load(token); now.User != "bob" || now.Version != int64(1+saves) {
					t.Errorf("%s: version %d of %q", when, now.Version, now.User)
				}
			}
			e.atLink(anew)
			e.afterLink(nil, func() { bobs("while the late file is there") })
			if _, err := e.store.Save(t.Context(), old); !errors.Is(err, session.ErrNotFound) {
				t.Errorf("save: %v; want ErrNotFound", err)
			}
			bobs("after that")
			if f := e.files(old.ID); len(f) != 1 {
				t.Errorf("left: %v", f)
			}
		})
	}
}

// What a save leaves that died after the link goes with the next one.
func TestTidy(t *testing.T) {
	e := newLinkEnv(t)
	rec, token := e.create("ann")
	toucher := e.well.(session.Toucher)
	for i := range 3 {
		if err := toucher.Touch(t.Context(), rec.ID, rec.Seen.Add(time.Minute), rec.Expires.Add(time.Duration(i+1)*time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	if f := e.files(rec.ID); len(f) != 2 {
		t.Errorf("after three touches: %v; want a version and a touch", f)
	}
	e.tree.Before = func(op, _ string) error {
		if op == "Remove" {
			return fs.ErrPermission
		}
		return nil
	}
	for range 3 {
		if _, err := e.store.Save(t.Context(), e.load(token)); err != nil {
			t.Fatal(err)
		}
	}
	if f := e.files(rec.ID); len(f) != 5 {
		t.Fatalf("nothing could be removed, and there are %v", f)
	}
	e.others(token, 1)
	if f := e.files(rec.ID); len(f) != 1 {
		t.Errorf("left: %v", f)
	}
}
