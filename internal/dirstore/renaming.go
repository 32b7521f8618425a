package dirstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/distsession/session"
)

// Renaming is the Protocol for trees that decide the rename of a directory in
// one place, by its name: HDFS, and a local disk; not GlusterFS, where two
// mounts won one version.
//
// The directory of a record has one entry, a directory too, whose name carries
// what a touch moves, and in it one file, the text.
//
//	<version>.<seen>.<expires>.<deadline>.<kind>.<write>/<write>
//
// kind is "m" for a marker, "r" for any other record. To save, the file of the
// next version is put into the entry, and the entry gets its next name: of
// several that rename it one wins, the others find it gone. A touch is a rename
// and writes no data. A name is never used twice, so nothing comes back.
type Renaming struct {
	Tree Tree
	// Limit is how many bytes a text may have: TextLimit of the store's MaxData.
	Limit int
}

// renamed is an entry's name.
type renamed struct {
	version                 int64
	seen, expires, deadline time.Time
	marker                  bool
	write                   string

	history History // after Load; not in the name
}

func (n *renamed) String() string {
	kind := "r"
	if n.marker {
		kind = "m"
	}
	return strings.Join([]string{strconv.FormatInt(n.version, 10), Milli(n.seen), Milli(n.expires), Milli(n.deadline), kind, n.write}, ".")
}

func parseRenamed(s string) (*renamed, bool) {
	f := strings.Split(s, ".")
	if len(f) != 6 || f[4] != "m" && f[4] != "r" || len(f[5]) != WriteLen {
		return nil, false
	}
	n := &renamed{marker: f[4] == "m", write: f[5]}
	var ok [4]bool
	n.version, ok[0] = ParseVersion(f[0])
	n.seen, ok[1] = ParseMilli(f[1])
	n.expires, ok[2] = ParseMilli(f[2])
	n.deadline, ok[3] = ParseMilli(f[3])
	return n, ok == [4]bool{true, true, true, true}
}

// ParseVersion reads a version as strconv.FormatInt writes it.
func ParseVersion(s string) (int64, bool) {
	v, err := strconv.ParseInt(s, 10, 64)
	return v, err == nil && v > 0 && strconv.FormatInt(v, 10) == s
}

// nextName is the entry of rec as its next version. The times are as
// session.EncodeRecord writes them, which has checked them.
func nextName(rec *session.Record, write string) *renamed {
	expires := rec.Expires
	if !rec.Deadline.IsZero() && expires.After(rec.Deadline) {
		expires = rec.Deadline
	}
	return &renamed{version: rec.Version + 1, seen: rec.Seen, expires: expires, deadline: rec.Deadline, marker: rec.Replaced, write: write}
}

const (
	looks      = 100 // at a record that changes all the time
	emptyLooks = 10  // at a directory that seems to be empty
)

// find returns the record's entry: that of the highest version, for a listing
// may show an old name as well. session.ErrNotFound if there is none.
func (p *Renaming) find(ctx context.Context, dir string) (*renamed, error) {
	for look := 0; ; look++ {
		var newest *renamed
		err := p.Tree.ReadDir(ctx, dir, func(name string) bool {
			n, ok := parseRenamed(name)
			if ok && (newest == nil || n.version > newest.version || n.version == newest.version && !n.expires.Before(newest.expires) && !n.seen.Before(newest.seen)) {
				newest = n
			}
			return true
		})
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, session.ErrNotFound
		case err != nil:
			return nil, err
		case newest != nil:
			return newest, nil
		case look == emptyLooks:
			return nil, session.ErrNotFound
		}
		// A listing may miss an entry that is being renamed.
	}
}

// Peek implements Protocol.
func (p *Renaming) Peek(ctx context.Context, dir string) (*session.Record, error) {
	n, err := p.find(ctx, dir)
	if err != nil {
		return nil, err
	}
	return &session.Record{
		Version: n.version, Seen: n.seen, Expires: n.expires, Deadline: n.deadline, Replaced: n.marker, Tag: n,
	}, nil
}

// Load implements Protocol.
func (p *Renaming) Load(ctx context.Context, dir string) (*session.Record, error) {
	for range looks {
		n, err := p.find(ctx, dir)
		if err != nil {
			return nil, err
		}
		file := dir + "/" + n.String() + "/" + n.write
		text, err := p.Tree.ReadFile(ctx, file, p.Limit)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // it was renamed meanwhile
		case err != nil:
			return nil, err
		}
		rec, history, err := DecodeText(file, text)
		if err != nil {
			return nil, err
		}
		n.history = history
		if rec.Version != n.version {
			return nil, fmt.Errorf("%w: %s has version %d", session.ErrNotFound, file, rec.Version)
		}
		rec.Seen, rec.Expires, rec.Tag = n.seen, n.expires, n
		return rec, nil
	}
	return nil, fmt.Errorf("%s: the data is missing, or changed %d times while it was read", dir, looks)
}

