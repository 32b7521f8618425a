package dirstore

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/distsession/session"
)

// walk is where the next Clean begins.
type walk struct {
	mu    sync.Mutex
	next  int
	swept time.Time // by the process's clock
}

// Scan implements session.Scanner. It reads folder by folder.
func (s *Store) Scan(ctx context.Context) iter.Seq2[*session.Record, error] {
	return func(yield func(*session.Record, error) bool) {
		there, err := s.foldersOf(ctx, recordsDir)
		if err != nil {
			yield(nil, s.wrap("scan", err))
			return
		}
		for _, n := range there {
			names, err := s.recordsIn(ctx, n)
			more := true
			if err == nil {
				err = s.each(ctx, names, func(rec *session.Record) bool {
					more = yield(rec, nil)
					return more
				})
			}
			if err != nil {
				yield(nil, s.wrap("scan", err))
				return
			}
			if !more {
				return
			}
		}
	}
}

// recordsIn returns the names of the records in the n-th folder.
func (s *Store) recordsIn(ctx context.Context, n int) ([]string, error) {
	var names []string
	err := s.tree.ReadDir(ctx, folder(recordsDir, n), func(name string) bool {
		if isHash(name, nameLen) {
			names = append(names, name)
		}
		return true
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// A listing may show one twice that goes and comes back.
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Clean implements session.Cleaner. It goes on where the last one of this
// handle stopped, so with a limit, or a context that ends, every record's turn
// comes. At most once an hour it also sweeps what crashes have left.
func (s *Store) Clean(ctx context.Context, now time.Time, limit int) (int, error) {
	s.walk.mu.Lock()
	first := s.walk.next
	sweep := time.Since(s.walk.swept) > grace
	s.walk.mu.Unlock()
	if limit <= 0 {
		first = 0
	}
	if sweep {
		if err := s.sweep(ctx); err != nil {
			return 0, s.wrap("clean", err)
		}
	}
	there, err := s.foldersFrom(ctx, first)
	if err != nil {
		return 0, s.wrap("clean", err)
	}
	clock, err := s.treeNow(ctx)
	if err != nil {
		return 0, s.wrap("clean", err)
	}
	total := 0
	for i, n := range there {
		removed, err := s.cleanRecords(ctx, n, now, limit, total)
		total += removed
		if err == nil {
			err = s.cleanEntries(ctx, n, now, clock)
		}
		full := limit > 0 && total >= limit
		if err != nil || full {
			next := n // there may be more
			if err != nil && i == 0 && removed == 0 {
				next = n + 1 // a folder that takes longer than ctx lasts must not stop all others
			}
			s.stopAt(next)
			return total, s.wrap("clean", err)
		}
	}
	s.stopAt(first)
	return total, nil
}

// foldersFrom lists the folders of records and of index entries, first and what
// comes after it before the others.
func (s *Store) foldersFrom(ctx context.Context, first int) ([]int, error) {
	records, err := s.foldersOf(ctx, recordsDir)
	if err != nil {
		return nil, err
	}
	users, err := s.foldersOf(ctx, usersDir)
	if err != nil {
		return nil, err
	}
	all := append(records, users...)
	slices.Sort(all)
	all = slices.Compact(all)
	at, _ := slices.BinarySearch(all, first)
	return slices.Concat(all[at:], all[:at]), nil
}

func (s *Store) stopAt(n int) {
	s.walk.mu.Lock()
	defer s.walk.mu.Unlock()
	s.walk.next = n
}

// cleanRecords ends the records of the n-th folder that have expired, until
// limit is reached; total is how many went before.
func (s *Store) cleanRecords(ctx context.Context, n int, now time.Time, limit, total int) (removed int, err error) {
	names, err := s.recordsIn(ctx, n)
	if err != nil {
		return 0, err
	}
	var mu sync.Mutex
	for len(names) > 0 {
		k := min(len(names), batch)
		if limit > 0 {
			if k = min(k, limit-total-removed); k == 0 {
				break
			}
		}
		err := together(names[:k], func(_ int, name string) error {
			one, err := s.end(ctx, recordDir(name), s.records.Peek, func(rec *session.Record) bool { return rec.Expired(now) })
			if errors.Is(err, session.ErrNotFound) {
				// Gone, or damaged, or of a later version of this program: left
				// alone. Or an empty directory, which is nothing.
				_ = s.tree.Remove(ctx, recordDir(name))
				return nil
			}
			if one {
				mu.Lock()
				removed++
				mu.Unlock()
			}
			return err
		})
		if err != nil {
			return removed, err
		}
		names = names[k:]
	}
	return removed, nil
}

// cleanEntries removes the index entries of the n-th folder whose Deadline is
// over, and those without a record that no sign-in can be making any more.
func (s *Store) cleanEntries(ctx context.Context, n int, now, clock time.Time) error {
	dir := folder(usersDir, n)
	var files []string
	err := s.tree.ReadDir(ctx, dir, func(file string) bool {
		files = append(files, file)
		return true
	})
	if err != nil {
		return missing(err)
	}
	for len(files) > 0 {
		k := min(len(files), batch)
		err := together(files[:k], func(_ int, file string) error {
			e, ok := parseEntry(file)
			if !ok {
				return nil
			}
			if !e.deadline.Before(now.Add(-grace)) {
				_, err := s.tree.ModTime(ctx, recordDir(e.name))
				if !errors.Is(err, fs.ErrNotExist) {
					return err
				}
				made, err := s.tree.ModTime(ctx, dir+"/"+file)
				if err != nil || clock.Sub(made) < grace {
					return missing(err)
				}
			}
			return missing(s.tree.Remove(ctx, dir+"/"+file))
		})
		if err != nil {
			return err
		}
		files = files[k:]
	}
	return nil
}

// sweep removes what crashes have left: what was not finished, or not removed,
// and has not changed for an hour by the file system's own clock.
func (s *Store) sweep(ctx context.Context) error {
	clock, err := s.treeNow(ctx)
	if err != nil {
		return err
	}
	for _, dir := range []string{NewDir, OldDir} {
		var old []string
		err := s.tree.ReadDir(ctx, dir, func(name string) bool {
			old = append(old, dir+"/"+name)
			return true
		})
		if err != nil {
			return err
		}
		for _, path := range old {
			made, err := s.tree.ModTime(ctx, path)
			if err == nil && clock.Sub(made) >= grace {
				err = s.tree.RemoveAll(ctx, path)
			}
			if err = missing(err); err != nil {
				return err
			}
		}
	}
	s.walk.mu.Lock()
	defer s.walk.mu.Unlock()
	s.walk.swept = time.Now()
	return nil
}

// treeNow is the time by the file system's clock.
func (s *Store) treeNow(ctx context.Context) (time.Time, error) {
	path := Unfinished()
	if err := s.tree.Mark(ctx, path); err != nil {
		return time.Time{}, err
	}
	now, err := s.tree.ModTime(ctx, path)
	_ = s.tree.Remove(ctx, path) // or the sweep
	return now, err
}

// missing forgives what is not there any more.
func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
