package userindex_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/userindex"
)

const indexKey = "session:user:x"

func someIndex(n int, deadline, entered int64) userindex.Index {
	ix := make(userindex.Index, n)
	for i := range ix {
		ix[i] = userindex.Entry{ID: session.ID(fmt.Sprint(i)), Deadline: deadline, Entered: entered}
	}
	return ix
}

func TestIndexText(t *testing.T) {
	ix := userindex.Index{
		{ID: session.ID("a"), Deadline: 1_800_000_000, Entered: 1_700_000_000},
		{ID: session.ID("b"), Deadline: userindex.Never, Entered: 1_700_000_001},
		{ID: "an odd\nID %", Deadline: 9_999_999_999, Entered: 0},
	}
	text := ix.Encode(indexKey)
	got, err := userindex.Parse(indexKey, text)
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
		if got, err := userindex.Vouches(indexKey, text, tt.id); got != tt.want || err != nil {
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
		if got, err := userindex.Parse(key, text); err == nil {
			t.Errorf("%s: %d entries", what, len(got))
		}
		if ok, err := userindex.Vouches(key, text, session.ID("0")); ok || err == nil {
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
	late := int64(userindex.Late / time.Second)
	ix := userindex.Index{
		{ID: "over", Deadline: now.Unix() - late, Entered: 1},
		{ID: "a minute behind", Deadline: now.Unix() - 60, Entered: 2},
		{ID: "live", Deadline: now.Unix() + 60, Entered: 3},
		{ID: "for ever", Deadline: userindex.Never, Entered: 4},
	}
	names := func(ix userindex.Index) string {
		var ids []string
		for _, e := range ix {
			ids = append(ids, e.ID)
		}
		return strings.Join(ids, ", ")
	}
	for _, tt := range []struct {
		limit     int
		kept, cut string
		why       string
	}{
		{1 << 20, "a minute behind, live, for ever", "", "an entry outlives its deadline, for clocks differ"},
		{userindex.Header + 50, "live, for ever", "a minute behind", "those that came first are cut"},
		{userindex.Header, "", "a minute behind, live, for ever", "there is no room"},
	} {
		kept, cut := slices.Clone(ix).Trim(now, tt.limit)
		if names(kept) != tt.kept || names(cut) != tt.cut {
			t.Errorf("limit %d (%s): kept %s, cut %s", tt.limit, tt.why, names(kept), names(cut))
		}
	}
	const limit = 1 << 20
	full, cut := someIndex(20_000, now.Unix()+60, now.Unix()).Trim(now, limit)
	if n := len(full.Encode(indexKey)); n > limit || n < limit-100 {
		t.Errorf("a full index of %d entries takes %d bytes of %d", len(full), n, limit)
	}
	if len(full)+len(cut) != 20_000 {
		t.Errorf("%d entries kept, %d cut", len(full), len(cut))
	}
	if len(full) < 15_000 {
		t.Errorf("a full index has %d entries; the documentation says about 15,000", len(full))
	}
	if got := full[len(full)-1].ID; got != session.ID("19999") {
		t.Error("the newest entry was dropped")
	}
}

func TestIndexEnded(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	old := now.Add(-userindex.Underway - time.Second).Unix()
	ix := userindex.Index{
		{ID: "live", Deadline: userindex.Never, Entered: old},
		{ID: "gone", Deadline: userindex.Never, Entered: old},
		{ID: "underway", Deadline: userindex.Never, Entered: now.Unix()},
	}
	ended := ix.Ended([]*session.Record{{ID: "live"}}, now)
	if len(ended) != 1 || !ended["gone"] {
		t.Errorf("ended: %v; want the one that is gone", ended)
	}
	left := ix.Without(ended)
	if len(left) != 2 || left.Find("live") != 0 || left.Find("gone") != -1 || left.Find("underway") != 1 {
		t.Errorf("left: %v", left)
	}
	if some := left.Window(); some != nil {
		t.Errorf("of few entries it looks at %d", len(some))
	}
	if some := someIndex(100, 1, 1).Window(); len(some) == 0 || len(some) == 100 {
		t.Errorf("of 100 entries it looks at %d", len(some))
	}
}

// Whatever the server sends is decoded or refused, and what is decoded is
// written as it was read.
func FuzzIndex(f *testing.F) {
	ix := someIndex(3, 1_800_000_000, 1_700_000_000)
	f.Add(ix.Encode(indexKey), "a", int64(1), int64(2))
	f.Add(userindex.Index{}.Encode(indexKey), "", int64(-1), userindex.Never)
	f.Add([]byte("i1 AAAAAAAA 00000000\n"), "a b\n%\x00", userindex.Never, int64(0))
	f.Fuzz(func(t *testing.T, text []byte, id string, deadline, entered int64) {
		ix, err := userindex.Parse(indexKey, text)
		if ok, _ := userindex.Vouches(indexKey, text, id); ok && err == nil &&
			!slices.ContainsFunc(ix, func(e userindex.Entry) bool { return e.ID == id }) {
			t.Fatalf("it vouches for %q, which is not in it", id)
		}
		if err == nil {
			again, err := userindex.Parse(indexKey, ix.Encode(indexKey))
			if err != nil || !slices.Equal(again, ix) {
				t.Fatalf("read again: %v, %v; want %v", again, err, ix)
			}
		}
		if id == "" {
			return
		}
		one := append(ix, userindex.Entry{ID: id, Deadline: deadline, Entered: entered})
		made := one.Encode(indexKey)
		again, err := userindex.Parse(indexKey, made)
		if err != nil || !slices.Equal(again, one) {
			t.Fatalf("entry %q: %v, %v; want %v", id, again, err, one)
		}
		if ok, err := userindex.Vouches(indexKey, made, id); !ok || err != nil {
			t.Fatalf("it does not vouch for %q: %v", id, err)
		}
		one.Trim(time.Unix(deadline, 0), len(made))
	})
}
