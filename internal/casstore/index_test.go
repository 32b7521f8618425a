package casstore_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/casstore"
)

const indexKey = "session:user:x"

func someIndex(n int, deadline, entered int64) casstore.Index {
	ix := make(casstore.Index, n)
	for i := range ix {
		ix[i] = casstore.NewEntry(session.ID(fmt.Sprint(i)), deadline, entered)
	}
	return ix
}

func TestIndexText(t *testing.T) {
	ix := casstore.Index{
		casstore.NewEntry(session.ID("a"), 1_800_000_000, 1_700_000_000),
		casstore.NewEntry(session.ID("b"), casstore.IndexNever, 1_700_000_001),
		casstore.NewEntry("an odd\nID %", 9_999_999_999, 0),
	}
	text := ix.Encode(indexKey)
	got, err := casstore.ParseIndex(indexKey, text)
	if err != nil || !slices.Equal(got, ix) {
		t.Errorf("%v, %v; want %v", got, err, ix)
	}
	for _, tt := range []struct {
		id   string
		want bool
		why  string
	}{
		{session.ID("a"), true, "the first"},
		{session.ID("b"), true, "the second"},
		{"an odd\nID %", true, "an escaped one"},
		{session.ID("c"), false, "a stranger"},
		{session.ID("a")[1:], false, "the end of one"},
		{session.ID("a")[:42], false, "the beginning of one"},
		{"1800000000", false, "a time"},
		{"", false, "nothing"},
	} {
		if got, err := casstore.Vouches(indexKey, text, tt.id); got != tt.want || err != nil {
			t.Errorf("vouches for %q (%s): %v, %v", tt.id, tt.why, got, err)
		}
	}
	if again := ix.Encode(indexKey); bytes.Equal(again, text) {
		t.Error("two writes of one index have the same text, which a server that compares values takes for one")
	}
}

func TestIndexDamage(t *testing.T) {
	ix := someIndex(3, 1_800_000_000, 1_700_000_000)
	text := ix.Encode(indexKey)
	refused := func(what, key string, text []byte) {
		t.Helper()
		if got, err := casstore.ParseIndex(key, text); err == nil {
			t.Errorf("%s: %d entries", what, len(got))
		}
		if ok, err := casstore.Vouches(key, text, session.ID("0")); ok || err == nil {
			t.Errorf("%s: it vouches, %v", what, err)
		}
	}
	for i := range text {
		changed := bytes.Clone(text)
		changed[i] ^= 1
		refused(fmt.Sprintf("byte %d changed", i), indexKey, changed)
		refused(fmt.Sprintf("cut at %d", i), indexKey, text[:i])
	}
	refused("one byte more", indexKey, append(bytes.Clone(text), '\n'))
	refused("of another user", indexKey+"y", text)
	refused("a record", indexKey, []byte("s1 1800000000000 1800000000000 …"))
}

func TestIndexTrim(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	late := int64(casstore.IndexLate / time.Second)
	ix := casstore.Index{
		casstore.NewEntry("over", now.Unix()-late, 1),
		casstore.NewEntry("a minute behind", now.Unix()-60, 2),
		casstore.NewEntry("live", now.Unix()+60, 3),
		casstore.NewEntry("for ever", casstore.IndexNever, 4),
	}
	names := func(ix casstore.Index) string {
		var ids []string
		for _, e := range ix {
			ids = append(ids, e.ID())
		}
		return strings.Join(ids, ", ")
	}
	if got, want := names(slices.Clone(ix).Trim(now, 1<<20)), "a minute behind, live, for ever"; got != want {
		t.Errorf("kept: %s; want %s", got, want)
	}
	if got, want := names(slices.Clone(ix).Trim(now, casstore.IndexHeader+50)), "live, for ever"; got != want {
		t.Errorf("of a full one are kept: %s; want those that came last, %s", got, want)
	}
	const limit = 1 << 20
	full := someIndex(20_000, now.Unix()+60, now.Unix()).Trim(now, limit)
	if n := len(full.Encode(indexKey)); n > limit || n < limit-100 {
		t.Errorf("a full index of %d entries takes %d bytes of %d", len(full), n, limit)
	}
	if len(full) < 15_000 {
		t.Errorf("a full index has %d entries; the documentation says about 15,000", len(full))
	}
	if got := full[len(full)-1].ID(); got != session.ID("19999") {
		t.Error("the newest entry was dropped")
	}
}

// Whatever the server sends is decoded or refused, and what is decoded is
// written as it was read.
func FuzzIndex(f *testing.F) {
	ix := someIndex(3, 1_800_000_000, 1_700_000_000)
	f.Add(ix.Encode(indexKey), "a", int64(1), int64(2))
	f.Add(casstore.Index{}.Encode(indexKey), "", int64(-1), casstore.IndexNever)
	f.Add([]byte("i1 AAAAAAAA 00000000\n"), "a b\n%\x00", casstore.IndexNever, int64(0))
	f.Fuzz(func(t *testing.T, text []byte, id string, deadline, entered int64) {
		ix, err := casstore.ParseIndex(indexKey, text)
		if ok, _ := casstore.Vouches(indexKey, text, id); ok && err == nil &&
			!slices.ContainsFunc(ix, func(e casstore.Entry) bool { return e.ID() == id }) {
			t.Fatalf("it vouches for %q, which is not in it", id)
		}
		if err == nil {
			again, err := casstore.ParseIndex(indexKey, ix.Encode(indexKey))
			if err != nil || !slices.Equal(again, ix) {
				t.Fatalf("read again: %v, %v; want %v", again, err, ix)
			}
		}
		if id == "" {
			return
		}
		one := append(ix, casstore.NewEntry(id, deadline, entered))
		made := one.Encode(indexKey)
		again, err := casstore.ParseIndex(indexKey, made)
		if err != nil || !slices.Equal(again, one) {
			t.Fatalf("entry %q: %v, %v; want %v", id, again, err, one)
		}
		if ok, err := casstore.Vouches(indexKey, made, id); !ok || err != nil {
			t.Fatalf("it does not vouch for %q: %v", id, err)
		}
		one.Trim(time.Unix(deadline, 0), len(made))
	})
}
