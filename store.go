package session

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"iter"
	"reflect"
	"time"
)

// The errors that callers tell apart with errors.Is.
var (
	// ErrNotFound: no live session stands behind the token. It was never
	// issued, has expired, was ended, or is malformed or forged. A client can
	// cause it at will, so it is never an alarm.
	ErrNotFound = errors.New("session: not found")

	// ErrConflict: the record was created or changed by another request since
	// it was loaded.
	ErrConflict = errors.New("session: changed by another request")

	// ErrTooLarge: the record does not fit the store, the transport or the
	// limit.
	ErrTooLarge = errors.New("session: too large")

	// ErrCommitted: the session was changed after the response had begun, and
	// the change cannot reach the client.
	ErrCommitted = errors.New("session: the response has begun, the change cannot reach the client")

	// ErrNoSession: the context did not pass through Manager.Handler.
	ErrNoSession = errors.New("session: no session in the context; wrap the handler with Manager.Handler")

	// ErrStore: the store failed, or answered too late. It is in what From,
	// Save, Take and Commit return and in what an ErrorHandler is given, beside
	// the store's own error.
	ErrStore = errors.New("session: the store failed")

	// ErrConfig: a configuration that must not start. The message names the
	// field and the mend, never a secret.
	ErrConfig = errors.New("session: invalid configuration")
)

// Record is a session as a store keeps it. Times are kept to the millisecond
// at least.
type Record struct {
	ID       string    // public name; safe to log
	User     string    // who is signed in, "" for nobody
	Device   string    // tells the user's sessions apart in a list, such as "Firefox on Linux"
	Created  time.Time // start of the absolute lifetime
	SignedIn time.Time // when User proved who they are, zero for nobody
	Seen     time.Time // last use, to within the touch interval
	Expires  time.Time // from here on the store must not return the record
	Deadline time.Time // end of the absolute lifetime; no save or touch moves Expires past it; zero for none
	Persist  bool      // the client keeps the token when the browser closes
	Replaced bool      // a marker: Renew or SetUser ended this session; no User, no Data, short Expires
	Version  int64     // 0 until first saved; each save adds one
	Data     []byte    // the values; opaque to the store

	// Tag is what Load leaves for the Save that follows: a CAS number, a
	// revision, the bytes read. It spares that Save a read of its own; without
	// one (nil) Save looks it up. It serves one Save. Wrappers pass it on; it is
	// never stored.
	Tag any
}

// Info returns what a list shows of the record.
func (r *Record) Info() Info {
	return Info{
		ID: r.ID, User: r.User, Device: r.Device,
		Created: r.Created, SignedIn: r.SignedIn, Seen: r.Seen, Expires: r.Expires,
	}
}

// Expired tells whether the record must not be returned any more at now: its
// Expires or its Deadline has come.
func (r *Record) Expired(now time.Time) bool {
	return !now.Before(r.Expires) || !r.Deadline.IsZero() && !now.Before(r.Deadline)
}

// Store keeps records, or seals them into tokens. Its methods are safe for
// concurrent use, and context deadlines hold in all of them.
//
// The rules are tested, one subtest each, by the package storetest.
type Store interface {
	// Load returns the record that token stands for. Whatever bytes a client
	// sends, an unusable token is ErrNotFound, refused before any I/O where its
	// shape is wrong already; where the reason is worth a log line (a record that
	// cannot be decoded) ErrNotFound is wrapped with it and the manager logs it.
	// Any other error means that the store failed.
	Load(ctx context.Context, token string) (*Record, error)

	// Save writes rec as version rec.Version+1.
	//
	// Version 0 creates, and fails with ErrConflict if the ID exists. Any other
	// version updates: ErrNotFound if the record is gone (it never creates, so
	// a request still running at sign-out cannot bring the session back) and
	// ErrConflict if the stored version differs (so no update is lost). An
	// expired record counts as gone, for Save and for Touch.
	//
	// The token is "" if the client's token stays valid; a client-side store
	// returns the new sealed token. Save neither keeps nor changes rec, and
	// nobody writes to the Data that Load returned.
	//
	// A Replaced marker is loaded like any record; lists, scans, counts and
	// DeleteUser pass over it. A client-side store creates it in Revoked:
	// ErrConflict if it is there already, ErrNotFound if the session was revoked.
	Save(ctx context.Context, rec *Record) (token string, err error)

	// Delete ends the session with this ID. Deleting nothing is no error.
	Delete(ctx context.Context, id string) error
}

// tokenLen is the length of NewToken's and ID's text: 32 bytes of base64url.
const tokenLen = 43

// b64 refuses what is not canonical: an ID or a token has one spelling.
var b64 = base64.RawURLEncoding.Strict()

// NewToken returns 256 random bits as 43 characters of base64url. OWASP ASVS
// 5.0, 7.2.3 asks for 128 bits from a cryptographically secure generator.
func NewToken() string {
	var b [32]byte
	rand.Read(b[:]) // never fails; the program ends if the system has no randomness
	return b64.EncodeToString(b[:])
}

// ID returns the public name of the session whose random token this is:
// base64url of its SHA-256. A store that leaks its keys leaks no token
// (CVE-2019-16782).
func ID(token string) string {
	var in [2 * tokenLen]byte // a random token fits: no allocation
	sum := sha256.Sum256(append(in[:0], token...))
	var out [tokenLen]byte
	b64.Encode(out[:], sum[:])
	return string(out[:])
}

