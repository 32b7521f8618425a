package natsstore_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/distsession/session"
)

// Every message has a TTL of its own, or the bucket would keep it for ever.
func TestTTL(t *testing.T) {
	s := open(t, startNodes(t, 1)[0], nil)
	rec, token := create(t, s, "ann") // an hour, and eight to the Deadline
	record, entry := s.Subjects(rec.ID, "ann")
	seconds := func(subject, after string) int {
		t.Helper()
		_, header, err := s.Raw(t.Context(), subject)
		if err != nil {
			t.Fatalf("after %s: %v", after, err)
		}
		n, err := strconv.Atoi(header.Get("Nats-TTL"))
		if err != nil {
			t.Errorf("after %s: the header is %v", after, header)
		}
		return n
	}
	near := func(after string, got int, want time.Duration) {
		t.Helper()
		if d := time.Duration(got) * time.Second; d > want+time.Second || d < want-time.Minute {
			t.Errorf("after %s: a TTL of %v; want %v", after, d, want)
		}
	}
	near("create", seconds(record, "create"), time.Hour)
	near("create, of the entry", seconds(entry, "create"), 8*time.Hour)
	if err := s.Touch(t.Context(), rec.ID, time.Now(), time.Now().Add(2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	near("touch", seconds(record, "touch"), 2*time.Hour)
	changed := load(t, s, token)
	changed.Expires = time.Now().Add(3 * time.Hour)
	save(t, s, changed)
	near("save", seconds(record, "save"), 3*time.Hour)
	near("save, of the entry", seconds(entry, "save"), 8*time.Hour)
	if err := s.Delete(t.Context(), rec.ID); err != nil {
		t.Fatal(err)
	}
	if data, _, err := s.Raw(t.Context(), record); err != nil || len(data) > 0 {
		t.Errorf("after delete: %q, %v", data, err)
	}
	near("delete", seconds(record, "delete"), 2*time.Hour)
}

// The servers remove what has expired, with its entry.
func TestServersRemove(t *testing.T) {
	s := open(t, startNodes(t, 1)[0], nil)
	rec, _ := draft("ann")
	rec.Expires, rec.Deadline = time.Now().Add(time.Second), time.Now().Add(time.Second)
	save(t, s, rec)
	record, entry := s.Subjects(rec.ID, "ann")
	for _, subject := range []string{record, entry} {
		if _, _, err := s.Raw(t.Context(), subject); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "an empty bucket", func() bool {
		_, _, first := s.Raw(t.Context(), record)
		_, _, second := s.Raw(t.Context(), entry)
		return first != nil && second != nil
	})
}

// An entry that stands for nothing goes when the list is asked for, unless it is
// so young that its session may be on its way.
func TestTrim(t *testing.T) {
	s := open(t, startNodes(t, 1)[0], nil)
	_, stays := create(t, s, "ann")
	rec, _ := create(t, s, "ann")
	_, entry := s.Subjects(rec.ID, "ann")
	if err := s.Delete(t.Context(), rec.ID); err != nil {
		t.Fatal(err)
	}
	list := func() (n int) {
		for _, err := range s.List(t.Context(), "ann") {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		return n
	}
	there := func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, _, err := s.Raw(ctx, entry)
		return err == nil
	}
	if n := list(); n != 1 || !there() {
		t.Errorf("List yields %d sessions, and a young entry stands: %v", n, there())
	}
	s.SetUnderway(0)
	if n := list(); n != 1 || there() {
		t.Errorf("List yields %d sessions, and an old entry stands: %v", n, there())
	}
	_, entry = s.Subjects(session.ID(stays), "ann")
	if load(t, s, stays); !there() {
		t.Error("the entry of a live session is gone")
	}
}
