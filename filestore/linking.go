package filestore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/dirstore"
)

// linkTree is a Tree whose files can have two names. To link to a name that is
// there is fs.ErrExist, and of several that link to one name one wins.
type linkTree interface {
	dirstore.Tree
	Link(ctx context.Context, from, to string) error
}

// linking is a dirstore.Protocol that stands on link(2), which is atomic on
// every file system tried; a directory's rename is not, on GlusterFS. The
// directory of a record holds
//
//	<version>.<first>                     the text of this version
//	<version>.<write>.<seen>.<expires>    empty: a touch of this version
//
// first is the name of the write that created the record, write of the one
// that made the version. To save, a finished file is linked to the next
// version's name: link never replaces, so one writer wins. Then the files of
// lower versions are removed, the lowest first.
//
// So a name may become free again, and a late writer who links to it must not
// believe that it won. It has won if its base, the version before, is still
// there: as the lowest go first, its name was then never free before. Or if the
// highest version names its write among the last ones. While the listing shows
// neither, it is out of date, for a base only goes when a higher version is
// there: the writer lists again. first keeps the files of a record apart from
// those of one that was made anew in its place.
type linking struct {
	tree  linkTree
	limit int // bytes of a text
}

const (
	looks      = 100 // at a record that changes all the time, or whose listing is out of date
	emptyLooks = 10  // at a directory that seems to be empty
)

// versionName is the name of a version's file.
type versionName struct {
	version int64
	first   string
}

func (n versionName) String() string { return strconv.FormatInt(n.version, 10) + "." + n.first }

// touchName is the name of a touch.
type touchName struct {
	version       int64
	write         string
	seen, expires time.Time
}

func (n touchName) String() string {
	return strings.Join([]string{strconv.FormatInt(n.version, 10), n.write, dirstore.Milli(n.seen), dirstore.Milli(n.expires)}, ".")
}

// listing is what is in a record's directory.
type listing struct {
	versions []versionName // the lowest first
	touches  []touchName
}

// linked is the Tag of a loaded record.
type linked struct {
	first   string
	history dirstore.History
	touches []touchName
}

