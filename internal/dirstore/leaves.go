//go:build unix && !aix && !solaris

package dirstore

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"sync"
	"syscall"
)

// leaves holds the lowest folders of the layout open: os.Root opens every folder
// on a path, one after the other, and on a network that is a round trip each.
// The store never moves or removes them.
type leaves struct {
	mu   sync.Mutex
	open map[string]*os.Root
}

// maxLeaves bounds the open folders; each is a file descriptor.
const maxLeaves = 256

// leafOf splits a path after such a folder; "" if it is not in one.
func leafOf(path string) (leaf, rest string) {
	end := 0
	switch top, _, _ := strings.Cut(path, "/"); top {
	case NewDir, OldDir:
		end = len(top)
	case recordsDir, usersDir:
		end = len(top) + 1 + fanOut1 + 1 + fanOut2
	}
	switch {
	case end == 0 || len(path) < end:
		return "", path
	case len(path) == end:
		return path, "."
	case path[end] != '/':
		return "", path
	}
	return path[:end], path[end+1:]
}

func (s *leaves) get(leaf string) *os.Root {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open[leaf]
}

func (s *leaves) put(leaf string, r *os.Root) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[string]*os.Root{}
	}
	for other := range s.open {
		if len(s.open) < maxLeaves {
			break
		}
		delete(s.open, other) // calls may be under way in it: the garbage collector closes it
	}
	s.open[leaf] = r
}

func (s *leaves) drop(leaf string, r *os.Root) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[leaf] == r {
		delete(s.open, leaf)
	}
}

func (s *leaves) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.open)
}

// in calls f with the folder that path lies in and the rest of the path.
func (l *Local) in(path string, f func(r *os.Root, rest string) error) error {
	leaf, rest := leafOf(path)
	if leaf == "" {
		return f(l.root(), path)
	}
	if r := l.leaves.get(leaf); r != nil {
		err := f(r, rest)
		if !gone(r, err) {
			return err
		}
		l.leaves.drop(leaf, r)
	}
	r, err := l.root().OpenRoot(leaf)
	if err != nil {
		return err
	}
	l.leaves.put(leaf, r)
	return f(r, rest)
}

// gone tells whether err may come of the folder itself, which somebody has
// removed: there may be a new one of its name.
func gone(r *os.Root, err error) bool {
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ESTALE) {
		return false
	}
	info, err := r.Stat(".")
	if err != nil {
		return true
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Nlink == 0
}
