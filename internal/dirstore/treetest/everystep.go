package treetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/distsession/session"
)

// Opener opens a store on a tree.
type Opener func(*Faulty) session.Store

// errDown is what a file system says that is about to die.
var errDown = errors.New("input/output error")

// EveryStep does everything that a store can do, once with each call of the tree
// going wrong: it fails, its answer is lost, or it is the last one before the
// program is killed. Whatever happens, a record is whole, old or new, an answer
// is true, and the next program goes on. dir is the tree's folder on this
// machine, which is prepared and empty.
func EveryStep(t *testing.T, dir string, tree *Faulty, open Opener) {
	for _, fault := range []struct {
		name string
		at   func(step int) *Faulty
	}{
		{"the call fails", func(step int) *Faulty { return &Faulty{Before: once(step, errDown)} }},
		{"its answer is lost", func(step int) *Faulty { return &Faulty{After: once(step, errDown)} }},
		{"the program is killed before it", func(step int) *Faulty { return &Faulty{Before: from(step, errDown)} }},
		{"the program is killed after it", func(step int) *Faulty {
			down := from(step, errDown)
			return &Faulty{Before: from(step+1, errDown), After: down}
		}},
	} {
		for _, act := range acts {
			t.Run(fault.name+"/"+act.name, func(t *testing.T) {
				well := open(tree)
				for step := 0; ; step++ {
					broken := fault.at(step)
					broken.Tree = tree.Tree
					e := &stepEnv{t, well, fmt.Sprintf("call %d", step)}
					if !act.run(e, open(broken), broken) {
						if step < 2 {
							t.Fatalf("it took %d calls; nothing was tested", step)
						}
						return
					}
				}
			})
		}
	}
	t.Run("what is left is swept", func(t *testing.T) { swept(t, dir, open(tree)) })
}

// once fails call number step, counted from 0.
func once(step int, err error) func(string, string) error {
	return counted(func(n int) bool { return n == step }, err)
}

// from fails all calls beginning with number step.
func from(step int, err error) func(string, string) error {
	return counted(func(n int) bool { return n >= step }, err)
}

func counted(fails func(n int) bool, err error) func(string, string) error {
	var mu sync.Mutex
	n := -1
	return func(string, string) error {
		mu.Lock()
		defer mu.Unlock()
		if n++; fails(n) {
			return err
		}
		return nil
	}
}

// hit wraps a Faulty's functions to see whether the fault came.
func hit(f *Faulty) *bool {
	var mu sync.Mutex
	came := false
	watch := func(g func(string, string) error) func(string, string) error {
		if g == nil {
			return nil
		}
		return func(op, path string) error {
			err := g(op, path)
			if err != nil {
				mu.Lock()
				came = true
				mu.Unlock()
			}
			return err
		}
	}
	f.Before, f.After = watch(f.Before), watch(f.After)
	return &came
}

type stepEnv struct {
	*testing.T
	well session.Store
	when string
}

// Record returns a record that was not saved yet, and its token.
func Record(user string) (*session.Record, string) {
	token := session.NewToken()
	now := time.Now()
	return &session.Record{
		ID: session.ID(token), User: user, Created: now, Seen: now,
		Expires: now.Add(time.Hour), Deadline: now.Add(2 * time.Hour), Data: []byte("old"),
	}, token
}

func (e *stepEnv) created(user string) (*session.Record, string) {
	e.Helper()
	rec, token := Record(user)
	if _, err := e.well.Save(e.Context(), rec); err != nil {
		e.Fatalf("%s: create: %v", e.when, err)
	}
	rec, err := e.well.Load(e.Context(), token)
	if err != nil {
		e.Fatalf("%s: load: %v", e.when, err)
	}
	return rec, token
}

// state is what a record has become: 0 for gone, or its version.
func (e *stepEnv) state(token string) (int64, *session.Record) {
	e.Helper()
	rec, err := e.well.Load(e.Context(), token)
	switch {
	case err == nil:
		return rec.Version, rec
	case err != session.ErrNotFound: // wrapped: something is damaged
		e.Fatalf("%s: load: %v", e.when, err)
	}
	return 0, nil
}