func (p *linking) list(ctx context.Context, dir string) (*listing, error) {
	l := &listing{}
	err := p.tree.ReadDir(ctx, dir, func(name string) bool {
		f := strings.Split(name, ".")
		version, ok := dirstore.ParseVersion(f[0])
		switch {
		case !ok || len(f) < 2 || len(f[1]) != dirstore.WriteLen:
		case len(f) == 2:
			l.versions = append(l.versions, versionName{version, f[1]})
		case len(f) == 4:
			seen, ok := dirstore.ParseMilli(f[2])
			expires, also := dirstore.ParseMilli(f[3])
			if ok && also {
				l.touches = append(l.touches, touchName{version, f[1], seen, expires})
			}
		}
		return true
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, session.ErrNotFound
	}
	slices.SortFunc(l.versions, func(a, b versionName) int { return cmp.Compare(a.version, b.version) })
	return l, err
}

// newest returns the highest version of the record that first created, nil if
// there is none.
func (l *listing) newest(first string) *versionName {
	for _, n := range slices.Backward(l.versions) {
		if n.first == first {
			return &n
		}
	}
	return nil
}

// tops returns the highest version of each record: mostly of one.
func (l *listing) tops() []versionName {
	var tops []versionName
	for _, n := range slices.Backward(l.versions) {
		if !slices.ContainsFunc(tops, func(t versionName) bool { return t.first == n.first }) {
			tops = append(tops, n)
		}
	}
	return tops
}

func (p *linking) read(ctx context.Context, dir string, n versionName) (*session.Record, dirstore.History, error) {
	path := dir + "/" + n.String()
	text, err := p.tree.ReadFile(ctx, path, p.limit)
	if err != nil {
		return nil, "", err
	}
	rec, history, err := dirstore.DecodeText(path, text)
	if err == nil && (rec.Version != n.version || history == "") {
		err = fmt.Errorf("%w: %s has version %d", session.ErrNotFound, path, rec.Version)
	}
	return rec, history, err
}

// Load implements dirstore.Protocol.
func (p *linking) Load(ctx context.Context, dir string) (*session.Record, error) {
	for look := range looks {
		l, err := p.list(ctx, dir)
		switch {
		case err != nil:
			return nil, err
		case len(l.versions) == 0 && look >= emptyLooks:
			return nil, session.ErrNotFound
		case len(l.versions) == 0:
			continue // a listing may miss what comes and goes
		}
		rec, err := p.loadListed(ctx, dir, l)
		if !errors.Is(err, fs.ErrNotExist) {
			return rec, err
		}
	}
	return nil, fmt.Errorf("%s changed %d times while it was read", dir, looks)
}

// Peek implements dirstore.Protocol.
func (p *linking) Peek(ctx context.Context, dir string) (*session.Record, error) {
	return p.Load(ctx, dir)
}

// loadListed reads the newest version; fs.ErrNotExist if another came meanwhile.
func (p *linking) loadListed(ctx context.Context, dir string, l *listing) (*session.Record, error) {
	var rec *session.Record
	var failed error
	for _, top := range l.tops() {
		r, history, err := p.read(ctx, dir, top)
		switch {
		case err == nil && (rec == nil || r.Created.After(rec.Created)):
			// A second one is what a writer has linked who slept from before the
			// record ended until it was made anew. It takes it away itself,
			// unless it dies in that moment.
			rec = r
			rec.Tag = &linked{first: top.first, history: history, touches: l.touches}
		case err != nil && !errors.Is(err, session.ErrNotFound):
			return nil, err
		case err != nil:
			failed = err
		}
	}
	if rec == nil {
		return nil, failed
	}
	if rec.Replaced {
		// A late writer's, perhaps (see linking), that goes again. On values of such
		// a one nobody can build, since a save conflicts; but a marker says that
		// the session is elsewhere, and is believed.
		again, err := p.list(ctx, dir)
		if err != nil {
			return nil, err
		}
		first := rec.Tag.(*linked).first
		if now := again.newest(first); now == nil || *now != (versionName{rec.Version, first}) {
			return nil, fs.ErrNotExist
		}
	}
	write := rec.Tag.(*linked).history.At(0)
	for _, t := range l.touches {
		if t.version != rec.Version || t.write != write {
			continue
		}
		if t.seen.After(rec.Seen) {
			rec.Seen = t.seen
		}
		if t.expires.After(rec.Expires) {
			rec.Expires = t.expires
		}
	}
	return rec, nil
}

// Create implements dirstore.Protocol.
func (p *linking) Create(ctx context.Context, dir string, rec *session.Record) error {
	write := dirstore.NewWrite()
	text, err := dirstore.EncodeText(rec, dirstore.History(write))
	if err != nil {
		return err
	}
	file := versionName{rec.Version + 1, write}.String()
	return dirstore.Make(ctx, p.tree, dir, file, text, func(ctx context.Context) bool {
		l, err := p.list(ctx, dir)
		return err == nil && l.newest(write) != nil
	})
}

// Update implements dirstore.Protocol.
func (p *linking) Update(ctx context.Context, dir string, rec *session.Record, tag any) error {
	base, ok := tag.(*linked)
	if !ok {
		return fmt.Errorf("not a Tag of this store: %T", tag)
	}
	write := dirstore.NewWrite()
	text, err := dirstore.EncodeText(rec, base.history.Next(write))
	if err != nil {
		return err
	}
	name := versionName{rec.Version + 1, base.first}
	if _, err := p.tree.ModTime(ctx, dir+"/"+name.String()); err == nil {
		return session.ErrConflict // cheap for those who are late anyway
	}
	temp := dirstore.Unfinished()
	defer dirstore.Abandon(ctx, p.tree, temp)
	if err := p.tree.WriteFile(ctx, temp, text); err != nil {
		return dirstore.Unmade(err)
	}
	linkErr := p.tree.Link(ctx, temp, dir+"/"+name.String())
	if linkErr == nil {
		// On disk before the version that it replaces goes.
		if err := p.tree.Sync(ctx, dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return p.settle(ctx, dir, name, write, linkErr)
}

// settle finds out whether write made the version of this name, and removes what
// is dead then. linkErr is what link said; an answer that was lost may have come
// as any error, NFS repeats a call and says fs.ErrExist.
func (p *linking) settle(ctx context.Context, dir string, name versionName, write string, linkErr error) error {
	for look := range looks {
		if err := pause(ctx, look); err != nil {
			return err
		}
		l, err := p.list(ctx, dir)
		if err != nil {
			return errors.Join(err, unlessMissing(linkErr))
		}
		top := l.newest(name.first)
		switch {
		case top == nil && len(l.versions) > 0:
			p.withdraw(ctx, dir, name, linkErr)
			return session.ErrNotFound // made anew
		case top == nil && look >= emptyLooks:
			return session.ErrNotFound
		case top == nil:
			continue
		case top.version < name.version && linkErr != nil && !errors.Is(linkErr, fs.ErrExist):
			return dirstore.Unmade(linkErr)
		case top.version < name.version:
			continue // the listing is out of date
		}
		based := slices.Contains(l.versions, versionName{name.version - 1, name.first})
		if *top == name && linkErr == nil && based {
			p.tidy(ctx, dir, l, name)
			return nil
		}
		_, history, err := p.read(ctx, dir, *top)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil && !errors.Is(err, session.ErrNotFound):
			return errors.Join(err, linkErr)
		}
		// What was read may be a late writer's, who found the name free because a
		// higher version was there by then, and whose history may be a loser's. It
		// counts only if it still is the highest.
		again, err := p.list(ctx, dir)
		if err != nil {
			return errors.Join(err, unlessMissing(linkErr))
		}
		if now := again.newest(name.first); now == nil || *now != *top {
			continue
		}
		switch history.At(top.version - name.version) {
		case write:
			if *top == name && !based {
				// Somebody has removed the base: a higher version is there, or the
				// record was made anew.
				if look >= emptyLooks && len(l.tops()) > 1 {
					p.withdraw(ctx, dir, name, linkErr)
					return session.ErrNotFound
				}
				continue
			}
			p.tidy(ctx, dir, l, *top)
			return nil
		case "":
			return fmt.Errorf("outcome unknown: the record is %d versions further", top.version-name.version)
		default:
			if top.version > name.version {
				p.withdraw(ctx, dir, name, linkErr)
			}
			return session.ErrConflict
		}
	}
	return fmt.Errorf("outcome unknown: the listing of %s stays out of date; a network mount must not cache names (NFS: lookupcache=none,actimeo=0)", dir)
}

// pause waits a little before a further look.
func pause(ctx context.Context, look int) error {
	if look < 3 {
		return nil
	}
	wait := time.NewTimer(time.Duration(min(look, 20)) * time.Millisecond / 2)
	defer wait.Stop()
	select {
	case <-wait.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("outcome unknown: %w", ctx.Err())
	}
}

func unlessMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// withdraw removes what a late writer has linked to a name that was free again.
func (p *linking) withdraw(ctx context.Context, dir string, name versionName, linkErr error) {
	if linkErr == nil {
		dirstore.Abandon(ctx, p.tree, dir+"/"+name.String())
	}
}

// tidy removes what is dead now that top is there: the lower versions, the
// lowest first, and touches of them. What a failure leaves is the next save's.
func (p *linking) tidy(ctx context.Context, dir string, l *listing, top versionName) {
	for _, n := range l.versions {
		if n.first != top.first || n.version >= top.version {
			continue
		}
		if err := p.tree.Remove(ctx, dir+"/"+n.String()); unlessMissing(err) != nil {
			return
		}
	}
	for _, t := range l.touches {
		if t.version < top.version {
			_ = p.tree.Remove(ctx, dir+"/"+t.String())
		}
	}
}

// Touch implements dirstore.Protocol: an empty file, whose name says it all.
func (p *linking) Touch(ctx context.Context, dir string, rec *session.Record, seen, expires time.Time) error {
	base, ok := rec.Tag.(*linked)
	if !ok {
		return fmt.Errorf("not a Tag of this store: %T", rec.Tag)
	}
	touch := touchName{rec.Version, base.history.At(0), seen, expires}
	err := p.tree.Mark(ctx, dir+"/"+touch.String())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return session.ErrConflict // ended meanwhile
	case err != nil:
		return err
	}
	if err := p.tree.Sync(ctx, dir); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return session.ErrConflict
		}
		return err
	}
	for _, t := range base.touches {
		if t != touch && t.version <= touch.version && !t.seen.After(seen) && !t.expires.After(expires) {
			_ = p.tree.Remove(ctx, dir+"/"+t.String())
		}
	}
	return nil
}
