package session

import (
	"context"
	"net/url"
	"testing"
	"time"
)

// ScanObject is scanObject for the tests: names and raw values in order.
func ScanObject(data []byte) (names, values []string, err error) {
	var room [8]member
	members, err := scanObject(data, room[:0])
	for _, m := range members {
		names, values = append(names, string(m.name)), append(values, string(m.value))
	}
	return names, values, err
}

const MaxJSONDepth = maxJSONDepth

// ScanObjectRoom scans into room that is there already, as a caller in a
// hurry does.
func ScanObjectRoom() func(data []byte) (int, error) {
	room := make([]member, 0, 16)
	return func(data []byte) (int, error) {
		members, err := scanObject(data, room)
		return len(members), err
	}
}

// RevokedToken is the token under whose ID an entry in Revoked stands.
var RevokedToken = revokedToken

// WithDeadline is what the manager tells Delete of the session that ends.
var WithDeadline = withDeadline

func AppendCookiePayload(rec *Record, generation string) ([]byte, error) {
	return appendCookiePayload(nil, rec, generation)
}

var ParseCookiePayload = parseCookiePayload

var SmallOrderY = smallOrderY

// RegisterForTest makes Open know a scheme until the test ends.
func RegisterForTest(t testing.TB, scheme string, open func() Store) {
	Register(scheme, func(context.Context, *url.URL) (Store, error) { return open(), nil })
	t.Cleanup(func() {
		openers.Lock()
		defer openers.Unlock()
		delete(openers.m, scheme)
	})
}

// LongestLife is the longest that a token of a client-side store lives.
func LongestLife(s Store) time.Duration {
	l, _ := As[longestLiver](s)
	return l.longestLife()
}

// MovedLongAgo makes the marker that a move has left in s two hours older.
func MovedLongAgo(ctx context.Context, s Store, token string) {
	marker, err := s.Load(ctx, token)
	if err != nil || !isMoved(marker) {
		panic("no marker of a move")
	}
	marker.Seen = marker.Seen.Add(-2 * moveAgain)
	if _, err := s.Save(ctx, marker); err != nil {
		panic(err)
	}
}

// Forever is the age of a copy that no clock can tell the age of.
const Forever = forever

// CopyAge is the age of a copy since whose check the clocks have gone on so far.
func CopyAge(monotonic, wall, told time.Duration) time.Duration {
	then := instant{wall: time.Unix(1e9, 0), told: time.Unix(1e9, 0)}
	at := instant{monotonic, then.wall.Add(wall), then.told.Add(told)}
	return at.since(then)
}

// Copies is how many records a Cached store has in memory.
func Copies(s Store) (n int) {
	c, _ := As[*cached](s)
	for i := range c.shards {
		c.shards[i].mu.Lock()
		n += len(c.shards[i].records)
		c.shards[i].mu.Unlock()
	}
	return n
}
