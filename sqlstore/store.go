package sqlstore

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distsession/session"
)

// Options configure a Store.
type Options struct {
	// Table is where the records are: lower-case letters, digits and _, at most
	// 40, with a schema in front where the database has them. If "", it is
	// "sessions". Two more tables have its name and _schema, _lease.
	Table string

	// Timeout bounds a call whose context has no deadline. If 0, it is 30
	// seconds.
	Timeout time.Duration

	// NoPrepare keeps the store from preparing its statements, for a pool in
	// front of the database that hands each statement to another connection
	// (PgBouncer before 1.21). A pgx driver has to be told as well:
	// default_query_exec_mode=exec.
	NoPrepare bool

	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Store keeps sessions in a database. It is safe for concurrent use.
type Store struct {
	names
	write, read *sql.DB // one and the same, but for SQLite that Open opened
	timeout     time.Duration
	now         func() time.Time
	holder      string // this handle's name in leases

	prepare bool
	queries queries
	packet  atomic.Int64 // MySQL's max_allowed_packet, 0 until it was asked for

	// Of a store that Open made.
	own   bool // the pools are ours to close
	stop  func()
	close sync.Once
}

const defaultTimeout = 30 * time.Second

// New returns a store in db, whose driver is one of pgx, go-sql-driver/mysql
// and modernc.org/sqlite; opts may be nil. It asks the database for nothing:
// call Check at start. The db is yours to close.
func New(db *sql.DB, dialect Dialect, opts *Options) (*Store, error) {
	return newStore(db, db, dialect, opts)
}

func newStore(write, read *sql.DB, dialect Dialect, opts *Options) (*Store, error) {
	if opts == nil {
		opts = &Options{}
	}
	n, err := newNames(dialect, opts.Table)
	switch {
	case err != nil:
		return nil, err
	case write == nil:
		return nil, configError("the database is nil; open one with sql.Open")
	case opts.Timeout < 0:
		return nil, configError("Options.Timeout is negative; leave it 0 for %v", defaultTimeout)
	}
	s := &Store{
		names: *n, write: write, read: read,
		timeout: cmp.Or(opts.Timeout, defaultTimeout),
		now:     opts.Now,
		holder:  rand.Text(),
		prepare: !opts.NoPrepare,
		stop:    func() {},
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.queries.init(s)
	return s, nil
}

// Close closes what Open opened; a database that was passed to New stays open.
// The store must not be used after it.
func (s *Store) Close() error {
	var err error
	s.close.Do(func() {
		s.stop()
		s.queries.close()
		if !s.own {
			return
		}
		err = s.read.Close()
		if e := s.write.Close(); err == nil {
			err = e
		}
	})
	return err
}

// Load implements session.Store.
func (s *Store) Load(ctx context.Context, token string) (*session.Record, error) {
	if !session.WellFormed(token) {
		return nil, session.ErrNotFound
	}
	id := session.ID(token)
	rec := &session.Record{}
	err := s.do(ctx, "load", func(ctx context.Context) error {
		return s.queries.load.row(ctx, []byte(id)).Scan(fields(rec)...)
	})
	switch {
	case err != nil:
		return nil, err
	case rec.Expired(s.now()):
		return nil, session.ErrNotFound
	}
	rec.ID = id
	return rec, nil
}

// Delete implements session.Store.
func (s *Store) Delete(ctx context.Context, id string) error {
	if !validID(id) {
		return nil
	}
	return s.do(ctx, "delete", func(ctx context.Context) error {
		_, err := s.queries.delete.exec(ctx, []byte(id))
		return err
	})
}

// Touch implements session.Toucher.
func (s *Store) Touch(ctx context.Context, id string, seen, expires time.Time) error {
	if !validID(id) {
		return session.ErrNotFound
	}
	return s.do(ctx, "touch", func(ctx context.Context) error {
		now, until := s.now().UnixMilli(), expires.UnixMilli()
		n, err := s.queries.touch.exec(ctx, seen.UnixMilli(), until, until, []byte(id), now)
		if err != nil || n > 0 {
			return err
		}
		if !s.upsert {
			// MySQL does not count a row that stays as it was.
			var one int
			return s.queries.live.row(ctx, []byte(id), now).Scan(&one)
		}
		return session.ErrNotFound
	})
}

// maxID is what MySQL's column takes. Ours have 43 bytes.
const maxID = 255

func validID(id string) bool { return id != "" && len(id) <= maxID }

var (
	_ session.Store       = (*Store)(nil)
	_ session.Toucher     = (*Store)(nil)
	_ session.Lister      = (*Store)(nil)
	_ session.UserDeleter = (*Store)(nil)
	_ session.Scanner     = (*Store)(nil)
	_ session.Cleaner     = (*Store)(nil)
	_ session.Leaser      = (*Store)(nil)
	_ io.Closer           = (*Store)(nil)
)
