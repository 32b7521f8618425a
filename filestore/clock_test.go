package filestore_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/filestore"
	"github.com/distsession/session/internal/dirstore"
	"github.com/distsession/session/internal/dirstore/treetest"
	"github.com/distsession/session/internal/servers"
)

// A node whose clock is off sees expiry by its own clock, and harms nothing.
func TestClockOff(t *testing.T) {
	for _, off := range []time.Duration{time.Minute, -time.Minute} {
		t.Run(off.String(), func(t *testing.T) {
			dir := folder(t)
			right := create(t, dir, nil)
			wrong := create(t, dir, &filestore.Options{Now: func() time.Time { return time.Now().Add(off) }})
			rec, token := treetest.Record("ann")
			_, err := right.Save(t.Context(), rec)
			must(t, err)
			for _, s := range []*filestore.Store{wrong, right, wrong} {
				now, err := s.Load(t.Context(), token)
				must(t, err)
				_, err = s.Save(t.Context(), now)
				must(t, err)
			}
			if err := wrong.Touch(t.Context(), rec.ID, time.Now().Add(off), rec.Expires.Add(off)); err != nil {
				t.Errorf("touch: %v", err)
			}
			now, err := right.Load(t.Context(), token)
			must(t, err)
			if now.Expires.Before(rec.Expires.Truncate(time.Millisecond)) || now.Seen.Before(rec.Seen.Truncate(time.Millisecond)) {
				t.Errorf("a touch by a clock that is off moved back: %v, %v", now.Seen, now.Expires)
			}
			soon, soonToken := treetest.Record("ann")
			soon.Expires = time.Now().Add(30 * time.Second)
			_, err = right.Save(t.Context(), soon)
			must(t, err)
			if _, err := wrong.Load(t.Context(), soonToken); errors.Is(err, session.ErrNotFound) != (off > 0) {
				t.Errorf("what expires in 30 s, on a node that is %v ahead: %v", off, err)
			}
			if n, err := wrong.Clean(t.Context(), time.Now().Add(off), 0); err != nil || (n == 1) != (off > 0) {
				t.Errorf("Clean by a clock that is %v ahead = %d, %v", off, n, err)
			}
			if n, err := right.DeleteUser(t.Context(), "ann", ""); err != nil || n != map[bool]int{true: 1, false: 2}[off > 0] {
				t.Errorf("DeleteUser = %d, %v", n, err)
			}
		})
	}
}

// What is being made is swept by the file system's clock, so a node whose clock
// is a day ahead leaves others' saves alone.
func TestSweepByTheFileSystemsClock(t *testing.T) {
	dir := folder(t)
	s := create(t, dir, &filestore.Options{Now: func() time.Time { return time.Now().Add(24 * time.Hour) }})
	fresh, old := filepath.Join(dir, "new", "fresh"), filepath.Join(dir, "new", "old")
	for _, path := range []string{fresh, old} {
		must(t, os.WriteFile(path, []byte("half of a session"), 0o600))
	}
	then := time.Now().Add(-61 * time.Minute)
	must(t, os.Chtimes(old, then, then))
	if _, err := s.Clean(t.Context(), time.Now().Add(24*time.Hour), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Errorf("what is being made: %v", err)
	}
	if _, err := os.Stat(old); err == nil {
		t.Error("what was left an hour ago is still there")
	}
}

// The index keeps what is of use: entries of sessions that may come, for an hour,
// and of those that are there.
func TestIndexIsTrimmed(t *testing.T) {
	dir := folder(t)
	moved := time.Duration(0)
	now := func() time.Time { return time.Now().Add(moved) }
	s := create(t, dir, &filestore.Options{Now: now})
	entries := func() []string {
		found, err := filepath.Glob(filepath.Join(dir, "users", "*", "*", "*"))
		must(t, err)
		return found
	}
	clean := func(want int, why string) {
		t.Helper()
		if _, err := s.Clean(t.Context(), now(), 0); err != nil {
			t.Fatal(err)
		}
		if got := entries(); len(got) != want {
			t.Errorf("%s: %d entries; want %d", why, len(got), want)
		}
	}
	live, _ := treetest.Record("ann")
	ended, _ := treetest.Record("ann")
	for _, rec := range []*session.Record{live, ended} {
		_, err := s.Save(t.Context(), rec)
		must(t, err)
	}
	must(t, s.Delete(t.Context(), ended.ID))
	clean(2, "a session that ended just now, or is being made")
	then := time.Now().Add(-61 * time.Minute)
	for _, path := range entries() {
		must(t, os.Chtimes(path, then, then))
	}
	clean(1, "an hour later")
	moved = 90 * time.Minute // the Deadline is after two hours
	if n, err := s.Clean(t.Context(), now(), 0); n != 1 || err != nil {
		t.Errorf("Clean = %d, %v; want the session that has expired", n, err)
	}
	moved = 4 * time.Hour
	clean(0, "after the Deadline")
}

// Clean with a limit goes on where it stopped, so every session's turn comes
// though some before it cannot be removed.
func TestCleanGoesOn(t *testing.T) {
	dir := folder(t)
	moved := time.Duration(0)
	s := create(t, dir, &filestore.Options{InsecureNoSync: true, Now: func() time.Time { return time.Now().Add(moved) }})
	const all, limit = 60, 7
	for range all {
		rec, _ := treetest.Record("")
		_, err := s.Save(t.Context(), rec)
		must(t, err)
	}
	live, token := treetest.Record("")
	live.Expires = time.Now().Add(100 * time.Minute)
	_, err := s.Save(t.Context(), live)
	must(t, err)
	moved = 90 * time.Minute
	total, calls := 0, 0
	for {
		n, err := s.Clean(t.Context(), time.Now().Add(moved), limit)
		must(t, err)
		calls++
		if total += n; n < limit {
			break
		}
	}
	if total != all || calls != all/limit+1 {
		t.Errorf("%d removed in %d calls; want %d", total, calls, all)
	}
	if _, err := s.Load(t.Context(), token); err != nil {
		t.Errorf("the session that lives: %v", err)
	}
}

// With CleanEvery nobody has to call Clean, and Close ends it.
func TestCleanEvery(t *testing.T) {
	dir := folder(t)
	s := create(t, dir, &filestore.Options{CleanEvery: 10 * time.Millisecond})
	rec, _ := treetest.Record("")
	rec.Expires = time.Now().Add(50 * time.Millisecond)
	_, err := s.Save(t.Context(), rec)
	must(t, err)
	at := filepath.Join(dir, dirstore.Dir(rec.ID))
	if _, err := os.Stat(at); err != nil {
		t.Fatal(err)
	}
	servers.Wait(t, "what has expired to go", 20*time.Second, func(context.Context) error {
		if _, err := os.Stat(at); err == nil {
			return errors.New("it is still there")
		}
		return nil
	})
	must(t, s.Close())
	must(t, s.Close())
}
