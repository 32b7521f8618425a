package ignitestore

import (
	"context"
	"iter"

	"github.com/distsession/session"
	"github.com/distsession/session/ignitestore/internal/wire"
	"github.com/distsession/session/internal/casstore"
)

// Scan implements session.Scanner. One member reads the whole cache, and passes
// over what is no session of this Prefix. It fails if that member goes.
func (s *Store) Scan(ctx context.Context) iter.Seq2[*session.Record, error] {
	return func(yield func(*session.Record, error) bool) {
		if err := s.scan(ctx, yield); err != nil {
			yield(nil, failed("scan", err))
		}
	}
}

// scanning is a page and the connection on which the next one can be had.
type scanning struct {
	on *wire.Conn
	wire.Page
}

// scan returns nil when the caller has seen enough.
func (s *Store) scan(ctx context.Context, yield func(*session.Record, error) bool) error {
	at, err := read(ctx, s, "", func(ctx context.Context, c *wire.Conn) (scanning, error) {
		page, err := c.Scan(ctx, wire.CacheID(s.cache), rows)
		return scanning{c, page}, err
	})
	if err != nil {
		return err
	}
	defer func() {
		if at.More { // the member keeps it until the connection ends
			at.on.Abandon(at.Cursor)
		}
	}()
	for {
		items := make([]*casstore.Item, len(at.Rows))
		for i, e := range at.Rows {
			items[i] = item(e.Key, e.Value)
		}
		live, err := casstore.Live(ctx, s.records, items)
		if err != nil {
			return err
		}
		for _, rec := range live {
			if !yield(rec, nil) {
				return nil
			}
		}
		if !at.More {
			return nil
		}
		page, err := s.nextPage(ctx, at)
		if err != nil {
			return err
		}
		at.Page = page
	}
}

func (s *Store) nextPage(ctx context.Context, at scanning) (wire.Page, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	return at.on.NextPage(ctx, at.Cursor, rows)
}
