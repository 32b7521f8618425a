package sqlstore

import (
	"context"
	"database/sql"
	"errors"

	"github.com/distsession/session"
)

const (
	maxText = 1024     // bytes of User and of Device: what MySQL's columns take
	maxData = 64 << 20 // bytes of values

	// From packetUnknown bytes of values on MySQL is asked how much it takes.
	packetUnknown = 512 << 10
	packetRest    = 8 << 10 // what a statement takes beside the values
)

const (
	insertSQL = `INSERT INTO {t} AS old (id, due, version, trail, user_name, device, created, signed_in, seen, expires, deadline, persist, replaced, data)
VALUES (?, ?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`

	// An ID whose record has expired is free.
	overSQL = ` ON CONFLICT (id) DO UPDATE SET due = excluded.due, version = 1, trail = excluded.trail,
  user_name = excluded.user_name, device = excluded.device, created = excluded.created, signed_in = excluded.signed_in,
  seen = excluded.seen, expires = excluded.expires, deadline = excluded.deadline,
  persist = excluded.persist, replaced = excluded.replaced, data = excluded.data
WHERE old.expires <= ?`

	// The same for MySQL, which cannot say it in the INSERT.
	replaceSQL = `UPDATE {t} SET due = ?, version = 1, trail = ?, user_name = ?, device = ?, created = ?, signed_in = ?, seen = ?,
  expires = ?, deadline = ?, persist = ?, replaced = ?, data = ? WHERE id = ? AND expires <= ?`

	// due moves only backwards here, and forwards in Clean: see postgres.
	updateSQL = `UPDATE {t} SET due = {least}(due, ?), version = version + 1, trail = {trail}, user_name = ?, device = ?, created = ?,
  signed_in = ?, seen = ?, expires = ?, deadline = ?, persist = ?, replaced = ?, data = ? WHERE id = ? AND version = ? AND expires > ?`
)

// Save implements session.Store.
func (s *Store) Save(ctx context.Context, rec *session.Record) (string, error) {
	if err := fits(rec); err != nil {
		return "", err
	}
	trail := session.NewTrail().Next()
	expires := expiry(rec)
	w := &write{id: []byte(rec.ID), version: rec.Version, name: trail.Write(), expires: expires.UnixMilli()}
	if rec.Version == 0 {
		w.values = values(rec, string(trail), expires)
	} else {
		w.values = values(rec, w.name, expires)
	}
	return "", s.do(ctx, "save", func(ctx context.Context) error {
		if err := s.fitsPacket(ctx, len(rec.Data)); err != nil {
			return err
		}
		// Every attempt has the same name, so that one which follows a lost
		// answer finds that it was done, and by whom.
		w.now = s.now().UnixMilli()
		if w.version == 0 {
			return s.create(ctx, w)
		}
		return s.update(ctx, w)
	})
}

// write is a record on its way into the table.
type write struct {
	id      []byte
	version int64 // before
	name    string
	expires int64
	values  []any
	now     int64
}

// found is the row that a write met.
type found struct {
	version, expires sql.NullInt64
	trail            sql.NullString
}

func fits(rec *session.Record) error {
	switch {
	case rec.ID == "":
		return errors.New("sqlstore: save: the record has no ID")
	case len(rec.ID) > maxID:
		return tooLargeError("an ID of %d bytes; at most %d", len(rec.ID), maxID)
	case len(rec.User) > maxText:
		return tooLargeError("a user name of %d bytes; at most %d", len(rec.User), maxText)
	case len(rec.Device) > maxText:
		return tooLargeError("a device of %d bytes; at most %d", len(rec.Device), maxText)
	case len(rec.Data) > maxData:
		return tooLargeError("values of %d bytes; at most %d", len(rec.Data), maxData)
	}
	return nil
}

// fitsPacket asks MySQL how large a statement may be, for it breaks the
// connection over one that is larger.
func (s *Store) fitsPacket(ctx context.Context, data int) error {
	if !s.prepare {
		data *= 2 // the driver may escape every byte
	}
	if s.traits != mysqlTraits || data < packetUnknown {
		return nil
	}
	limit := s.packet.Load()
	if limit == 0 {
		if err := s.write.QueryRowContext(ctx, "SELECT @@max_allowed_packet").Scan(&limit); err != nil {
			return err
		}
		s.packet.Store(limit)
	}
	if int64(data)+packetRest > limit {
		return tooLargeError("values that take %d bytes in a statement; the server's max_allowed_packet is %d", data, limit)
	}
	return nil
}

func (s *Store) create(ctx context.Context, w *write) error {
	n, err := s.insert(ctx, w)
	switch {
	case err != nil:
		return err
	case n > 0:
		return nil
	}
	var f found
	if err := s.look(ctx, w, &f); err != nil {
		return err
	}
	switch {
	case w.made(&f):
		return nil
	case !f.live(w.now):
		return errAgain // it went meanwhile
	}
	return session.ErrConflict
}

func (s *Store) insert(ctx context.Context, w *write) (int64, error) {
	args := append([]any{w.id, w.expires}, w.values...)
	if s.upsert {
		return s.queries.insert.exec(ctx, append(args, w.now)...)
	}
	n, err := s.queries.insert.exec(ctx, args...)
	if err == nil || s.judge(err) != duplicate {
		return n, err
	}
	return s.queries.replace.exec(ctx, append(args[1:], w.id, w.now)...)
}

func (s *Store) update(ctx context.Context, w *write) error {
	args := append(append([]any{w.expires}, w.values...), w.id, w.version, w.now)
	var n int64
	var f found
	var err error
	if s.atomic {
		err = s.queries.update.row(ctx, append(args, w.id)...).Scan(&n, &f.version, &f.expires, &f.trail)
		if err == nil && n == 0 && f.live(w.now) && f.version.Int64 == w.version {
			// It waited for another statement, and saw the row as it was before.
			f = found{}
			err = s.look(ctx, w, &f)
		}
	} else if n, err = s.queries.update.exec(ctx, args...); err == nil && n == 0 {
		err = s.look(ctx, w, &f)
	}
	switch {
	case err != nil:
		return err
	case n > 0, w.made(&f):
		return nil
	case !f.live(w.now):
		return session.ErrNotFound
	case f.version.Int64 == w.version:
		return errAgain // it went and was made anew between the two
	}
	return session.ErrConflict
}

// look reads the row that a write met; f stays as it is if there is none.
func (s *Store) look(ctx context.Context, w *write, f *found) error {
	err := s.queries.look.row(ctx, w.id).Scan(&f.version, &f.expires, &f.trail)
	if errors.Is(err, session.ErrNotFound) {
		return nil
	}
	return err
}

func (f *found) live(now int64) bool { return f.version.Valid && f.expires.Int64 > now }

// made tells whether the row is this write's, or one that followed it.
func (w *write) made(f *found) bool {
	trail := session.Trail(f.trail.String)
	return len(trail) == session.TrailLen && trail.Has(w.name, f.version.Int64-w.version-1)
}
