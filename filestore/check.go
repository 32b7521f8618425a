package filestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/distsession/session/internal/dirstore"
)

// openFolder opens dir, unless it is one that a store must not lie in.
func openFolder(dir string) (*os.Root, error) {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		return nil, configError("%s is no folder; name one", dir)
	}
	var root *os.Root
	if err == nil {
		root, err = os.OpenRoot(dir)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, configError("the folder %s is missing; mount it, or make it: mkdir -m 700 %s, or create=true in the URL", dir, dir)
	case errors.Is(err, fs.ErrPermission):
		return nil, configError("the folder %s is closed to this user (%d); chown it to the user that the program runs as", dir, os.Geteuid())
	case err != nil:
		return nil, fmt.Errorf("session: filestore: open: %w", err)
	}
	// Of the folder that is open, whatever becomes of its name.
	info, err = root.Stat(".")
	switch {
	case err != nil:
		err = fmt.Errorf("session: filestore: open: %w", err)
	case info.Mode().Perm()&0o022 != 0:
		err = configError("the folder %s (%v) is writable by others than its owner, who could sign in as anybody; chmod 700 %s", dir, info.Mode(), dir)
	default:
		return root, nil
	}
	root.Close()
	return nil, err
}

// errPrimitive says that a file system does not do what the store rests on.
var errPrimitive = errors.New("this file system cannot keep sessions")

// startError tells what an operator can mend from a file system that fails just
// now.
func startError(dir string, err error) error {
	for _, lasting := range []error{errPrimitive, syscall.EROFS, syscall.EPERM, syscall.EACCES, errors.ErrUnsupported} {
		if errors.Is(err, lasting) {
			return configError("%s: %w; use a folder that this user owns, on a file system that is mounted read-write and has hard links", dir, err)
		}
	}
	return err
}

// probe tries what the store rests on, in a folder of its own.
func probe(ctx context.Context, tree linkTree) error {
	dir := dirstore.Unfinished()
	if err := tree.Mkdir(ctx, dir); err != nil {
		return fmt.Errorf("session: filestore: probe: %w", err)
	}
	defer dirstore.Abandon(ctx, tree, dir)
	a, b, full := dir+"/a", dir+"/b", dir+"/full"
	want := func(what string, err, want error) error {
		if errors.Is(err, want) || err == want {
			return nil
		}
		if err == nil {
			return fmt.Errorf("%w: %s succeeds", errPrimitive, what)
		}
		return fmt.Errorf("session: filestore: probe: %s: %w", what, err)
	}
	var names int
	for _, step := range []struct {
		what string
		do   func() error
		want error
	}{
		{"to write a file", func() error { return tree.WriteFile(ctx, a, []byte("a")) }, nil},
		{"to link a file", func() error { return tree.Link(ctx, a, b) }, nil},
		{"to link a file to a name that is there", func() error { return tree.Link(ctx, a, b) }, fs.ErrExist},
		{"to write a file that is there", func() error { return tree.WriteFile(ctx, b, []byte("b")) }, fs.ErrExist},
		{"to make a folder", func() error { return tree.Mkdir(ctx, full) }, nil},
		{"to make an entry", func() error { return tree.Mark(ctx, full+"/entry") }, nil},
		{"to make a second folder", func() error { return tree.Mkdir(ctx, dir+"/other") }, nil},
		{"to make an entry in it", func() error { return tree.Mark(ctx, dir+"/other/entry") }, nil},
		{"to rename a folder over a full one", func() error { return tree.Rename(ctx, dir+"/other", full) }, fs.ErrExist},
		{"to rename a folder", func() error { return tree.Rename(ctx, dir+"/other", dir+"/moved") }, nil},
		{"to rename a folder that is gone", func() error { return tree.Rename(ctx, dir+"/other", full) }, fs.ErrNotExist},
		{"to sync a folder", func() error { return tree.Sync(ctx, dir) }, nil},
		{"to remove a file", func() error { return tree.Remove(ctx, a) }, nil},
		{"to remove a file that is gone", func() error { return tree.Remove(ctx, a) }, fs.ErrNotExist},
		{"to list a folder", func() error {
			return tree.ReadDir(ctx, dir, func(string) bool { names++; return true })
		}, nil},
	} {
		if err := want(step.what, step.do(), step.want); err != nil {
			return err
		}
	}
	if names != 3 {
		return fmt.Errorf("%w: a listing shows %d of 3 names", errPrimitive, names)
	}
	text, err := tree.ReadFile(ctx, b, 10)
	if err != nil {
		return fmt.Errorf("session: filestore: probe: to read a file: %w", err)
	}
	if string(text) != "a" {
		return fmt.Errorf("%w: a file reads as %q that was written as \"a\"", errPrimitive, text)
	}
	return nil
}
