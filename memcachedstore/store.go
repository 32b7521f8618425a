// Package memcachedstore keeps sessions in memcached, or in servers that speak
// its text protocol and replicate among themselves, such as Infinispan.
//
// memcached is a cache: a restart, flush_all and a full memory sign users out,
// and nothing tells. Use it where that is no harm.
//
// # Configuration
//
// Import the package and open
//
//	memcached://host:11211,host:11211?prefix=session:&timeout=1s
//	infinispan://host:11221,host:11221
//
// (memcacheds:// and infinispans:// for TLS), or call New. Of several memcached
// servers each has its share of the keys, by rendezvous hashing over their
// addresses as they are written: every process must list the same servers and
// spell them the same. With infinispan:// or Options.Replicated the servers
// replicate among themselves and any of them answers for any key: they are tried
// in turn.
//
// A fourth server takes 25 % of the keys from three (the client's own list would
// move 75 %). What lay under them is not found any more: 25 % of the anonymous
// sessions end, and 44 % of those of users, which rest on two keys.
//
// A server that left the list still has what it had then. Restart it or send it
// flush_all before you list it again, or it would bring sessions back that have
// ended meanwhile. Change the list in all processes at once: while two lists
// are in use, DeleteUser reaches the sessions of one only.
//
// A record is one item, Prefix and ID; a user's sessions are vouched for by one
// more, Prefix, "user:" and a hash of the user's name. Check tells what a server
// lacks. Open refuses one that runs without CAS.
//
// # Guarantees
//
// Every save is a compare-and-set (cas), every creation an add; nothing is ever
// set. A save whose answer was lost looks whether it was done, and is an error if
// that cannot be told; a creation is never sent twice, so that none arrives after
// a sign-out.
//
// The server evicts what it likes, so a session of a user is live only while
// the user's index names it: the index is written before the record and read
// with it. An index that is gone signs the user out, and the next sign-in
// starts an empty one, so nothing that ended comes back. DeleteUser is one
// compare-and-set of the index: at that moment all the user's sessions are dead,
// those too whose record cannot be reached, and a sign-in under way.
//
// The index is one item and holds about 15,000 sessions of a user; when it is
// full, those that signed in first end. It is trimmed as it is used. Every Load
// reads it, so limit a user's sessions with the manager's MaxSessions. There is
// no Scan and no Clean: memcached lists no keys, and removes what expires.
//
// Reading costs two round trips, which run side by side where this process has
// seen the session before, and one if nobody is signed in; saving what was
// loaded costs one, a touch two, a sign-in three, and a fourth when the user has
// many sessions.
//
// # Expiry
//
// The record has the exact time, to the millisecond, and decides; the server
// drops the item a second or two later. Its seconds are rounded up, and over 30
// days are sent as the date that memcached takes them for, an hour late in case
// its clock is ahead.
//
// # Failure
//
// Every call returns at its context's deadline. A server that is down is an
// error, never "no session", and so is every key that belongs to it until it is
// back: no other server takes its place, for that one would be asked in vain
// while the first returns with old sessions. A restarted memcached is empty:
// users are signed out, nobody is revived. Of three servers, the loss of one
// signs 56 % of the users out, for a session rests on two keys.
//
// Replicated servers survive the loss of a member if they keep two copies, both
// before they answer, and drop nothing for room. The protocol tells none of it, so
// Open and Check cannot either; Infinispan declares it so:
//
//	<distributed-cache name="sessions" owners="2" mode="SYNC"> <!-- and no <memory max-count=… or max-size=…> -->
//	  <encoding><key media-type="text/plain"/><value media-type="application/octet-stream"/></encoding>
//	</distributed-cache>
//	…
//	<memcached-connector cache="sessions" protocol="TEXT"/>
//
// How soon they answer again is their own affair. Infinispan waits until JGroups has
// given the member up: at once where FD_SOCK2 reaches the others (at each one's
// port plus the offset, which must be the same for all), else after the timeout
// of FD_ALL3. They cannot tell a partition from a crash unless told how: without
// three members and partition handling (Infinispan: DENY_READ_WRITES) both sides
// go on, and what one side ended the other may bring back.
package memcachedstore

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/casstore"
	"github.com/distsession/session/internal/hosts"
	"github.com/distsession/session/internal/members"
)

