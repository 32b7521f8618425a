package hdfsstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"time"

	"github.com/colinmarc/hdfs/v2"
)

// A tree is the directory of an HDFS that a store keeps its sessions in, as
// dirstore.Tree wants it. Names are relative to it.
//
// The namenode does one call after another, and logs it before it answers: a
// rename or a removal is done or not, for everybody, and there is nothing left
// to sync.
type tree struct {
	pool   *pool
	root   string
	writer writer
}

// Only the user of the store gets at its sessions.
const (
	dirMode  = 0o700
	fileMode = 0o600
)

func (t *tree) path(name string) string { return path.Join(t.root, name) }

// ReadDir implements dirstore.Tree.
func (t *tree) ReadDir(ctx context.Context, dir string, each func(name string) bool) error {
	var infos []os.FileInfo
	err := t.pool.repeat(ctx, func(c *hdfs.Client) (err error) {
		infos, err = c.ReadDir(t.path(dir))
		return err
	})
	if err != nil {
		return err
	}
	for _, info := range infos { // with no client in hand: each may call the tree
		if !each(info.Name()) {
			break
		}
	}
	return nil
}

// Mkdir implements dirstore.Tree.
func (t *tree) Mkdir(ctx context.Context, dir string) error {
	tries := 0
	return t.pool.repeat(ctx, func(c *hdfs.Client) error {
		tries++
		err := c.Mkdir(t.path(dir), dirMode)
		if tries > 1 && errors.Is(err, fs.ErrExist) {
			return nil // by the try whose answer was lost
		}
		return err
	})
}

// Mark implements dirstore.Tree. An entry is a directory, for a file takes a
// call more.
func (t *tree) Mark(ctx context.Context, name string) error {
	return t.pool.repeat(ctx, func(c *hdfs.Client) error {
		err := c.Mkdir(t.path(name), dirMode)
		if errors.Is(err, fs.ErrExist) {
			now := time.Now()
			err = c.Chtimes(t.path(name), now, now)
		}
		return err
	})
}

// WriteFile implements dirstore.Tree. Every datanode that is to keep the file
// has it when WriteFile returns.
func (t *tree) WriteFile(ctx context.Context, name string, data []byte) error {
	return t.writer.write(ctx, t.pool, t.path(name), data)
}

// ReadFile implements dirstore.Tree.
func (t *tree) ReadFile(ctx context.Context, name string, limit int) ([]byte, error) {
	var data []byte
	err := t.pool.repeat(ctx, func(c *hdfs.Client) error {
		r, err := c.Open(t.path(name))
		if err != nil {
			return err
		}
		defer r.Close()
		size := r.Stat().Size()
		if size > int64(limit) {
			return fmt.Errorf("%s has %d bytes, more than %d", t.path(name), size, limit)
		}
		data = make([]byte, size)
		_, err = io.ReadFull(r, data)
		return err
	})
	return data, err
}

// Rename implements dirstore.Tree. Where the answer was lost it looks: nobody
// else moves from to to, for one of them has a name that was drawn for this.
func (t *tree) Rename(ctx context.Context, from, to string) error {
	err := t.pool.do(ctx, func(c *hdfs.Client) error { return c.Rename(t.path(from), t.path(to)) })
	var lost *wireError
	if !errors.As(err, &lost) || ctx.Err() != nil {
		return err
	}
	if _, look := t.stat(ctx, from); !errors.Is(look, fs.ErrNotExist) {
		return err // it may still happen
	}
	if _, look := t.stat(ctx, to); look != nil {
		return err
	}
	return nil
}

// Remove implements dirstore.Tree.
func (t *tree) Remove(ctx context.Context, name string) error {
	return t.pool.repeat(ctx, func(c *hdfs.Client) error { return c.Remove(t.path(name)) })
}

// RemoveAll implements dirstore.Tree.
func (t *tree) RemoveAll(ctx context.Context, name string) error {
	return t.pool.repeat(ctx, func(c *hdfs.Client) error { return c.RemoveAll(t.path(name)) })
}

// Sync implements dirstore.Tree.
func (t *tree) Sync(ctx context.Context, _ string) error { return ctx.Err() }

// ModTime implements dirstore.Tree.
func (t *tree) ModTime(ctx context.Context, name string) (time.Time, error) {
	info, err := t.stat(ctx, name)
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

func (t *tree) stat(ctx context.Context, name string) (info os.FileInfo, err error) {
	err = t.pool.repeat(ctx, func(c *hdfs.Client) (err error) {
		info, err = c.Stat(t.path(name))
		return err
	})
	return info, err
}
