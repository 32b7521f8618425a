//go:build unix && !aix && !solaris

package dirstore_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distsession/session/internal/dirstore"
)

// A file system that does not answer holds nobody beyond the deadline; when too
// many calls are stuck in it, the next one fails at once; when it is back, all is
// well.
func TestStuckCalls(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	synctest.Test(t, func(t *testing.T) {
		const calls = 4
		tree := dirstore.NewLocal(root, dirstore.LocalOptions{Calls: calls})
		answer := make(chan struct{})
		hang := func() error { <-answer; return nil }
		at := time.Now()
		var wg sync.WaitGroup
		for range calls {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if err := tree.Call(ctx, hang); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("a call that hangs: %v", err)
				}
			})
		}
		wg.Go(func() { // waits for its turn, which does not come
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			synctest.Wait()
			if err := tree.Call(ctx, hang); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a call that waits: %v", err)
			}
		})
		wg.Wait()
		if d := time.Since(at); d != time.Second {
			t.Errorf("they were held for %v", d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		at = time.Now()
		if err := tree.Call(ctx, hang); err == nil || errors.Is(err, context.DeadlineExceeded) || time.Since(at) != 0 {
			t.Errorf("one more call: %v after %v; want an error at once", err, time.Since(at))
		}
		close(answer)
		synctest.Wait()
		for range 2 * calls {
			if err := tree.Call(ctx, func() error { return nil }); err != nil {
				t.Errorf("when it answers again: %v", err)
			}
		}
	})
}

func TestEndedContext(t *testing.T) {
	tree := openLocal(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, call := range map[string]func() error{
		"ReadDir":   func() error { return tree.ReadDir(ctx, ".", func(string) bool { return true }) },
		"Mkdir":     func() error { return tree.Mkdir(ctx, "d") },
		"Mark":      func() error { return tree.Mark(ctx, "m") },
		"WriteFile": func() error { return tree.WriteFile(ctx, "f", nil) },
		"ReadFile":  func() error { _, err := tree.ReadFile(ctx, "f", 1); return err },
		"Rename":    func() error { return tree.Rename(ctx, "f", "g") },
		"Link":      func() error { return tree.Link(ctx, "f", "g") },
		"Remove":    func() error { return tree.Remove(ctx, "f") },
		"RemoveAll": func() error { return tree.RemoveAll(ctx, "f") },
		"Sync":      func() error { return tree.Sync(ctx, ".") },
		"ModTime":   func() error { _, err := tree.ModTime(ctx, "."); return err },
	} {
		if err := call(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReadDir(t *testing.T) {
	dir := t.TempDir()
	tree := openLocal(t, dir)
	var want []string
	for i := range 1300 { // more than two pages
		name := fmt.Sprintf("%04d", i)
		want = append(want, name)
		if err := tree.Mark(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("0001", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []string
	if err := tree.ReadDir(ctx, ".", func(name string) bool { got = append(got, name); return true }); err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("%d names; want %d", len(got), len(want))
	}
	for _, stop := range []int{1, 512, 513, 1300} {
		n := 0
		if err := tree.ReadDir(ctx, ".", func(string) bool { n++; return n < stop }); n != stop || err != nil {
			t.Errorf("stopped after %d: %d names, %v", stop, n, err)
		}
	}
	if err := tree.ReadDir(ctx, "missing", func(string) bool { return true }); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing folder: %v", err)
	}
}

// Mark makes an entry as young as a new one, by the file system's clock.
func TestMark(t *testing.T) {
	dir := t.TempDir()
	tree := openLocal(t, dir)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(tree.Mark(t.Context(), "entry"))
	old := time.Now().Add(-48 * time.Hour)
	must(os.Chtimes(filepath.Join(dir, "entry"), old, old))
	must(tree.Mark(t.Context(), "entry"))
	must(tree.Mark(t.Context(), "young"))
	a, err := tree.ModTime(t.Context(), "entry")
	must(err)
	b, err := tree.ModTime(t.Context(), "young")
	must(err)
	if d := b.Sub(a).Abs(); d > time.Minute {
		t.Errorf("marked again, it is %v older than a new one", d)
	}
	kept := filepath.Join(dir, "kept")
	must(os.WriteFile(kept, []byte("kept"), 0o600))
	must(os.Symlink("kept", filepath.Join(dir, "link")))
	if err := tree.Mark(t.Context(), "link"); err == nil {
		t.Error("a link was marked")
	}
	if text, err := os.ReadFile(kept); string(text) != "kept" || err != nil {
		t.Errorf("what the link names: %q, %v", text, err)
	}
}
