// Package ignitestore keeps sessions in an Apache Ignite 2 cluster, through its
// thin-client protocol 1.7, which this module speaks itself.
//
// # Configuration
//
// Import the package and open
//
//	ignite://host:10800,host:10800/cache?username=app&password=env:IGNITE_PASSWORD
//
// (ignites:// for TLS), or call New. The members are tried in turn, each holds
// one connection, and any of them answers for any key. Without a cache in the
// URL it is "sessions".
//
// The cache is made when it is not there: partitioned, with one backup, a write
// acknowledged when both copies have it, reads by the first copy. One that is
// there is used as it is, if it is safe. Open refuses a cache without backups,
// and one that acknowledges a write before all copies have it: there the death
// of one member loses what was acknowledged. It refuses one whose own expiry
// policy moves an entry's end when it is read, a wrong password, and members of
// different clusters. Check tells what is worth a thought.
//
// The protocol does not tell whether the data region evicts pages when it is full
// (DataRegionConfiguration.pageEvictionMode), nor how full it is. If it evicts,
// users are signed out; if it does not, a member whose region is full stops.
// Give the region room for all sessions, and watch it.
//
// # Guarantees
//
// Every save is one replace of exactly the bytes that were loaded, every
// creation a put-if-absent, both with the time to live in the request; nothing
// is ever put. Each write has bytes of its own, so a save whose answer was lost
// reads again whether it was done, and is an error if that cannot be told; a
// creation is never sent twice, so that none arrives after a sign-out.
//
// More members that die at once than there are backups take sessions with them
// and leave others. So a session of a user is live only while the user's index,
// an entry of its own, names it: it is written before the record and read with
// it. An index that is gone signs the user out, and nothing that ended comes
// back. DeleteUser is one compare-and-set of the index: at that moment all the
// user's sessions are dead, and a sign-in under way. The index is trimmed as it
// is used, and holds about 15,000 sessions of a user; when it is full, those
// that signed in first end.
//
// Reading costs two round trips, which run side by side where this process has
// seen the session before, and one if nobody is signed in; saving what was
// loaded costs one, a touch two, a sign-in three, and a fourth when the user has
// many sessions. Scan reads the whole cache, page by page; while members come
// and go it may fail and be called again.
//
// # Expiry
//
// The record has the exact time and decides; the cluster drops the entry a
// second later, by spans and not by dates, so that its clocks do not matter.
// There is nothing to clean.
//
// # Failure
//
// Every call returns at its context's deadline. When a member dies or stops, the
// others answer; nothing that was acknowledged is lost with one backup and one
// death at a time. All members down is an error, never "no session". A cluster
// that comes back empty is given its cache again: users are signed out, nobody is
// revived.
//
// Members cannot tell a partition from a crash. Each side goes on as a cluster of
// its own until its members are restarted, and what one side ended lives on in
// the other; an odd number of members does not prevent that by itself. Ignite has
// the interfaces to do so (TopologyValidator, SegmentationResolver) and comes with
// no implementation. With its extension ignite-topology-validator-ext only the side
// that has more than half of the baseline's members may write, so it takes three;
// the other side still answers reads.
package ignitestore

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/ignitestore/internal/wire"
	"github.com/distsession/session/internal/casstore"
	"github.com/distsession/session/internal/hosts"
	"github.com/distsession/session/internal/members"
)

