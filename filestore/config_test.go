package filestore_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/filestore"
	"github.com/distsession/session/internal/dirstore"
	"github.com/distsession/session/internal/dirstore/treetest"
)

func TestOpen(t *testing.T) {
	made := folder(t)
	file := filepath.Join(folder(t), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	shared := folder(t)
	if err := os.Chmod(shared, 0o770); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ why, url, mend string }{
		{"a folder", "file://" + made, ""},
		{"without the slashes", "file:" + made, ""},
		{"every parameter", "file://" + made + "?max_data=1000&clean=0s&calls=4&insecure_no_sync=true", ""},
		{"it makes the folder", "file://" + made + "/new%20folder?create=true", ""},
		{"the folder that it made", "file://" + made + "/new%20folder", ""},
		{"a relative path depends on where the program was started", "file:sessions", "file:///var/lib/sessions"},
		{"the first part of a path with two slashes is a host", "file://sessions/here", "file:///var/lib/sessions"},
		{"no path", "file:", "file:///var/lib/sessions"},
		{"a folder that is missing", "file://" + made + "/missing", "mkdir -m 700"},
		{"a folder that is missing twice", "file://" + made + "/missing/too?create=true", "cannot be made"},
		{"a file", "file://" + file, "no folder"},
		{"a folder that the group may write to", "file://" + shared, "chmod 700"},
		{"an unknown parameter", "file://" + made + "?sync=false", "insecure_no_sync"},
		{"a number that is none", "file://" + made + "?max_data=1k", "whole number"},
	} {
		t.Run(tt.why, func(t *testing.T) {
			s, err := session.Open(t.Context(), tt.url)
			if tt.mend == "" {
				if err != nil {
					t.Fatal(err)
				}
				rec, token := treetest.Record("ann")
				if _, err := s.Save(t.Context(), rec); err != nil {
					t.Errorf("save: %v", err)
				}
				if _, err := s.Load(t.Context(), token); err != nil {
					t.Errorf("load: %v", err)
				}
				if err := session.Close(s); err != nil {
					t.Errorf("close: %v", err)
				}
				return
			}
			if !errors.Is(err, session.ErrConfig) || !strings.Contains(err.Error(), tt.mend) {
				t.Errorf("%v; want ErrConfig with %q", err, tt.mend)
			}
		})
	}
	info, err := os.Stat(made + "/new folder")
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder that it made: %v, %v", info, err)
	}
}

// A file system that lacks what the store rests on is refused.
func TestProbe(t *testing.T) {
	dir := folder(t)
	good := faultyTree(t, dir)
	if err := filestore.Probe(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		why string
		bad filestore.LinkTree
	}{
		{"FAT, and some shares, have no links", &treetest.Faulty{Tree: good.Tree, Before: func(op, _ string) error {
			if op == "Link" {
				return fs.ErrPermission
			}
			return nil
		}}},
		{"link replaces", &linkReplaces{good}},
		{"a rename replaces a full folder", &renameReplaces{good}},
		{"a listing shows nothing", &treetest.Faulty{Tree: good.Tree, Hide: func(string, string) bool { return true }}},
		{"what was written is not read", &readsOther{good}},
	} {
		if err := filestore.Probe(t.Context(), tt.bad); err == nil {
			t.Errorf("%s: accepted", tt.why)
		}
	}
	if left, err := os.ReadDir(filepath.Join(dir, dirstore.NewDir)); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

type linkReplaces struct{ *treetest.Faulty }

func (l *linkReplaces) Link(ctx context.Context, from, to string) error {
	_ = l.Remove(ctx, to)
	return l.Faulty.Link(ctx, from, to)
}

type renameReplaces struct{ *treetest.Faulty }

func (r *renameReplaces) Rename(ctx context.Context, from, to string) error {
	_ = r.RemoveAll(ctx, to)
	return r.Faulty.Rename(ctx, from, to)
}

type readsOther struct{ *treetest.Faulty }

func (r *readsOther) ReadFile(context.Context, string, int) ([]byte, error) { return nil, nil }

func TestClosedForOthers(t *testing.T) {
	dir := folder(t)
	s := create(t, dir, nil)
	rec, token := treetest.Record("ann@example.org")
	if _, err := s.Save(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	if err := s.Touch(t.Context(), rec.ID, rec.Seen, rec.Expires.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	seen := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		seen++
		info, err := d.Info()
		if err != nil {
			return err
		}
		if want := map[bool]fs.FileMode{true: 0o700, false: 0o600}[d.IsDir()]; info.Mode().Perm() != want {
			t.Errorf("%s: %v; want %v", path, info.Mode(), want)
		}
		for _, secret := range []string{token, rec.ID, "ann"} {
			if strings.Contains(path, secret) {
				t.Errorf("the name %s shows %q", path, secret)
			}
		}
		return nil
	})
	if err != nil || seen < 10 {
		t.Errorf("%d files and folders, %v", seen, err)
	}
}

// How much a session takes is in the package's comment.
func TestInodes(t *testing.T) {
	dir := folder(t)
	s := create(t, dir, nil)
	rec, token := treetest.Record("ann")
	if _, err := s.Save(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	count := func(sub string) int {
		n := 0
		err := filepath.WalkDir(filepath.Join(dir, sub), func(string, fs.DirEntry, error) error { n++; return nil })
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	record := func() int { return count(dirstore.Dir(rec.ID)) }
	const fanOut = 3 // the folders above an entry of the index
	if record() != 2 || count("users") != fanOut+1 {
		t.Errorf("a record has %d inodes and its index %d; want 2 and 1", record(), count("users")-fanOut)
	}
	for i := range 5 {
		now, err := s.Load(t.Context(), token)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Save(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		if record() != 2 {
			t.Errorf("after save %d a record has %d inodes; want 2", i+1, record())
		}
		for j := range 3 {
			if err := s.Touch(t.Context(), rec.ID, now.Seen, now.Expires.Add(time.Duration(j+1)*time.Second)); err != nil {
				t.Fatal(err)
			}
			if record() != 3 {
				t.Errorf("after touch %d a record has %d inodes; want 3", j+1, record())
			}
		}
	}
	if err := s.Delete(t.Context(), rec.ID); err != nil {
		t.Fatal(err)
	}
	if count("old") != 1 || count("new") != 1 {
		t.Errorf("after Delete: %d in old, %d in new", count("old")-1, count("new")-1)
	}
}
