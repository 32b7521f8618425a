package session_test

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
)

var recordTime = time.UnixMilli(1_700_000_000_123).UTC()

// full is a record with every field.
func full() *session.Record {
	return &session.Record{
		ID: session.ID("full"), User: "ann@example.org", Device: "Firefox on Linux",
		Created: recordTime, SignedIn: recordTime.Add(time.Minute), Seen: recordTime.Add(2 * time.Minute),
		Expires: recordTime.Add(time.Hour), Deadline: recordTime.Add(12 * time.Hour),
		Persist: true, Version: 41, Data: []byte(`{"n":1,"s":"é"}`),
	}
}

func TestRecordRoundTrip(t *testing.T) {
	change := func(f func(*session.Record)) *session.Record { r := full(); f(r); return r }
	for _, tt := range []struct {
		why string
		rec *session.Record
	}{
		{"every field", full()},
		{"no field", &session.Record{ID: "x"}},
		{"nobody", change(func(r *session.Record) { r.User, r.Device, r.SignedIn = "", "", time.Time{} })},
		{"a marker", change(func(r *session.Record) { r.Replaced, r.Persist, r.User, r.Data = true, false, "", nil })},
		{"both flags", change(func(r *session.Record) { r.Replaced = true })},
		{"no deadline", change(func(r *session.Record) { r.Deadline = time.Time{} })},
		{"signed in before it was created", change(func(r *session.Record) { r.SignedIn = recordTime.Add(-time.Hour) })},
		{"names with separators", change(func(r *session.Record) { r.User, r.Device = "a b\nc\td%20+é\x00", " - \r\n" })},
		{"names that look like fields", change(func(r *session.Record) { r.User, r.Device = "-", "s1 0" })},
		{"names that are no UTF-8", change(func(r *session.Record) { r.User, r.Device = "\xff\xfe", "\x80" })},
		{"long names", change(func(r *session.Record) { r.User = strings.Repeat("ü ", 5000) })},
		{"data with newlines", change(func(r *session.Record) { r.Data = []byte("\n\ns1 \n") })},
		{"data that is binary", change(func(r *session.Record) { r.Data = bytes.Repeat([]byte{0, 255, '\n'}, 1000) })},
		{"the last time", change(func(r *session.Record) { r.Expires, r.Deadline = time.UnixMilli(9_999_999_999_999).UTC(), time.Time{} })},
	} {
		t.Run(tt.why, func(t *testing.T) {
			trail := session.NewTrail().Next().Next()
			text, err := session.EncodeRecord(tt.rec, trail)
			if err != nil {
				t.Fatal(err)
			}
			got, gotTrail, err := session.DecodeRecord(tt.rec.ID, text)
			if err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			want := *tt.rec
			want.Version++
			if want.Data == nil {
				want.Data = []byte{}
			}
			if !reflect.DeepEqual(*got, want) || gotTrail != trail {
				t.Errorf("got  %+v\nwant %+v", *got, want)
			}
		})
	}
}

func TestRecordTimes(t *testing.T) {
	rec := full()
	rec.Expires = rec.Deadline.Add(time.Hour)
	text, err := session.EncodeRecord(rec, session.NewTrail())
	if err != nil {
		t.Fatal(err)
	}
	if got, _, _ := session.DecodeRecord(full().ID, text); !got.Expires.Equal(rec.Deadline) {
		t.Errorf("expires %v, deadline %v", got.Expires, rec.Deadline)
	}
	for _, at := range []time.Time{time.UnixMilli(-1), time.UnixMilli(10_000_000_000_000), time.Date(1, 2, 3, 0, 0, 0, 0, time.UTC)} {
		for _, set := range []func(*session.Record){
			func(r *session.Record) { r.Created = at },
			func(r *session.Record) { r.SignedIn = at },
			func(r *session.Record) { r.Seen = at },
			func(r *session.Record) { r.Deadline, r.Expires = at, time.Time{} },
			func(r *session.Record) { r.Deadline, r.Expires = time.Time{}, at },
		} {
			rec := full()
			set(rec)
			if _, err := session.EncodeRecord(rec, session.NewTrail()); err == nil {
				t.Errorf("%v was encoded", at)
			}
		}
	}
}

// touchable is what a touch may change, and the checksum leaves out.
func touchable(i int) bool {
	return i >= session.RecordExpires && i < session.RecordExpires+13 ||
		i >= session.RecordSeen && i < session.RecordSeen+13 ||
		i >= session.RecordTrail && i < session.RecordTrail+session.TrailLen
}