// Options configure a Store.
type Options struct {
	// Cache is the name of the cache. If "", it is "sessions". At most 100
	// characters of printable ASCII without spaces.
	Cache string

	// Prefix begins every key. If "", it is "session:". At most 150 characters
	// of printable ASCII without spaces.
	Prefix string

	// Timeout bounds each call of a member, whatever the context allows. If 0,
	// it is one second.
	Timeout time.Duration

	// MaxItem is how many bytes a record may have, with its key. If 0, it is
	// 1 MiB; at most 32 MiB. A larger one is ErrTooLarge before anything is sent.
	MaxItem int

	// TLS, if it is not nil, is used for every connection.
	TLS *tls.Config

	// Username and Password sign in to a cluster with authenticationEnabled. A
	// cluster without it accepts any. Without TLS the network can read them.
	Username, Password string

	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

const (
	defaultCache   = "sessions"
	defaultPrefix  = "session:"
	defaultTimeout = time.Second
	defaultMaxItem = 1 << 20
	minItem        = 2 << 10
	maxItem        = 32 << 20 // so that an answer's length fits its 31 bits
	maxCache       = 100
	maxPrefix      = 150
	rows           = 32 // entries in one answer
)

// records are the methods of a Store. The type is not embedded by its own name,
// which would be one more field of Store.
type records = casstore.Store

// Store keeps sessions in an Ignite cluster. Beside what every store does it
// touches, lists and ends a user's sessions, and scans.
type Store struct {
	*records

	members []*member
	group   *members.Group
	cache   string
	prefix  string
	timeout time.Duration
	limit   int
	now     func() time.Time

	stop  func()
	close sync.Once
}

// New returns a store on these members, each a host and port; opts may be nil.
// It does not connect: Check does. Close it.
func New(addrs []string, opts *Options) (*Store, error) {
	if opts == nil {
		opts = &Options{}
	}
	s := &Store{
		cache:   cmp.Or(opts.Cache, defaultCache),
		prefix:  cmp.Or(opts.Prefix, defaultPrefix),
		timeout: cmp.Or(opts.Timeout, defaultTimeout),
		limit:   cmp.Or(opts.MaxItem, defaultMaxItem),
		now:     opts.Now,
		stop:    func() {},
	}
	if s.now == nil {
		s.now = time.Now
	}
	switch {
	case s.timeout < 0:
		return nil, configError("Timeout is longer than 0; leave it out for the default")
	case s.limit < minItem || s.limit > maxItem:
		return nil, configError("MaxItem is %d bytes; it takes %d to %d", s.limit, minItem, maxItem)
	case len(s.cache) > maxCache || !printable(s.cache):
		return nil, configError("Cache takes at most %d characters of printable ASCII without spaces", maxCache)
	case len(s.prefix) > maxPrefix || !printable(s.prefix):
		return nil, configError("Prefix takes at most %d characters of printable ASCII without spaces", maxPrefix)
	case (opts.Username == "") != (opts.Password == ""):
		return nil, configError("Username and Password belong together; set both or none")
	}
	addrs, err := hosts.Distinct(addrs, "ignite")
	if err != nil {
		return nil, err
	}
	wired := wire.Options{TLS: opts.TLS, User: opts.Username, Password: opts.Password, MaxFrame: (rows + 1) * (s.limit + minItem)}
	for _, addr := range addrs {
		s.members = append(s.members, newMember(addr, wired))
	}
	s.group = members.NewGroup(len(addrs))
	s.records = casstore.New(place{s}, casstore.Options{Name: "ignite", Prefix: s.prefix, Now: s.now})
	return s, nil
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' })
}

func configError(format string, args ...any) error {
	return fmt.Errorf("%w: ignite: "+format, append([]any{session.ErrConfig}, args...)...)
}

// Close closes the connections.
func (s *Store) Close() error {
	var errs []error
	s.close.Do(func() {
		s.stop()
		for _, m := range s.members {
			errs = append(errs, m.close())
		}
	})
	return errors.Join(errs...)
}

// failed names what failed.
func failed(act string, err error) error {
	return fmt.Errorf("session: ignite: %s: %w", act, err)
}

var (
	_ session.Store       = (*Store)(nil)
	_ session.Toucher     = (*Store)(nil)
	_ session.Lister      = (*Store)(nil)
	_ session.UserDeleter = (*Store)(nil)
	_ session.Scanner     = (*Store)(nil)
	_ io.Closer           = (*Store)(nil)
)
