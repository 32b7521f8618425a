package sqlstore

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/distsession/session"
	"github.com/jackc/pgx/v5/pgconn"
)

// fault is what an error of the database means.
type fault int

const (
	failed    fault = iota
	broken          // the connection broke: the statement may have been applied
	clash           // with another statement: it was not applied
	duplicate       // of the primary key
	tooLarge
	missing   // a table or a column
	forbidden // to this user
	readOnly
	refused // user, password or database
)

// errAgain: the statement met another one and cannot tell what became of the
// row.
var errAgain = errors.New("sqlstore: changed meanwhile")

// judgeAny knows the errors of package database/sql and of the network.
func judgeAny(err error) fault {
	var network net.Error
	switch {
	case errors.Is(err, errAgain):
		return clash
	case errors.Is(err, driver.ErrBadConn), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, net.ErrClosed), errors.As(err, &network):
		return broken
	}
	return failed
}

func noSuch(text string) bool {
	return strings.Contains(text, "no such table") || strings.Contains(text, "no such column") ||
		strings.Contains(text, "has no column named")
}

// failure is what the caller gets for an error of the database.
func (s *Store) failure(ctx context.Context, act string, err error) error {
	if e := ctx.Err(); e != nil && !errors.Is(err, e) {
		// What a driver makes of a context that ended differs.
		return fmt.Errorf("sqlstore: %s: %w: %w", act, e, plain(err))
	}
	return fmt.Errorf("sqlstore: %s: %w", act, plain(err))
}

// plain takes from an error of PostgreSQL what may hold values: Detail shows a
// row that breaks a constraint, Where the parameters of a statement
// (log_parameter_max_length_on_error).
func plain(err error) error {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return err
	}
	return &pgconn.PgError{Severity: e.Severity, SeverityUnlocalized: e.SeverityUnlocalized, Code: e.Code, Message: e.Message}
}

func tooLargeError(format string, args ...any) error {
	return fmt.Errorf("%w: sqlstore: "+format, append([]any{session.ErrTooLarge}, args...)...)
}