// Options configure a Store.
type Options struct {
	// Prefix begins every key. If "", it is "session:". At most 150 characters
	// of printable ASCII without spaces.
	Prefix string

	// Replicated says that the servers replicate among themselves and any of
	// them answers for any key. They are tried in turn when one fails. Plain
	// memcached servers do not; Check finds out.
	Replicated bool

	// Timeout bounds connecting, writing and reading, whatever the context
	// allows. If 0, it is one second.
	Timeout time.Duration

	// PoolSize is how many connections to each server there may be. If 0, it is
	// 64. memcached itself takes 1024 from all clients together (-c).
	PoolSize int

	// MaxItem is how many bytes an item may have, with its key. If 0, it is a
	// kibibyte less than memcached's default of 1 MiB (-I), for the server's own
	// header counts. A larger record is ErrTooLarge before anything is sent.
	MaxItem int

	// TLS, if it is not nil, is used for every connection.
	TLS *tls.Config

	// Username and Password sign in to a memcached that asks for it in the text
	// protocol (-Y). Without TLS the network can read them. SASL needs the binary
	// protocol, which this client does not speak; Infinispan is tested without a
	// password.
	Username, Password string

	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

const (
	defaultPrefix   = "session:"
	defaultTimeout  = time.Second
	defaultPoolSize = 64
	itemHeader      = 1 << 10 // of the server, generously
	defaultMaxItem  = 1<<20 - itemHeader
	maxPrefix       = 150 // a key has at most 250 bytes
)

// records are the methods of a Store. The type is not embedded by its own name,
// which would be one more field of Store.
type records = casstore.Store

// Store keeps sessions in memcached. Beside what every store does it touches,
// lists and ends a user's sessions.
type Store struct {
	*records

	servers    []*server
	members    *members.Group // if they replicate
	ring       ring
	replicated bool
	dialer     *dialer
	timeout    time.Duration
	prefix     string
	limit      atomic.Int64 // MaxItem, or less if a server takes less
	now        func() time.Time

	stop  func()
	close sync.Once
}

// New returns a store that uses these servers, each a host and port; opts may
// be nil. It does not connect: Check does. Close it.
func New(servers []string, opts *Options) (*Store, error) {
	if opts == nil {
		opts = &Options{}
	}
	s := &Store{
		replicated: opts.Replicated,
		dialer:     &dialer{tls: opts.TLS, username: opts.Username, password: opts.Password},
		timeout:    cmp.Or(opts.Timeout, defaultTimeout),
		prefix:     cmp.Or(opts.Prefix, defaultPrefix),
		now:        opts.Now,
		stop:       func() {},
	}
	if s.now == nil {
		s.now = time.Now
	}
	pool, limit := cmp.Or(opts.PoolSize, defaultPoolSize), cmp.Or(opts.MaxItem, defaultMaxItem)
	s.limit.Store(int64(limit))
	s.dialer.limit = limit + itemHeader
	switch {
	case s.timeout < 0 || pool < 0:
		return nil, configError("Timeout and PoolSize are longer and larger than 0; leave them out for the defaults")
	case limit < 2*itemHeader:
		return nil, configError("MaxItem is %d bytes; it takes at least %d", limit, 2*itemHeader)
	case len(s.prefix) > maxPrefix || strings.ContainsFunc(s.prefix, func(c rune) bool { return c <= ' ' || c > '~' }):
		return nil, configError("Prefix takes at most %d characters of printable ASCII without spaces", maxPrefix)
	case (opts.Username == "") != (opts.Password == ""):
		return nil, configError("Username and Password belong together; set both or none")
	case strings.ContainsAny(opts.Username+opts.Password, " \r\n"):
		return nil, configError("the protocol takes no spaces and no line ends in Username and Password")
	}
	servers, err := hosts.Distinct(servers, "memcached")
	if err != nil {
		return nil, err
	}
	for _, addr := range servers {
		s.servers = append(s.servers, newServer(addr, s.dialer, s.timeout, pool))
	}
	s.ring = newRing(servers)
	s.members = members.NewGroup(len(servers))
	s.records = casstore.New(place{s}, casstore.Options{Name: "memcached", Prefix: s.prefix, Now: s.now})
	return s, nil
}

func configError(format string, args ...any) error {
	return fmt.Errorf("%w: memcached: "+format, append([]any{session.ErrConfig}, args...)...)
}

// Close closes the connections.
func (s *Store) Close() error {
	var errs []error
	s.close.Do(func() {
		s.stop()
		for _, server := range s.servers {
			errs = append(errs, server.client.Close())
		}
	})
	return errors.Join(errs...)
}

var (
	_ session.Store       = (*Store)(nil)
	_ session.Toucher     = (*Store)(nil)
	_ session.Lister      = (*Store)(nil)
	_ session.UserDeleter = (*Store)(nil)
	_ io.Closer           = (*Store)(nil)
)
