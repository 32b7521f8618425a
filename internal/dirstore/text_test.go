package dirstore_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/dirstore"
	"github.com/distsession/session/internal/dirstore/treetest"
)

func TestText(t *testing.T) {
	rec, _ := treetest.Record("ann")
	rec.ID = "any text: \n/../ é"
	rec.Version = 99
	var h dirstore.History
	var writes []string
	for range 99 {
		w := dirstore.NewWrite()
		writes = append(writes, w)
		h = h.Next(w)
	}
	for age := range int64(99) {
		want := ""
		if age < dirstore.MaxWrites {
			want = writes[98-age]
		}
		if got := h.At(age); got != want {
			t.Errorf("At(%d) = %q; want %q", age, got, want)
		}
	}
	if h.At(-1) != "" {
		t.Error("a write of the future is known")
	}
	text, err := dirstore.EncodeText(rec, h)
	if err != nil {
		t.Fatal(err)
	}
	got, history, err := dirstore.DecodeText("path", text)
	if err != nil || got.ID != rec.ID || got.Version != 100 || history != h || !bytes.Equal(got.Data, rec.Data) {
		t.Fatalf("%+v, %v", got, err)
	}
	for i := range text {
		changed := bytes.Clone(text)
		changed[i] ^= 1
		if _, _, err := dirstore.DecodeText("path", changed); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("with byte %d of %d changed: %v", i, len(text), err)
		}
	}
	for i := range len(text) {
		if _, _, err := dirstore.DecodeText("path", text[:i]); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("of the first %d bytes: %v", i, err)
		}
	}
}

func FuzzDecodeText(f *testing.F) {
	rec, _ := treetest.Record("ann")
	text, err := dirstore.EncodeText(rec, dirstore.History(dirstore.NewWrite()))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("d1 a -\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		rec, h, err := dirstore.DecodeText("path", text)
		if err != nil {
			if !errors.Is(err, session.ErrNotFound) {
				t.Fatalf("%v is not ErrNotFound", err)
			}
			return
		}
		rec.Version--
		again, err := dirstore.EncodeText(rec, h)
		if err != nil {
			t.Fatalf("what was decoded cannot be encoded: %v", err)
		}
		back, _, err := dirstore.DecodeText("path", again)
		if err != nil || back.ID != rec.ID || !back.Expires.Equal(rec.Expires) {
			t.Fatalf("%+v, %v", back, err)
		}
	})
}

func TestMilli(t *testing.T) {
	for _, at := range []time.Time{{}, time.UnixMilli(1).UTC(), time.UnixMilli(1_700_000_000_123).UTC(), time.UnixMilli(9_999_999_999_999).UTC()} {
		text := dirstore.Milli(at)
		if got, ok := dirstore.ParseMilli(text); !ok || !got.Equal(at) {
			t.Errorf("%v is %q, and that is %v, %t", at, text, got, ok)
		}
	}
	for _, text := range []string{"", "0", "-000000000001", "+000000000001", "00000000000001", "000000000000x", strings.Repeat("9", 14)} {
		if at, ok := dirstore.ParseMilli(text); ok {
			t.Errorf("%q is %v", text, at)
		}
	}
	for _, text := range []string{"", "0", "-1", "+1", "01", "1x", strings.Repeat("9", 20)} {
		if v, ok := dirstore.ParseVersion(text); ok {
			t.Errorf("%q is version %d", text, v)
		}
	}
}
