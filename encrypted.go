package session

import (
	"context"
	"crypto/cipher"
	"fmt"
	"iter"
	"net/url"
)

func init() { Register("encrypted", openEncrypted) }

// openEncrypted opens encrypted:?keys=env:SESSION_KEYS&store=…
func openEncrypted(ctx context.Context, u *url.URL) (Store, error) {
	if err := onlyParams(u, "store"); err != nil {
		return nil, err
	}
	p := NewParams(u)
	text := p.Secret("keys")
	inner := p.String("store", "")
	if err := p.Err(); err != nil {
		return nil, err
	}
	if text == nil || inner == "" {
		return nil, configError("encrypted: keys or store is missing; write encrypted:?keys=env:NAME&store=… with the escaped URL of a server-side store")
	}
	keys, err := parseKeys(text)
	if err != nil {
		return nil, configError("encrypted: keys: %w", err)
	}
	store, err := openInner(ctx, "encrypted", "store", inner)
	if err != nil {
		return nil, err
	}
	s, err := Encrypted(store, keys)
	if err != nil {
		_ = Close(store)
		return nil, err
	}
	return s, nil
}

// Encrypted returns store with the values sealed: whoever reads the database,
// its backups or its wire learns none, and whoever writes to it can make none:
// to put back what the same session held before is all that is left to do.
// A record that was copied under another ID or given to another user does not
// open; like any that cannot be decoded it is no session. What a store needs to
// do its work stays legible: ID, User, Device, the times.
//
// Keys are at least 32 random bytes each, at most 8 of them: the first seals,
// all open, and a record is sealed anew with its next Save. So a new key goes
// to the end on every node, then to the front, and the old one away when the
// last session that it sealed has ended. The cipher is AES-256 in Galois
// counter mode, under a key of its own for each record, which costs 30 bytes.
//
// Records that were saved without it do not open. To begin with it while
// sessions live use Migrating, from the store as it is to an Encrypted one with
// another prefix, table or folder.
//
// A client-side store is ErrConfig: a CookieStore is sealed already, and a
// JWTStore has Seal.
func Encrypted(store Store, keys [][]byte) (Store, error) {
	if err := serverSide("encrypted", "the store", store); err != nil {
		return nil, err
	}
	if err := checkKeys(keys); err != nil {
		return nil, configError("encrypted: %w", err)
	}
	s := &encrypted{Store: store}
	for _, key := range keys {
		s.keys = append(s.keys, append([]byte(nil), key...))
	}
	s.abilities = s.links()
	return s, nil
}

// serverSide refuses what no wrapper of server-side stores can work with.
func serverSide(wrapper, name string, store Store) error {
	if isNil(store) {
		return configError("%s: %s is nil; make one with Open, or with a constructor such as NewMemoryStore", wrapper, name)
	}
	if err := misconfiguration(store); err != nil {
		return err
	}
	if isClientSide(store) {
		return configError("%s: %s keeps its sessions with the client; it takes a server-side store", wrapper, name)
	}
	return nil
}

const (
	sealedRecord   = "e1" // begins sealed values: the format
	sealedOverhead = len(sealedRecord) + 12 + 16
)

// encrypted answers for what touches the values, and leaves the other abilities
// to the store that it wraps.
type encrypted struct {
	Store
	keys      [][]byte
	abilities Store // what As finds behind it
}

// links builds the chain that As walks from an encrypted store.
func (s *encrypted) links() (chain Store) {
	chain = s.Store
	if scanner, ok := As[Scanner](s.Store); ok {
		chain = &encryptedScanner{encryptedLink{s, chain}, scanner}
	}
	if loader, ok := As[AtLeaster](s.Store); ok {
		chain = &encryptedAtLeaster{encryptedLink{s, chain}, loader}
	}
	return chain
}

// encryptedLink is a Store, for As asks for one.
type encryptedLink struct {
	*encrypted
	next Store
}

func (l *encryptedLink) Unwrap() Store { return l.next }

type (
	encryptedScanner struct {
		encryptedLink
		scanner Scanner
	}
	encryptedAtLeaster struct {
		encryptedLink
		loader AtLeaster
	}
)

func (s *encrypted) Unwrap() Store { return s.abilities }

// Load implements Store.
func (s *encrypted) Load(ctx context.Context, token string) (*Record, error) {
	return s.open(s.Store.Load(ctx, token))
}

// LoadAtLeast implements AtLeaster.
func (s *encryptedAtLeaster) LoadAtLeast(ctx context.Context, token string, version int64) (*Record, error) {
	return s.open(s.loader.LoadAtLeast(ctx, token, version))
}

// Save implements Store.
func (s *encrypted) Save(ctx context.Context, rec *Record) (string, error) {
	sealed := *rec
	if hasValues(rec) {
		aead, err := s.cipher(s.keys[0], rec.ID)
		if err != nil {
			return "", fmt.Errorf("session: encrypted: save: %w", err)
		}
		b := make([]byte, 0, sealedOverhead+len(rec.Data))
		sealed.Data = aead.Seal(append(b, sealedRecord...), nil, rec.Data, boundTo(rec.ID, rec.User))
	}
	return s.Store.Save(ctx, &sealed)
}

// Scan implements Scanner.
func (s *encryptedScanner) Scan(ctx context.Context) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		for rec, err := range s.scanner.Scan(ctx) {
			if err == nil {
				if rec, err = s.open(rec, nil); err != nil {
					continue // as one that the store cannot decode
				}
			}
			if !yield(rec, err) {
				return
			}
		}
	}
}

// hasValues tells what is sealed: the values of every session, also when there
// are none, and those of a marker that has any.
func hasValues(rec *Record) bool { return !rec.Replaced || len(rec.Data) > 0 }

// open returns the record with its values unsealed.
func (s *encrypted) open(rec *Record, err error) (*Record, error) {
	if err != nil || !hasValues(rec) {
		return rec, err
	}
	if len(rec.Data) >= sealedOverhead && string(rec.Data[:len(sealedRecord)]) == sealedRecord {
		bound := boundTo(rec.ID, rec.User)
		for _, key := range s.keys {
			aead, err := s.cipher(key, rec.ID)
			if err != nil {
				return nil, fmt.Errorf("session: encrypted: load: %w", err)
			}
			if data, err := aead.Open(nil, nil, rec.Data[len(sealedRecord):], bound); err == nil {
				opened := *rec
				opened.Data = data
				return &opened, nil
			}
		}
	}
	return nil, fmt.Errorf("%w: record %s: its values were not sealed by one of the keys", ErrNotFound, rec.ID)
}

// cipher is that of one record: under a key of its own no number of saves
// brings the random nonces near their limit.
func (s *encrypted) cipher(key []byte, id string) (cipher.AEAD, error) {
	return newSeal(key, "encrypted v1 "+id)
}

// loadAtLeast is LoadAtLeast of a store that answers from copies, and Load of
// any other.
func loadAtLeast(ctx context.Context, s Store, token string, version int64) (*Record, error) {
	if version > 0 {
		if a, ok := As[AtLeaster](s); ok {
			return a.LoadAtLeast(ctx, token, version)
		}
	}
	return s.Load(ctx, token)
}

var (
	_ Store     = (*encrypted)(nil)
	_ AtLeaster = (*encryptedAtLeaster)(nil)
	_ Scanner   = (*encryptedScanner)(nil)
)
