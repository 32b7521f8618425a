package storetest

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/distsession/session"
)

// clientPromises are what a store promises whose token is the session itself.
// It cannot compare, so it has no promise about versions; what ended stays
// ended through its Revoked store. What Irrevocable gives up is about half of
// the suite, so a store is tested with Revoked.
var clientPromises = []promise{
	{"each Save returns another token, which opens what was saved", saveReturnsNewToken},
	{"two sessions of the same content have different tokens", tokensDiffer},
	{"a token that was changed anywhere is no session", changedTokens},
	{"a token that was cut or joined is no session", cutTokens},
	{"what ended stays ended in every copy of the token", everyCopyEnds},
	{"a marker that is there already is ErrConflict", markerIsThere},
	{"a marker of a session that was revoked is ErrNotFound", markerOfRevoked},
	{"a marker replaces every copy of the token", markerInEveryCopy},
	{"DeleteUser ends every copy of the token", deleteUserEveryCopy},
	{"the kept session's older copies stay as live as itself", keptCopies},
}

func saveReturnsNewToken(t *place) {
	a, b := t.open(), t.open()
	rec, token := t.draft("alice")
	seen := map[string]bool{}
	for i := range 5 {
		rec.Data = fmt.Appendf(nil, `{"i":%d}`, i)
		token = t.save(a, rec, token)
		if seen[token] {
			t.Fatal("Save returned a token that it had returned before")
		}
		seen[token] = true
		for _, s := range []session.Store{a, b} {
			if got := t.load(s, token); !bytes.Equal(got.Data, rec.Data) || got.ID != rec.ID {
				t.Fatalf("the token opens %s with %s; want %s with %s", describe(got), got.Data, rec.ID, rec.Data)
			}
		}
		rec = t.load(b, token)
	}
}

func tokensDiffer(t *place) {
	s := t.open()
	one, token := t.draft("alice")
	first := t.save(s, one, token)
	two := *one
	two.ID = session.ID(session.NewToken())
	second := t.save(s, &two, token)
	if first == second {
		t.Error("two sessions have one token")
	}
	if strings.Contains(first, token) {
		t.Error("the token shows the random text that the ID is the hash of")
	}
}

// altered yields tokens that differ from token in one place.
func changedTokens(t *place) {
	s := t.open()
	token := t.create(s, "alice")
	for i := range token {
		for _, c := range []byte{token[i] ^ 1, 'A', '.', '=', '\n', 0, 0x80} {
			changed := token[:i] + string([]byte{c}) + token[i+1:]
			if changed == token {
				continue
			}
			if rec, err := s.Load(t.Context(), changed); err == nil {
				t.Fatalf("with character %d of %d changed to %q the token opens %s", i, len(token), c, describe(rec))
			} else {
				t.wantErr(fmt.Sprintf("character %d changed to %q", i, c), err, session.ErrNotFound)
			}
		}
	}
	t.load(s, token)
}

func cutTokens(t *place) {
	s := t.open()
	token, other := t.create(s, "alice"), t.create(s, "bob")
	check := func(what, changed string) {
		t.Helper()
		if changed != token && changed != other {
			t.gone(s, changed, what)
		}
	}
	for i := range token {
		check(fmt.Sprintf("the first %d of %d characters", i, len(token)), token[:i])
		check(fmt.Sprintf("without the first %d characters", i), token[i:])
		check(fmt.Sprintf("without character %d", i), token[:i]+token[i+1:])
		check(fmt.Sprintf("a newline before character %d", i), token[:i]+"\n"+token[i:])
		check(fmt.Sprintf("character %d twice", i), token[:i+1]+token[i:])
	}
	for i := 0; i < min(len(token), len(other)); i++ {
		if token[:i]+other[i:] != other {
			check(fmt.Sprintf("two sessions joined at %d", i), token[:i]+other[i:])
		}
	}
	parts, others := strings.Split(token, "."), strings.Split(other, ".")
	for i := range min(len(parts), len(others)) {
		if len(parts) > 1 && parts[i] != others[i] {
			mixed := append([]string(nil), parts...)
			mixed[i] = others[i]
			check(fmt.Sprintf("part %d of another session", i), strings.Join(mixed, "."))
		}
	}
}