// WellFormed tells whether token has the shape of NewToken's, so that a
// server-side store can refuse any other before it does any work.
func WellFormed(token string) bool {
	if len(token) != tokenLen {
		return false
	}
	for i := range tokenLen {
		if digit[token[i]] == 0 {
			return false
		}
	}
	return digit[token[tokenLen-1]]&3 == 1 // the last digit has two bits too many: they are 0
}

// digit is a base64url digit's value plus 1, 0 for what is none.
var digit = func() (d [256]byte) {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for i := range len(digits) {
		d[digits[i]] = byte(i) + 1
	}
	return d
}()

// Info is what a list shows of a session: no token, no values.
type Info struct {
	ID, User, Device string

	Created, SignedIn, Seen, Expires time.Time
}

// The abilities that a store may have beside Store's three. Find them with As,
// which looks through wrappers. A wrapper that changes, copies or combines
// records implements the abilities that touch them; only an observer leaves
// them to Unwrap.
type (
	// Lister lists the live sessions of a user, in no particular order. User ""
	// has none. It may yield an error at any point and ends there.
	Lister interface {
		List(ctx context.Context, user string) iter.Seq2[Info, error]
	}

	// UserDeleter ends every session of a user but the one with the ID keep
	// ("" keeps none) and tells how many it ended; a client-side store cannot
	// count and says 0. A sign-in that comes after DeleteUser returned is live.
	// User "" has no sessions.
	UserDeleter interface {
		DeleteUser(ctx context.Context, user, keep string) (int, error)
	}

	// Toucher moves Seen and Expires forward, never backwards and never past
	// the Deadline. It changes neither values nor Version, so a Save that
	// loaded before it still succeeds. ErrNotFound if the record is gone or is
	// a Replaced marker.
	Toucher interface {
		Touch(ctx context.Context, id string, seen, expires time.Time) error
	}

	// Scanner yields every live record, in no particular order. A record that
	// changes meanwhile may be seen in either state.
	Scanner interface {
		Scan(ctx context.Context) iter.Seq2[*Record, error]
	}

	// AtLeaster is for stores that answer from copies, and for no others, for the
	// manager sets a cookie for it (VersionTransport): LoadAtLeast returns the
	// record in this version or a newer one. A client may claim any version: of
	// one that was never written it returns the newest there is, after one look
	// at where the truth is.
	AtLeaster interface {
		LoadAtLeast(ctx context.Context, token string, version int64) (*Record, error)
	}

	// Cleaner removes up to limit records that have expired at now (all, if
	// limit is 0 or less) and tells how many it removed. RunCleaner calls it.
	Cleaner interface {
		Clean(ctx context.Context, now time.Time, limit int) (int, error)
	}

	// Leaser lets one handle at a time do what a name stands for. Lease takes
	// the name for d, or keeps it for d from now if this handle has it, and
	// tells whether it is this handle's. The store's own clock decides, so a
	// holder that died holds a name no longer than d. If d is 0 or less, Lease
	// gives the name back.
	//
	// A holder that was held up may learn late that its lease has passed on:
	// what is done under one must do no harm when two do it.
	Leaser interface {
		Lease(ctx context.Context, name string, d time.Duration) (bool, error)
	}
)

// As returns the ability T of s, or of the first store that s wraps (through
// Unwrap() Store) which has it.
func As[T any](s Store) (T, bool) {
	for s != nil {
		if t, ok := s.(T); ok {
			return t, true
		}
		u, ok := s.(interface{ Unwrap() Store })
		if !ok {
			break
		}
		s = u.Unwrap()
	}
	var none T
	return none, false
}

// touched returns the record as it is after a Touch: no time goes backwards, and
// none past the Deadline.
func (r *Record) touched(seen, expires time.Time) *Record {
	moved := *r
	if seen.After(r.Seen) {
		moved.Seen = seen
	}
	if !r.Deadline.IsZero() && expires.After(r.Deadline) {
		expires = r.Deadline
	}
	if expires.After(r.Expires) {
		moved.Expires = expires
	}
	return &moved
}

// isNil tells a store that is not there, also as a nil pointer.
func isNil(s Store) bool {
	return s == nil || reflect.ValueOf(s).Kind() == reflect.Pointer && reflect.ValueOf(s).IsNil()
}

// Close ends what Open or the constructor made for s, through wrappers:
// connections, goroutines, files. A client that was passed to a constructor
// stays open, and a store that holds nothing has nothing to close.
func Close(s Store) error {
	if c, ok := As[io.Closer](s); ok {
		return c.Close()
	}
	return nil
}

// List lists the live sessions of user in s. If s cannot list, the sequence is
// one errors.ErrUnsupported.
func List(ctx context.Context, s Store, user string) iter.Seq2[Info, error] {
	if l, ok := As[Lister](s); ok {
		return l.List(ctx, user)
	}
	return func(yield func(Info, error) bool) { yield(Info{}, errUnsupported("list a user's sessions")) }
}

// DeleteUser ends every session of user in s but the one with the ID keep, and
// tells how many; errors.ErrUnsupported if s cannot. After Renew or SetUser call
// Save first: the session that keep names has to be there.
func DeleteUser(ctx context.Context, s Store, user, keep string) (int, error) {
	if d, ok := As[UserDeleter](s); ok {
		return d.DeleteUser(ctx, user, keep)
	}
	return 0, errUnsupported("end a user's sessions")
}

func errUnsupported(what string) error {
	return &unsupportedError{what}
}

type unsupportedError struct{ what string }

func (e *unsupportedError) Error() string { return "session: this store cannot " + e.what }
func (e *unsupportedError) Unwrap() error { return errors.ErrUnsupported }