// Create implements Protocol.
func (p *Renaming) Create(ctx context.Context, dir string, rec *session.Record) error {
	write := NewWrite()
	text, err := EncodeText(rec, History(write))
	if err != nil {
		return err
	}
	file := nextName(rec, write).String() + "/" + write
	return Make(ctx, p.Tree, dir, file, text, func(ctx context.Context) bool {
		n, err := p.find(ctx, dir)
		return err == nil && n.write == write
	})
}

// Update implements Protocol.
func (p *Renaming) Update(ctx context.Context, dir string, rec *session.Record, tag any) error {
	from, ok := tag.(*renamed)
	if !ok || from.version != rec.Version {
		return fmt.Errorf("not a Tag of version %d", rec.Version)
	}
	write := NewWrite()
	text, err := EncodeText(rec, from.history.Next(write))
	if err != nil {
		return err
	}
	to := nextName(rec, write)
	wrote := false
	for range looks {
		entry := dir + "/" + from.String()
		sent := false
		dead, err := p.turn(ctx, entry, from.write, write)
		if err == nil && !wrote { // else it moved along with a touch
			err = p.Tree.WriteFile(ctx, entry+"/"+write, text)
			wrote = err == nil
		}
		if err == nil {
			err = p.Tree.Sync(ctx, entry)
		}
		if err == nil {
			sent = true
			err = p.Tree.Rename(ctx, entry, dir+"/"+to.String())
		}
		if err == nil {
			return p.won(ctx, dir, to, dead)
		}
		// Gone, or an answer was lost: see what is there.
		now, look := p.find(ctx, dir)
		switch {
		case errors.Is(look, session.ErrNotFound):
			return look
		case look != nil:
			return err
		case now.write == write:
			return p.won(ctx, dir, now, dead)
		case now.version != rec.Version || now.write != from.write:
			if err = p.lost(ctx, dir, rec.Version+1, write, err); wrote && errors.Is(err, session.ErrConflict) {
				Abandon(ctx, p.Tree, dir+"/"+now.String()+"/"+write)
			}
			return err
		case !errors.Is(err, fs.ErrNotExist):
			if !sent {
				Abandon(ctx, p.Tree, dir+"/"+now.String()+"/"+write)
			}
			// A rename that was sent may still happen, and then needs the file. If
			// it does not, the next version removes it.
			return err
		}
		now.history = from.history
		from = now // touched meanwhile
	}
	return fmt.Errorf("%s was touched %d times meanwhile", dir, looks)
}

// A writer waits so long for another one. On HDFS a file takes 15 ms.
const (
	firstTurn = time.Millisecond
	lastTurn  = 16 * time.Millisecond
)

// turn waits a moment while the entry has the file of another writer of the
// same version, who will be first: then this one's data need not be written. It
// returns the files that are dead as soon as the entry gets its next name: the
// version before, and those of writers who lose. What comes later may be the
// version after.
func (p *Renaming) turn(ctx context.Context, entry, before, write string) ([]string, error) {
	for pause := firstTurn; ; pause *= 2 {
		var dead []string
		other := false
		err := p.Tree.ReadDir(ctx, entry, func(name string) bool {
			if name != write {
				dead = append(dead, name)
				other = other || name != before
			}
			return true
		})
		if err != nil || !other || pause > lastTurn {
			return dead, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause/2 + rand.N(pause)):
		}
	}
}

// won puts the new name on disk and removes what is dead. A failure leaves it
// to the next version.
func (p *Renaming) won(ctx context.Context, dir string, at *renamed, dead []string) error {
	if err := p.Tree.Sync(ctx, dir); err != nil {
		return err
	}
	for _, name := range dead {
		if p.Tree.Remove(ctx, dir+"/"+at.String()+"/"+name) != nil {
			break // touched or saved meanwhile, mostly
		}
	}
	return nil
}

// lost tells a conflict from a write that was applied, whose answer was lost,
// and on which others have built since.
func (p *Renaming) lost(ctx context.Context, dir string, version int64, write string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return session.ErrConflict
	}
	rec, look := p.Load(ctx, dir)
	if look != nil {
		return errors.Join(err, look)
	}
	if rec.Tag.(*renamed).history.At(rec.Version-version) == write {
		return nil
	}
	return session.ErrConflict
}

// Touch implements Protocol.
func (p *Renaming) Touch(ctx context.Context, dir string, rec *session.Record, seen, expires time.Time) error {
	from, ok := rec.Tag.(*renamed)
	if !ok {
		return errors.New("not a Tag of this Protocol")
	}
	to := *from
	to.seen, to.expires = seen, expires
	err := p.Tree.Rename(ctx, dir+"/"+from.String(), dir+"/"+to.String())
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist):
		return session.ErrConflict
	case err != nil:
		return err
	}
	return p.Tree.Sync(ctx, dir)
}
