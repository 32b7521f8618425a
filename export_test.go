package session

import (
	"context"
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

func (s *CookieStore) DeleteUntil(ctx context.Context, id string, deadline time.Time) error {
	return s.deleteUntil(ctx, id, deadline)
}

func (s *JWTStore) DeleteUntil(ctx context.Context, id string, deadline time.Time) error {
	return s.deleteUntil(ctx, id, deadline)
}

func AppendCookiePayload(rec *Record, generation string) ([]byte, error) {
	return appendCookiePayload(nil, rec, generation)
}

var ParseCookiePayload = parseCookiePayload