// acts do one thing with the broken store. run tells whether the fault came.
var acts = []struct {
	name string
	run  func(e *stepEnv, broken session.Store, f *Faulty) bool
}{
	{"create", func(e *stepEnv, broken session.Store, f *Faulty) bool {
		came := hit(f)
		rec, token := Record("ann " + session.NewToken())
		_, err := broken.Save(e.Context(), rec)
		e.truthful("create", err)
		v, _ := e.state(token)
		if err == nil && v != 1 {
			e.Fatalf("%s: created, but version %d is there", e.when, v)
		}
		listed := false
		for info, err := range session.List(e.Context(), e.well, rec.User) {
			listed = err == nil && info.ID == rec.ID
		}
		if listed != (v == 1) {
			e.Fatalf("%s: version %d is there; listed: %t", e.when, v, listed)
		}
		_, again := e.well.Save(e.Context(), rec)
		if v == 1 && !errors.Is(again, session.ErrConflict) || v == 0 && again != nil {
			e.Fatalf("%s: version %d is there; to create it again: %v", e.when, v, again)
		}
		return *came
	}},
	{"save", func(e *stepEnv, broken session.Store, f *Faulty) bool {
		rec, token := e.created("ann")
		came := hit(f)
		rec.Data = []byte("new")
		_, err := broken.Save(e.Context(), rec)
		e.truthful("save", err)
		v, now := e.state(token)
		if err == nil && v != 2 || v != 1 && v != 2 || string(now.Data) != map[int64]string{1: "old", 2: "new"}[v] {
			e.Fatalf("%s: save: %v, and version %d is there", e.when, err, v)
		}
		e.goesOn(now, token)
		return *came
	}},
	{"load and save", func(e *stepEnv, broken session.Store, f *Faulty) bool {
		_, token := e.created("ann")
		came := hit(f)
		rec, err := broken.Load(e.Context(), token)
		e.truthful("load", err)
		if err == nil {
			if string(rec.Data) != "old" || rec.Version != 1 {
				e.Fatalf("%s: load: version %d, %q", e.when, rec.Version, rec.Data)
			}
			rec.Data = []byte("new")
			rec.Tag = nil
			_, err = broken.Save(e.Context(), rec)
			e.truthful("save", err)
		}
		v, now := e.state(token)
		if err == nil && v != 2 || v != 1 && v != 2 {
			e.Fatalf("%s: save: %v, and version %d is there", e.when, err, v)
		}
		e.goesOn(now, token)
		return *came
	}},
	{"touch", func(e *stepEnv, broken session.Store, f *Faulty) bool {
		rec, token := e.created("ann")
		toucher, _ := session.As[session.Toucher](broken)
		first := rec.Expires.Add(time.Minute)
		if err := e.well.(session.Toucher).Touch(e.Context(), rec.ID, rec.Seen, first); err != nil {
			e.Fatal(err)
		}
		came := hit(f)
		until := rec.Expires.Add(10 * time.Minute)
		err := toucher.Touch(e.Context(), rec.ID, rec.Seen, until)
		e.truthful("touch", err)
		v, now := e.state(token)
		if v != 1 || !now.Expires.Equal(until) && (err == nil || !now.Expires.Equal(first)) {
			e.Fatalf("%s: touch to %v: %v, and version %d expires at %v", e.when, until, err, v, now.Expires)
		}
		e.goesOn(now, token)
		return *came
	}},
	{"delete", func(e *stepEnv, broken session.Store, f *Faulty) bool {
		rec, token := e.created("ann")
		came := hit(f)
		err := broken.Delete(e.Context(), rec.ID)
		e.truthful("delete", err)
		e.ends(err, rec, token)
		return *came
	}},
	{"end a user's sessions", func(e *stepEnv, broken session.Store, f *Faulty) bool {
		rec, token := e.created("bob " + session.NewToken())
		came := hit(f)
		n, err := session.DeleteUser(e.Context(), broken, rec.User, "")
		e.truthful("DeleteUser", err)
		if err == nil && n != 1 {
			e.Fatalf("%s: DeleteUser = %d", e.when, n)
		}
		e.ends(err, rec, token)
		return *came
	}},
}

// truthful checks that nobody else is blamed: nobody else was there.
func (e *stepEnv) truthful(what string, err error) {
	e.Helper()
	if errors.Is(err, session.ErrConflict) || errors.Is(err, session.ErrNotFound) {
		e.Fatalf("%s: %s: %v; a file system that fails is another error", e.when, what, err)
	}
}

// goesOn checks that the next program can save.
func (e *stepEnv) goesOn(now *session.Record, token string) {
	e.Helper()
	for range 2 {
		if _, err := e.well.Save(e.Context(), now); err != nil {
			e.Fatalf("%s: the next save: %v", e.when, err)
		}
		v, next := e.state(token)
		if v != now.Version+1 {
			e.Fatalf("%s: the next save made version %d of %d", e.when, v, now.Version)
		}
		now = next
	}
}

// ends checks that a session is gone if err says so, and can be ended if not.
func (e *stepEnv) ends(err error, rec *session.Record, token string) {
	e.Helper()
	v, _ := e.state(token)
	if v != 0 && err == nil {
		e.Fatalf("%s: deleted, and version %d is there", e.when, v)
	}
	if err := e.well.Delete(e.Context(), rec.ID); err != nil {
		e.Fatalf("%s: the next Delete: %v", e.when, err)
	}
	if v, _ := e.state(token); v != 0 {
		e.Fatalf("%s: after the next Delete version %d is there", e.when, v)
	}
	_, late := e.well.Save(e.Context(), rec)
	if !errors.Is(late, session.ErrNotFound) {
		e.Fatalf("%s: a save after that: %v", e.when, late)
	}
}

// swept makes what lies in the folders of unfinished and ended records two hours
// old, and checks that Clean removes it and nothing else.
func swept(t *testing.T, dir string, well session.Store) {
	rec, token := Record("ann")
	if _, err := well.Save(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	fresh := filepath.Join(dir, "new", "fresh")
	if err := os.WriteFile(fresh, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	left := 0
	for _, sub := range []string{"new", "old"} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, sub, e.Name())
			if path == fresh {
				continue
			}
			left++
			old := time.Now().Add(-2 * time.Hour)
			if err := os.Chtimes(path, old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	if left == 0 {
		t.Fatal("nothing was left; the faults did not leave anything to sweep")
	}
	cleaner, _ := session.As[session.Cleaner](well)
	if n, err := cleaner.Clean(context.Background(), time.Now(), 0); err != nil || n != 0 {
		t.Fatalf("Clean = %d, %v", n, err)
	}
	for sub, want := range map[string]int{"new": 1, "old": 0} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil || len(entries) != want {
			t.Errorf("%s has %d entries, %v; want %d", sub, len(entries), err, want)
		}
	}
	if _, err := well.Load(t.Context(), token); err != nil {
		t.Errorf("after the sweep: %v", err)
	}
}
