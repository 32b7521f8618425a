package session

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// What a sealed cookie holds. Every byte costs 1.78 in the cookie, so it is
// binary; the token's first character names the format.
//
//	flags       1 byte
//	ID          32 bytes if it is the text of a hash, else a string
//	version     uvarint
//	created     uvarint, milliseconds since 1970, 0 for the zero time
//	expires     varint, milliseconds after created
//	seen, deadline, signed in
//	            the same, each only if its flag is set
//	generation, user, device
//	            strings: a uvarint length and the bytes
//	data        the rest
const (
	cookiePersist = 1 << iota
	cookieHashID
	cookieSeen
	cookieDeadline
	cookieSignedIn

	cookieFlags = 1<<iota - 1
)

func appendCookiePayload(b []byte, rec *Record, generation string) ([]byte, error) {
	if err := checkTimes(rec); err != nil {
		return nil, fmt.Errorf("session: cookie: %w", err)
	}
	flagsAt := len(b)
	b = append(b, 0)
	flag := func(on bool, flag byte) bool {
		if on {
			b[flagsAt] |= flag
		}
		return on
	}
	flag(rec.Persist, cookiePersist)
	if flag(WellFormed(rec.ID), cookieHashID) {
		b, _ = b64.AppendDecode(b, []byte(rec.ID))
	} else {
		b = appendCookieString(b, rec.ID)
	}
	b = binary.AppendUvarint(b, uint64(rec.Version))
	created := milli(rec.Created)
	b = binary.AppendUvarint(b, uint64(created))
	b = binary.AppendVarint(b, milli(rec.Expires)-created)
	if flag(!rec.Seen.IsZero(), cookieSeen) {
		b = binary.AppendVarint(b, milli(rec.Seen)-created)
	}
	if flag(!rec.Deadline.IsZero(), cookieDeadline) {
		b = binary.AppendVarint(b, milli(rec.Deadline)-created)
	}
	if flag(!rec.SignedIn.IsZero(), cookieSignedIn) {
		b = binary.AppendVarint(b, milli(rec.SignedIn)-created)
	}
	b = appendCookieString(b, generation)
	b = appendCookieString(b, rec.User)
	b = appendCookieString(b, rec.Device)
	return append(b, rec.Data...), nil
}

// checkTimes refuses times that a token cannot hold.
func checkTimes(rec *Record) error {
	for _, t := range []time.Time{rec.Expires, rec.Seen, rec.Created, rec.Deadline, rec.SignedIn} {
		if ms := t.UnixMilli(); !t.IsZero() && (ms < 0 || ms > maxMilli) {
			return fmt.Errorf("record %s: a time outside of 1970 to 2286", rec.ID)
		}
	}
	return nil
}

func appendCookieString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// parseCookiePayload reads what appendCookiePayload wrote. Data is a part of b.
func parseCookiePayload(b []byte) (rec *Record, generation string, err error) {
	p := cookieParser{rest: b}
	rec = &Record{}
	flags := p.bytes(1)
	if p.failed || flags[0]&^cookieFlags != 0 {
		return nil, "", errors.New("unknown flags")
	}
	has := func(flag byte) bool { return flags[0]&flag != 0 }
	rec.Persist = has(cookiePersist)
	if has(cookieHashID) {
		rec.ID = b64.EncodeToString(p.bytes(32))
	} else {
		rec.ID = p.string()
	}
	rec.Version = int64(p.uvarint())
	created := int64(p.uvarint())
	rec.Created = p.time(created)
	rec.Expires = p.time(created + p.varint())
	if has(cookieSeen) {
		rec.Seen = p.time(created + p.varint())
	}
	if has(cookieDeadline) {
		rec.Deadline = p.time(created + p.varint())
	}
	if has(cookieSignedIn) {
		rec.SignedIn = p.time(created + p.varint())
	}
	generation = p.string()
	rec.User = p.string()
	rec.Device = p.string()
	if p.failed || rec.ID == "" || rec.Version < 1 {
		return nil, "", errors.New("a field is malformed")
	}
	rec.Data = p.rest
	return rec, generation, nil
}

// cookieParser takes fields off a payload; failed says that one was malformed.
type cookieParser struct {
	rest   []byte
	failed bool
}

func (p *cookieParser) bytes(n uint64) []byte {
	if n > uint64(len(p.rest)) {
		p.failed, n = true, 0
	}
	b := p.rest[:n:n]
	p.rest = p.rest[n:]
	return b
}

func (p *cookieParser) string() string { return string(p.bytes(p.uvarint())) }

func (p *cookieParser) uvarint() uint64 {
	v, n := binary.Uvarint(p.rest)
	p.skip(n)
	return v
}

func (p *cookieParser) varint() int64 {
	v, n := binary.Varint(p.rest)
	p.skip(n)
	return v
}

func (p *cookieParser) skip(n int) {
	if n <= 0 {
		p.failed, n = true, 0
	}
	p.rest = p.rest[n:]
}

func (p *cookieParser) time(ms int64) time.Time {
	if ms < 0 || ms > maxMilli {
		p.failed = true
	}
	return fromMilli(ms)
}
