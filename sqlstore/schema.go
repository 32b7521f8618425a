package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/distsession/session"
)

// step is what makes one version of the schema from the one before. It can be
// run again where it was broken off.
type step struct {
	version int
	oldest  int // the first version whose programs can work with this one
	sql     []string
}

// bookkeeping notes which steps have been made.
const bookkeeping = `CREATE TABLE IF NOT EXISTS {schema} (
  version INTEGER NOT NULL PRIMARY KEY, -- of what was made last
  oldest  INTEGER NOT NULL              -- programs that know this version can use it
)`

// Schema returns the SQL that makes the tables, for those who run their own
// migrations; Migrate does the same. An empty table is "sessions". It panics if
// the dialect or the table's name is not a valid one.
func Schema(dialect Dialect, table string) string {
	n, err := newNames(dialect, table)
	if err != nil {
		panic(err)
	}
	var b strings.Builder
	for _, text := range n.statements(0) {
		b.WriteString(text + ";\n\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func newNames(dialect Dialect, table string) (*names, error) {
	if table == "" {
		table = "sessions"
	}
	tr := dialects[dialect]
	switch {
	case tr == nil:
		return nil, configError("the dialect %q is not known; it is sqlstore.PostgreSQL, MySQL or SQLite", dialect)
	case !validTable(table, dialect):
		return nil, configError("the table name %q cannot be used; write lower-case letters, digits and _, at most 40, with a schema in front where the database has them", table)
	}
	return &names{tr, table}, nil
}

// statements are those that bring the schema from version have to the newest.
func (n *names) statements(have int) []string {
	all := []string{n.sql(bookkeeping)}
	for _, s := range n.schema {
		if s.version <= have {
			continue
		}
		for _, text := range s.sql {
			all = append(all, n.sql(text))
		}
		insert := "INSERT INTO {schema} (version, oldest) VALUES (%d, %d) ON CONFLICT DO NOTHING"
		if !n.upsert {
			insert = "INSERT IGNORE INTO {schema} (version, oldest) VALUES (%d, %d)"
		}
		all = append(all, n.sql(fmt.Sprintf(insert, s.version, s.oldest)))
	}
	return all
}

// newest is the version that this program needs.
func (n *names) newest() int { return n.schema[len(n.schema)-1].version }

// Migrate makes the tables, or brings them to this program's version. Several
// nodes may call it at once, and a failure leaves nothing that the next call
// does not mend. It needs the right to create tables; nothing else does.
func (s *Store) Migrate(ctx context.Context) error {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	conn, err := s.write.Conn(ctx)
	if err != nil {
		return s.failure(ctx, "migrate", err)
	}
	defer conn.Close()
	lock, unlock := s.lock(s.table)
	if err := run(ctx, conn, lock); err != nil {
		return s.failure(ctx, "migrate: lock", err)
	}
	if err := s.migrate(ctx, conn); err != nil {
		if s.undo != "" {
			unlock = statement{text: s.undo}
		}
		// The connection goes back into the pool, and must not take the lock
		// with it.
		over, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		return s.failure(ctx, "migrate", errors.Join(err, run(over, conn, unlock)))
	}
	if err := run(ctx, conn, unlock); err != nil {
		return s.failure(ctx, "migrate", err)
	}
	return nil
}

func (s *Store) migrate(ctx context.Context, conn *sql.Conn) error {
	if _, err := conn.ExecContext(ctx, s.sql(bookkeeping)); err != nil {
		return err
	}
	var have sql.NullInt64
	if err := conn.QueryRowContext(ctx, s.sql("SELECT max(version) FROM {schema}")).Scan(&have); err != nil {
		return err
	}
	for _, text := range s.statements(int(have.Int64))[1:] {
		if _, err := conn.ExecContext(ctx, text); err != nil {
			return err
		}
	}
	return nil
}

func run(ctx context.Context, conn *sql.Conn, st statement) error {
	_, err := conn.ExecContext(ctx, st.text, st.args...)
	return err
}

// Check tells whether sessions can be kept here: the tables are there and of
// this program's version, their columns are, the database user may read and
// write them, and this is the primary. What has to be mended is ErrConfig, and
// says how; any other error means that the database does not answer.
func (s *Store) Check(ctx context.Context) error {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	err := s.again(ctx, s.check)
	if err == nil || isConfig(err) {
		return err
	}
	return s.explain(ctx, "check", err)
}

func (s *Store) check(ctx context.Context) error {
	if s.primary != "" {
		var why string
		if err := s.write.QueryRowContext(ctx, s.primary).Scan(&why); err != nil {
			return err
		}
		if why != "" {
			return configError("%s: %s", s.name, why)
		}
	}
	var version, oldest sql.NullInt64
	err := s.write.QueryRowContext(ctx, s.sql("SELECT max(version), max(oldest) FROM {schema}")).Scan(&version, &oldest)
	switch {
	case err != nil:
		return err
	case int(version.Int64) < s.newest():
		return &outdatedError{configError("the schema of table %s is of version %d, and this program needs %d; %s", s.table, version.Int64, s.newest(), howToMigrate)}
	case int(oldest.Int64) > s.newest():
		return configError("the schema of table %s is of version %d, and this program knows it only up to %d; update the program", s.table, version.Int64, s.newest())
	}
	for _, text := range probes {
		_, err := s.write.ExecContext(ctx, s.sql(text))
		switch {
		case err != nil && s.judge(err) == missing:
			return configError("%s: %s_schema says that version %d was made, but a table or a column of it is missing; restore it, or drop the three tables and migrate: %w",
				s.name, s.table, version.Int64, plain(err))
		case err != nil:
			return err
		}
	}
	return nil
}

const howToMigrate = "call Migrate, add migrate=true to the URL, or run the SQL that sqlstore.Schema returns"

// probes do everything that the store does, on no rows: no ID is empty. A
// missing column or privilege shows, and a database that takes no writes.
var probes = []string{
	"INSERT INTO {t} (id, trail, due, {columns}) SELECT id, trail, due, {columns} FROM {t} WHERE id = ''",
	"UPDATE {t} SET due = expires WHERE id = ''",
	"DELETE FROM {t} WHERE id = ''",
	"INSERT INTO {lease} (name, holder, held_until) SELECT name, holder, held_until FROM {lease} WHERE name = ''",
	"UPDATE {lease} SET held_until = 0 WHERE name = ''",
	"DELETE FROM {lease} WHERE name = ''",
}

// explain is failure, but an error that somebody has to mend is ErrConfig.
func (s *Store) explain(ctx context.Context, act string, err error) error {
	mend := ""
	switch s.judge(err) {
	case missing:
		return &outdatedError{configError("%s: a table or a column is missing; %s: %w", s.name, howToMigrate, plain(err))}
	case forbidden:
		mend = "the database user lacks a right; GRANT SELECT, INSERT, UPDATE, DELETE on the tables " +
			s.table + " and " + s.table + "_lease, SELECT on " + s.table + "_schema, and CREATE where it is to migrate"
	case readOnly:
		mend = "the database or the connection is read-only; sessions are kept on the primary, over a connection that writes"
	case refused:
		mend = "the database refuses the user, the password or the database's name; check them, with password=env:NAME or file:PATH"
		if s.traits == sqlite {
			mend = "the file cannot be opened, or is no database"
		}
	default:
		return s.failure(ctx, act, err)
	}
	return fmt.Errorf("%w: sqlstore: %s: %s: %w", session.ErrConfig, s.name, mend, plain(err))
}

func configError(format string, args ...any) error {
	return fmt.Errorf("%w: sqlstore: "+format, append([]any{session.ErrConfig}, args...)...)
}

// outdatedError is an ErrConfig that Migrate mends.
type outdatedError struct{ error }

func (e *outdatedError) Unwrap() error { return e.error }

// isConfig tells an error that waiting does not mend.
func isConfig(err error) bool { return errors.Is(err, session.ErrConfig) }
