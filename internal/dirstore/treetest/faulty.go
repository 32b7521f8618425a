// Package treetest tests stores that keep sessions in a dirstore.Tree: what
// becomes of a record if any one call fails, loses its answer, or is the last
// one before a crash.
package treetest

import (
	"context"
	"errors"
	"time"

	"github.com/distsession/session/internal/dirstore"
)

// Faulty is a tree that fails when it is told to. Each function may be nil. It
// is called with the method's name and the path, of Rename and Link that of the
// new name.
type Faulty struct {
	Tree dirstore.Tree

	// Before may return an error, and then nothing is done.
	Before func(op, path string) error
	// After may return an error, of a call that was done.
	After func(op, path string) error
	// Hide may hide a name from ReadDir.
	Hide func(dir, name string) bool
}

func (f *Faulty) around(op, path string, do func() error) error {
	if f.Before != nil {
		if err := f.Before(op, path); err != nil {
			return err
		}
	}
	err := do()
	if f.After != nil {
		if lost := f.After(op, path); lost != nil {
			return lost
		}
	}
	return err
}

// ReadDir implements dirstore.Tree.
func (f *Faulty) ReadDir(ctx context.Context, dir string, each func(string) bool) error {
	return f.around("ReadDir", dir, func() error {
		return f.Tree.ReadDir(ctx, dir, func(name string) bool {
			return f.Hide != nil && f.Hide(dir, name) || each(name)
		})
	})
}

// Mkdir implements dirstore.Tree.
func (f *Faulty) Mkdir(ctx context.Context, dir string) error {
	return f.around("Mkdir", dir, func() error { return f.Tree.Mkdir(ctx, dir) })
}

// Mark implements dirstore.Tree.
func (f *Faulty) Mark(ctx context.Context, path string) error {
	return f.around("Mark", path, func() error { return f.Tree.Mark(ctx, path) })
}

// WriteFile implements dirstore.Tree.
func (f *Faulty) WriteFile(ctx context.Context, path string, data []byte) error {
	return f.around("WriteFile", path, func() error { return f.Tree.WriteFile(ctx, path, data) })
}

// ReadFile implements dirstore.Tree.
func (f *Faulty) ReadFile(ctx context.Context, path string, limit int) (data []byte, err error) {
	err = f.around("ReadFile", path, func() error {
		data, err = f.Tree.ReadFile(ctx, path, limit)
		return err
	})
	return data, err
}

// Rename implements dirstore.Tree.
func (f *Faulty) Rename(ctx context.Context, from, to string) error {
	return f.around("Rename", to, func() error { return f.Tree.Rename(ctx, from, to) })
}

// Link is for trees that have it.
func (f *Faulty) Link(ctx context.Context, from, to string) error {
	l, ok := f.Tree.(interface {
		Link(ctx context.Context, from, to string) error
	})
	if !ok {
		return errors.ErrUnsupported
	}
	return f.around("Link", to, func() error { return l.Link(ctx, from, to) })
}

// Remove implements dirstore.Tree.
func (f *Faulty) Remove(ctx context.Context, path string) error {
	return f.around("Remove", path, func() error { return f.Tree.Remove(ctx, path) })
}

// RemoveAll implements dirstore.Tree.
func (f *Faulty) RemoveAll(ctx context.Context, path string) error {
	return f.around("RemoveAll", path, func() error { return f.Tree.RemoveAll(ctx, path) })
}

// Sync implements dirstore.Tree.
func (f *Faulty) Sync(ctx context.Context, dir string) error {
	return f.around("Sync", dir, func() error { return f.Tree.Sync(ctx, dir) })
}

// ModTime implements dirstore.Tree.
func (f *Faulty) ModTime(ctx context.Context, path string) (at time.Time, err error) {
	err = f.around("ModTime", path, func() error {
		at, err = f.Tree.ModTime(ctx, path)
		return err
	})
	return at, err
}