func TestRecordDamage(t *testing.T) {
	text, err := session.EncodeRecord(full(), session.NewTrail().Next())
	if err != nil {
		t.Fatal(err)
	}
	for n := range text {
		if rec, _, err := session.DecodeRecord(full().ID, text[:n]); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("cut to %d bytes: %+v, %v", n, rec, err)
		}
	}
	for i := range text {
		for bit := range 8 {
			damaged := bytes.Clone(text)
			damaged[i] ^= 1 << bit
			rec, _, err := session.DecodeRecord(full().ID, damaged)
			switch {
			case err == nil && !touchable(i):
				t.Errorf("byte %d, bit %d: %+v", i, bit, rec)
			case err != nil && !errors.Is(err, session.ErrNotFound):
				t.Errorf("byte %d, bit %d: %v", i, bit, err)
			}
		}
	}
	for _, more := range []string{" ", "\n", "x", "\x00"} {
		if _, _, err := session.DecodeRecord(full().ID, append(bytes.Clone(text), more...)); err == nil {
			t.Errorf("with %q after it: accepted", more)
		}
	}
}

func TestRecordReason(t *testing.T) {
	for _, text := range []string{"", "\n", "s1 \n", "s2 " + strings.Repeat("0", 200) + "\n", strings.Repeat("a", 100) + "\n", `{"json":true}`} {
		_, _, err := session.DecodeRecord("the-id", []byte(text))
		if !errors.Is(err, session.ErrNotFound) || !strings.Contains(err.Error(), "the-id cannot be decoded: ") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A touch overwrites the times where they stand.
func TestRecordTouchInPlace(t *testing.T) {
	text, err := session.EncodeRecord(full(), session.NewTrail())
	if err != nil {
		t.Fatal(err)
	}
	at := recordTime.Add(5 * time.Hour)
	copy(text[session.RecordExpires:], session.FormatMilli(at.Add(time.Hour)))
	copy(text[session.RecordSeen:], session.FormatMilli(at))
	rec, _, err := session.DecodeRecord(full().ID, text)
	if err != nil || !rec.Seen.Equal(at) || !rec.Expires.Equal(at.Add(time.Hour)) {
		t.Errorf("%+v, %v", rec, err)
	}
}

func TestTrail(t *testing.T) {
	trail := session.NewTrail()
	var names []string
	for range 5 {
		trail = trail.Next()
		names = append(names, trail.Write())
	}
	if len(trail) != session.TrailLen {
		t.Errorf("%q", trail)
	}
	for i, name := range names {
		for age := int64(-1); age < 6; age++ {
			want := int(age) == len(names)-1-i && age < 3
			if trail.Has(name, age) != want {
				t.Errorf("%q.Has(%q, %d) is %t", trail, name, age, !want)
			}
		}
	}
}

// FuzzDecodeRecord: no text makes it panic, what is refused is ErrNotFound,
// and what is accepted comes out the same when it is written again.
func FuzzDecodeRecord(f *testing.F) {
	text, err := session.EncodeRecord(full(), session.NewTrail())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(text[:60])
	f.Add([]byte("s1 \n"))
	empty, _ := session.EncodeRecord(&session.Record{}, session.NewTrail())
	f.Add(empty)
	f.Fuzz(func(t *testing.T, text []byte) {
		fuzzRecord(t, text)
		fuzzRecord(t, repaired(text))
	})
}

// repaired gives a text the checksum it should have, so that the fuzzer gets
// past it.
func repaired(text []byte) []byte {
	head, data, _ := bytes.Cut(text, []byte("\n"))
	const rest = session.RecordTrail + session.TrailLen + 1
	at := bytes.LastIndexByte(head, ' ')
	if at < rest {
		return text
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Update(crc32.Checksum([]byte(full().ID), table), table, head[rest:at])
	sum = crc32.Update(sum, table, data)
	return fmt.Appendf(nil, "%s %08x\n%s", head[:at], sum, data)
}

func fuzzRecord(t *testing.T, text []byte) {
	rec, trail, err := session.DecodeRecord(full().ID, text)
	if err != nil {
		if rec != nil || !errors.Is(err, session.ErrNotFound) {
			t.Errorf("%+v, %v", rec, err)
		}
		return
	}
	_ = fmt.Sprint(rec.Expired(recordTime), rec.Info())
	again := *rec
	again.Version--
	text2, err := session.EncodeRecord(&again, trail)
	if err != nil {
		return // a time that only others write
	}
	rec2, trail2, err := session.DecodeRecord(full().ID, text2)
	if err != nil || trail2 != trail {
		t.Fatalf("%q: %v", text2, err)
	}
	if rec.Deadline.IsZero() || !rec.Expires.After(rec.Deadline) {
		if !reflect.DeepEqual(rec, rec2) {
			t.Errorf("%+v, then %+v", rec, rec2)
		}
	}
}
