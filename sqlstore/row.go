package sqlstore

import (
	"fmt"
	"time"

	"github.com/distsession/session"
)

// fields are where a row of columns goes.
func fields(rec *session.Record) []any {
	return []any{
		(*version)(&rec.Version), (*text)(&rec.User), (*text)(&rec.Device),
		(*moment)(&rec.Created), (*moment)(&rec.SignedIn), (*moment)(&rec.Seen), (*moment)(&rec.Expires), (*moment)(&rec.Deadline),
		&rec.Persist, &rec.Replaced, &rec.Data,
	}
}

// version is at least 1. A row that somebody else wrote is no session, as one
// that cannot be decoded is none elsewhere.
type version int64

func (v *version) Scan(src any) error {
	n, ok := src.(int64)
	if !ok || n < 1 {
		return fmt.Errorf("%w: a record of version %v", session.ErrNotFound, src)
	}
	*v = version(n)
	return nil
}

// text is kept as bytes: no collation, no encoding, no NUL that ends it.
type text string

func (s *text) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*s = ""
	case []byte:
		*s = text(v)
	case string:
		*s = text(v)
	default:
		return fmt.Errorf("a %T where bytes are kept", src)
	}
	return nil
}

// moment is kept in milliseconds since 1970, and as NULL where the zero time
// means none.
type moment time.Time

func (m *moment) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*m = moment{}
	case int64:
		*m = moment(time.UnixMilli(v).UTC())
	default:
		return fmt.Errorf("a %T where milliseconds are kept", src)
	}
	return nil
}

// orNull is t in milliseconds, NULL for the zero time.
func orNull(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMilli()
}

// values are those of a row, as trail and columns without version have them,
// but for expires, which is cut to the Deadline.
func values(rec *session.Record, trail string, expires time.Time) []any {
	var user any
	if rec.User != "" {
		user = []byte(rec.User)
	}
	data := rec.Data
	if data == nil {
		data = []byte{} // nil would be NULL
	}
	return []any{
		trail, user, []byte(rec.Device),
		rec.Created.UnixMilli(), orNull(rec.SignedIn), rec.Seen.UnixMilli(), expires.UnixMilli(), orNull(rec.Deadline),
		rec.Persist, rec.Replaced, data,
	}
}

// expiry is Expires, cut to the Deadline.
func expiry(rec *session.Record) time.Time {
	if !rec.Deadline.IsZero() && rec.Expires.After(rec.Deadline) {
		return rec.Deadline
	}
	return rec.Expires
}
