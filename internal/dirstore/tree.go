package dirstore

import (
	"context"
	"time"
)

// A Tree is a folder in a file system that all nodes share. Paths have slashes,
// are relative to the folder, and are made by this package and its Protocols
// alone: of hashes, numbers and random text, never longer than 200 bytes.
//
// A missing file or folder is fs.ErrNotExist, one that is there already
// fs.ErrExist. Every call returns when its context ends, also where the file
// system does not answer; what was under way then may still happen. A symbolic
// link is not followed. The methods are safe for concurrent use.
type Tree interface {
	// ReadDir calls each with every name in dir, in any order and a page at a
	// time, until each returns false. What is no folder is missing. A name that comes or goes meanwhile may be
	// among them; one that stays is.
	ReadDir(ctx context.Context, dir string, each func(name string) bool) error

	// Mkdir makes a folder in one that is there.
	Mkdir(ctx context.Context, dir string) error

	// Mark makes an empty entry, a file or a folder, or makes the one that is
	// there as young as a new one. Its folder is there.
	Mark(ctx context.Context, path string) error

	// WriteFile makes a file with this content, which is on disk when WriteFile
	// returns. Its name may not be: that takes a Sync. fs.ErrExist if it is
	// there; after another error a part of it may be.
	WriteFile(ctx context.Context, path string, data []byte) error

	// ReadFile returns the content of a file; session.ErrNotFound, wrapped with
	// the reason, if it has more than limit bytes or is no file.
	ReadFile(ctx context.Context, path string, limit int) ([]byte, error)

	// Rename moves a file or a folder at once: one of several that move one
	// thing wins, the others get fs.ErrNotExist. To move a folder to one that is
	// there and not empty is fs.ErrExist, and of several that do it at once one
	// wins.
	Rename(ctx context.Context, from, to string) error

	// Remove removes a file or an empty folder.
	Remove(ctx context.Context, path string) error

	// RemoveAll removes path and what is in it. Nothing is no error.
	RemoveAll(ctx context.Context, path string) error

	// Sync puts the names in dir on disk. Where the others do that already, it
	// does nothing.
	Sync(ctx context.Context, dir string) error

	// ModTime is when path was last changed, by the file system's clock; of a
	// folder, when a name in it came or went.
	ModTime(ctx context.Context, path string) (time.Time, error)
}
