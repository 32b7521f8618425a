package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/distsession/session"
)

// queries are the statements that stay prepared.
type queries struct {
	load, look, live                query
	insert, replace, update         query
	touch, delete                   query
	list, scan                      query
	userIDs, due                    query
	deleteUser, clean               query // of PostgreSQL
	lease, leaseNew, leaseEnd, held query
}

func (q *queries) init(s *Store) {
	insert := insertSQL + overSQL
	if !s.upsert {
		insert = strings.Replace(insertSQL, " AS old", "", 1)
	}
	update := updateSQL
	if s.atomic {
		update = pgUpdate
	}
	for _, p := range []struct {
		q    *query
		db   *sql.DB
		text string
	}{
		{&q.load, s.read, "SELECT {columns} FROM {t} WHERE id = ?"},
		{&q.look, s.write, "SELECT version, expires, trail FROM {t} WHERE id = ?"},
		{&q.live, s.write, "SELECT 1 FROM {t} WHERE id = ? AND expires > ? AND NOT replaced"},
		{&q.insert, s.write, insert},
		{&q.replace, s.write, replaceSQL},
		{&q.update, s.write, update},
		{&q.touch, s.write, "UPDATE {t} SET seen = {greatest}(seen, ?), expires = {greatest}(expires, {least}(?, COALESCE(deadline, ?))) WHERE id = ? AND expires > ? AND NOT replaced"},
		{&q.delete, s.write, "DELETE FROM {t} WHERE id = ?"},
		{&q.list, s.read, "SELECT id, device, created, signed_in, seen, expires FROM {t} WHERE user_name = ? AND id > ? AND expires > ? AND NOT replaced ORDER BY id LIMIT ?"},
		{&q.scan, s.read, "SELECT id, {columns} FROM {t} WHERE id > ? AND expires > ? AND NOT replaced ORDER BY id LIMIT ?"},
		{&q.userIDs, s.write, "SELECT id, expires FROM {t} WHERE user_name = ? AND id <> ? AND NOT replaced ORDER BY id LIMIT ?"},
		{&q.due, s.write, "SELECT id, expires FROM {t} WHERE due <= ? ORDER BY due LIMIT ?"},
		{&q.deleteUser, s.write, pgDeleteUser},
		{&q.clean, s.write, pgClean},
		{&q.lease, s.write, s.leaseSQL()},
		{&q.leaseNew, s.write, "INSERT INTO {lease} (name, holder, held_until) VALUES (?, ?, {clock} + ?)"},
		{&q.leaseEnd, s.write, "DELETE FROM {lease} WHERE name = ? AND holder = ?"},
		{&q.held, s.write, "SELECT holder = ? AND held_until > {clock} FROM {lease} WHERE name = ?"},
	} {
		p.q.db, p.q.text, p.q.prepare = p.db, s.sql(p.text), s.prepare
	}
}

func (q *queries) close() {
	for _, one := range []*query{
		&q.load, &q.look, &q.live, &q.insert, &q.replace, &q.update, &q.touch, &q.delete, &q.list, &q.scan,
		&q.userIDs, &q.due, &q.deleteUser, &q.clean, &q.lease, &q.leaseNew, &q.leaseEnd, &q.held,
	} {
		one.close()
	}
}

// query is one statement. It is prepared when it is first used, for the tables
// may not be there before, and from then on once on each connection.
type query struct {
	db      *sql.DB
	text    string
	prepare bool

	mu   sync.RWMutex
	stmt *sql.Stmt
}

func (q *query) prepared(ctx context.Context) (*sql.Stmt, error) {
	q.mu.RLock()
	stmt := q.stmt
	q.mu.RUnlock()
	if stmt != nil {
		return stmt, nil
	}
	stmt, err := q.db.PrepareContext(ctx, q.text)
	if err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stmt != nil { // another was first
		_ = stmt.Close()
	} else {
		q.stmt = stmt
	}
	return q.stmt, nil
}

func (q *query) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stmt != nil {
		_ = q.stmt.Close() // its connections may be gone
	}
}

// exec tells how many rows were changed.
func (q *query) exec(ctx context.Context, args ...any) (int64, error) {
	var result sql.Result
	var err error
	if q.prepare {
		var stmt *sql.Stmt
		if stmt, err = q.prepared(ctx); err == nil {
			result, err = stmt.ExecContext(ctx, args...)
		}
	} else {
		result, err = q.db.ExecContext(ctx, q.text, args...)
	}
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

func (q *query) rows(ctx context.Context, args ...any) (*sql.Rows, error) {
	if !q.prepare {
		return q.db.QueryContext(ctx, q.text, args...)
	}
	stmt, err := q.prepared(ctx)
	if err != nil {
		return nil, err
	}
	return stmt.QueryContext(ctx, args...)
}

// row is the first row of the answer; Scan returns ErrNotFound if there is
// none.
func (q *query) row(ctx context.Context, args ...any) firstRow {
	rows, err := q.rows(ctx, args...)
	return firstRow{ctx, rows, err}
}

type firstRow struct {
	ctx  context.Context
	rows *sql.Rows
	err  error
}

func (r firstRow) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	defer r.rows.Close()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		if err := r.ctx.Err(); err != nil {
			return err // not "no row": nobody looked to the end
		}
		return session.ErrNotFound
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	return r.rows.Close()
}

const (
	brokenTries = 3 // of a call whose connection breaks
	firstPause  = 5 * time.Millisecond
	longPause   = 100 * time.Millisecond
)

// bounded gives a context without a deadline one.
func (s *Store) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, s.timeout)
}

// do calls f, and again where that is worth it, and names the act in an error.
func (s *Store) do(ctx context.Context, act string, f func(ctx context.Context) error) error {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	err := s.again(ctx, f)
	switch {
	case err == nil, errors.Is(err, session.ErrNotFound), errors.Is(err, session.ErrConflict), errors.Is(err, session.ErrTooLarge):
		return err
	case ctx.Err() == nil && s.judge(err) == tooLarge:
		return tooLargeError("%s: %w", act, plain(err))
	}
	return s.failure(ctx, act, err)
}

// again calls f, and once more where a connection broke, which a restart of the
// server does to all of the pool, or another statement was in the way. What f
// does can be done twice.
func (s *Store) again(ctx context.Context, f func(ctx context.Context) error) error {
	pause := firstPause
	for tries := 1; ; {
		err := f(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		switch s.judge(err) {
		case clash: // as often as there is time
		case broken:
			if tries++; tries > brokenTries {
				return err
			}
		default:
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause/2 + rand.N(pause)):
			pause = min(2*pause, longPause)
		}
	}
}
