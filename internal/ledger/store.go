package ledger

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/distsession/session"
)

// Start counts in sessions of a store, one for each counter, until Check.
func Start(t testing.TB, store session.Store, workers, counters int) *Ledger {
	t.Helper()
	tokens := make([]string, counters)
	recs := make([]*session.Record, counters)
	for i := range tokens {
		recs[i], tokens[i] = create(t, store, "user"+strconv.Itoa(i%4))
	}
	add := func(ctx context.Context, i int) error { return addOne(ctx, store, tokens[i]) }
	value := func(ctx context.Context, i int) (int, error) {
		_, n, err := count(ctx, store, tokens[i])
		return n, err
	}
	l := start(t, workers, counters, add, value)
	l.Records = recs
	return l
}

// A writer that lost pauses, by chance and up to longer each time, before it
// tries again: on a store where a save takes long the others would mostly lose.
const (
	firstPause = time.Millisecond
	lastPause  = 128 * time.Millisecond
)

// addOne adds one to the number that a session holds, by compare-and-set.
func addOne(ctx context.Context, store session.Store, token string) error {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		rec, n, err := count(ctx, store, token)
		if err != nil {
			return err
		}
		rec.Data = []byte(strconv.Itoa(n + 1))
		if _, err = store.Save(ctx, rec); !errors.Is(err, session.ErrConflict) {
			return err
		}
		time.Sleep(rand.N(pause))
	}
}

func count(ctx context.Context, store session.Store, token string) (*session.Record, int, error) {
	rec, err := store.Load(ctx, token)
	if err != nil {
		return nil, 0, err
	}
	n, err := strconv.Atoi(string(rec.Data))
	return rec, n, err
}

// create makes a session that holds 0.
func create(t testing.TB, store session.Store, user string) (rec *session.Record, token string) {
	t.Helper()
	token = session.NewToken()
	now := time.Now()
	rec = &session.Record{ID: session.ID(token), User: user, Created: now, Seen: now,
		Expires: now.Add(time.Hour), Deadline: now.Add(2 * time.Hour), Data: []byte("0")}
	if _, err := store.Save(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	return rec, token
}
