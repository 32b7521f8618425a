package sqlstore

import (
	"context"
	"database/sql"
	"iter"

	"github.com/distsession/session"
)

const (
	listPage = 500
	idPage   = 500 // IDs in one statement; from 1000 on MariaDB makes a subquery of them

	scanFirst = 16 // records of the first page of a scan
	scanMost  = 500
	scanBytes = 4 << 20 // of values in a page, about
)

// List implements session.Lister. It reads a page at a time, and holds no
// connection while it yields.
func (s *Store) List(ctx context.Context, user string) iter.Seq2[session.Info, error] {
	return func(yield func(session.Info, error) bool) {
		if user == "" || len(user) > maxText {
			return
		}
		last := ""
		for {
			page, err := s.listAfter(ctx, user, last)
			if err != nil {
				yield(session.Info{}, err)
				return
			}
			for _, info := range page {
				if !yield(info, nil) {
					return
				}
			}
			if len(page) < listPage {
				return
			}
			last = page[len(page)-1].ID
		}
	}
}

func (s *Store) listAfter(ctx context.Context, user, last string) (page []session.Info, err error) {
	err = s.do(ctx, "list", func(ctx context.Context) error {
		page = page[:0]
		rows, err := s.queries.list.rows(ctx, []byte(user), []byte(last), s.now().UnixMilli(), listPage)
		return each(rows, err, func() error {
			info := session.Info{User: user}
			err := rows.Scan((*text)(&info.ID), (*text)(&info.Device),
				(*moment)(&info.Created), (*moment)(&info.SignedIn), (*moment)(&info.Seen), (*moment)(&info.Expires))
			page = append(page, info)
			return err
		})
	})
	return page, err
}

// each calls f for every row, and closes rows.
func each(rows *sql.Rows, err error, f func() error) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Scan implements session.Scanner, in the order of the IDs. It reads a page at
// a time, and holds no connection while it yields.
func (s *Store) Scan(ctx context.Context) iter.Seq2[*session.Record, error] {
	return func(yield func(*session.Record, error) bool) {
		last, limit := "", scanFirst
		for {
			page, bytes, err := s.scanAfter(ctx, last, limit)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, rec := range page {
				if !yield(rec, nil) {
					return
				}
			}
			if len(page) < limit {
				return
			}
			last = page[len(page)-1].ID
			limit = min(max(scanBytes*len(page)/max(bytes, 1), 1), scanMost)
		}
	}
}

func (s *Store) scanAfter(ctx context.Context, last string, limit int) (page []*session.Record, bytes int, err error) {
	err = s.do(ctx, "scan", func(ctx context.Context) error {
		page, bytes = page[:0], 0
		rows, err := s.queries.scan.rows(ctx, []byte(last), s.now().UnixMilli(), limit)
		return each(rows, err, func() error {
			rec := &session.Record{}
			err := rows.Scan(append([]any{(*text)(&rec.ID)}, fields(rec)...)...)
			page = append(page, rec)
			bytes += len(rec.Data)
			return err
		})
	})
	return page, bytes, err
}

// DeleteUser implements session.UserDeleter. It ends as well what a Renew that
// runs meanwhile makes of one of these sessions: it looks until it finds none.
// A failure leaves some, and the next call finds them.
func (s *Store) DeleteUser(ctx context.Context, user, keep string) (int, error) {
	if user == "" || len(user) > maxText {
		return 0, nil
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	ended := 0
	for {
		met, live, err := s.endSome(ctx, user, keep)
		ended += live
		if err != nil || met == 0 {
			return ended, err
		}
	}
}

// endSome ends sessions of a user, and tells how many it met and how many of
// them it ended before they would have expired.
func (s *Store) endSome(ctx context.Context, user, keep string) (met, live int, err error) {
	err = s.do(ctx, "delete user", func(ctx context.Context) error {
		now := s.now().UnixMilli()
		if s.atomic {
			return s.queries.deleteUser.row(ctx, []byte(user), []byte(keep), []byte(user), []byte(keep), now).Scan(&met, &live)
		}
		alive, over, err := s.split(ctx, &s.queries.userIDs, now, []byte(user), []byte(keep), idPage)
		if err != nil {
			return err
		}
		met = len(alive) + len(over)
		const which = " AND user_name = ? AND NOT replaced"
		if live, err = s.onIDs(ctx, "DELETE FROM {t}", alive, which, []byte(user)); err != nil {
			return err
		}
		_, err = s.onIDs(ctx, "DELETE FROM {t}", over, which, []byte(user))
		return err
	})
	return met, live, err
}

// split runs a query for IDs and when they expire, and tells those that have
// from those that have not. It locks nothing.
func (s *Store) split(ctx context.Context, q *query, now int64, args ...any) (alive, over []any, err error) {
	rows, err := q.rows(ctx, args...)
	err = each(rows, err, func() error {
		var id []byte
		var expires int64
		err := rows.Scan(&id, &expires)
		if expires > now {
			alive = append(alive, id)
		} else {
			over = append(over, id)
		}
		return err
	})
	return alive, over, err
}

// onIDs runs a statement on rows that it names, for which a condition holds,
// and tells on how many.
func (s *Store) onIDs(ctx context.Context, text string, ids []any, condition string, args ...any) (int, error) {
	if len(ids) == 0 {
		return 0, nil
	}
	result, err := s.write.ExecContext(ctx, s.sql(text+" WHERE id IN ("+marks(len(ids))+")"+condition), append(ids, args...)...)
	if err != nil {
		return 0, err
	}
	n, err := result.RowsAffected()
	return int(n), err
}