// copies returns a session's tokens of several saves, the newest last.
func (t *place) copies(s session.Store, user string) []string {
	t.Helper()
	rec, token := t.draft(user)
	tokens := []string{t.save(s, rec, token)}
	for range 3 {
		last := tokens[len(tokens)-1]
		tokens = append(tokens, t.save(s, t.load(s, last), last))
	}
	return tokens
}

func everyCopyEnds(t *place) {
	a, b := t.open(), t.open()
	tokens := t.copies(a, "alice")
	loaded := t.load(a, tokens[1])
	if err := b.Delete(t.Context(), loaded.ID); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	for i, token := range tokens {
		t.gone(a, token, fmt.Sprintf("after Delete, the token of save %d", i+1))
		t.gone(t.open(), token, fmt.Sprintf("after Delete, the token of save %d", i+1))
	}
	_, err := a.Save(t.Context(), loaded)
	t.wantErr("Save of a revoked session", err, session.ErrNotFound)
	t.pass(t.life()) // as long as the token itself would have lived, it stays revoked
	t.gone(a, tokens[len(tokens)-1], "some time after Delete")
}

func markerIsThere(t *place) {
	a, b := t.open(), t.open()
	token := t.create(a, "alice")
	rec := t.load(a, token)
	if _, err := a.Save(t.Context(), t.marker(rec)); err != nil {
		t.Fatalf("Save of the marker: %v", err)
	}
	_, err := b.Save(t.Context(), t.marker(rec))
	t.wantErr("Save of a second marker", err, session.ErrConflict)
}

func markerOfRevoked(t *place) {
	a, b := t.open(), t.open()
	token := t.create(a, "alice")
	rec := t.load(a, token)
	if err := b.Delete(t.Context(), rec.ID); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	_, err := a.Save(t.Context(), t.marker(rec))
	t.wantErr("Save of a marker after Delete", err, session.ErrNotFound)
	t.gone(b, token, "after the marker was refused")
}

func markerInEveryCopy(t *place) {
	a, b := t.open(), t.open()
	tokens := t.copies(a, "alice")
	if _, err := a.Save(t.Context(), t.marker(t.load(a, tokens[2]))); err != nil {
		t.Fatalf("Save of the marker: %v", err)
	}
	for i, token := range tokens {
		if rec := t.load(b, token); !rec.Replaced || rec.User != "" || len(rec.Data) != 0 {
			t.Errorf("the token of save %d opens %s with %d bytes of values; want the marker", i+1, describe(rec), len(rec.Data))
		}
	}
	// The marker ends before the tokens would have: they stay dead.
	t.pass(2 * t.life())
	for _, token := range tokens {
		if rec, err := b.Load(t.Context(), token); err == nil && !rec.Replaced {
			t.Errorf("after the marker's Expires the token opens %s", describe(rec))
		}
	}
}

func deleteUserEveryCopy(t *place) {
	a, b := t.open(), t.open()
	ability[session.UserDeleter](t, a)
	tokens := t.copies(a, "alice")
	bob := t.create(a, "bob")
	t.deleteUser(b, "alice", "", 0)
	for i, token := range tokens {
		t.gone(a, token, fmt.Sprintf("after DeleteUser, the token of save %d", i+1))
	}
	t.load(a, bob)
	t.pass(t.life())
	t.gone(b, tokens[0], "some time after DeleteUser")
}

func keptCopies(t *place) {
	a, b := t.open(), t.open()
	ability[session.UserDeleter](t, a)
	tokens := t.copies(a, "alice")
	other := t.create(a, "alice")
	t.deleteUser(b, "alice", t.load(a, tokens[0]).ID, 0)
	t.gone(a, other, "after DeleteUser")
	newest := tokens[len(tokens)-1]
	newest = t.save(a, t.load(a, newest), newest)
	t.load(b, newest)
	t.deleteUser(a, "alice", "", 0)
	for _, token := range append(tokens, newest) {
		t.gone(b, token, "after a DeleteUser that keeps none")
	}
}
