// Package hazelcaststore keeps sessions in a Hazelcast cluster, version 5, open
// source edition included.
//
// It speaks the open binary client protocol by itself, for JCache: there, unlike
// in Hazelcast's own IMap, one message compares a value, replaces it and sets how
// long it lives.
//
// # Configuration
//
// Import the package and open
//
//	hazelcast://host:5701,host:5701/sessions?cluster=dev&prefix=session:&timeout=1s
//
// (hazelcasts:// for TLS), or call New. The path is the name of the cache, which
// every member must declare, with javax.cache:cache-api on its class path:
//
//	hazelcast:
//	  properties:
//	    hazelcast.shutdownhook.policy: GRACEFUL # or SIGTERM is as rude as SIGKILL
//	    hazelcast.operation.fail.on.indeterminate.state: true # see Failure
//	  cache:
//	    sessions:
//	      backup-count: 1
//	      eviction:
//	        size: 2147483647 # the default evicts live sessions from 10,000 on
//	        max-size-policy: ENTRY_COUNT
//	        eviction-policy: LRU
//	      merge-policy:
//	        class-name: ExpirationTimeMergePolicy
//
// List all members, or several, all with their port or all without (5701): they
// are tried in turn. A member that the URL does not list is not found by itself.
//
// Open refuses a cache that is not declared, one without a synchronous backup,
// one that keeps objects (in-memory-format: OBJECT, which does not compare
// bytes), one that evicts, one whose own expiry policy moves an entry's end when
// it is read, and members of different clusters; Check tells the same later. What the protocol
// does not tell, nobody checks: how many members there are, the properties above,
// the merge policy, whether the members' clocks agree. A member with a
// java-serialization-filter must allow javax.cache.expiry.* and
// java.util.concurrent.TimeUnit; Open finds out by a write.
//
// # Guarantees
//
// Every save is a compare-and-set of whole values, on the member that owns the
// key, and has its backup before it is answered. A save whose answer was lost
// looks whether it was done, for each write has bytes of its own, and is an error
// if that cannot be told; a creation is never sent twice, so that none arrives
// after a sign-out.
//
// More members that are lost at once than there are backups take sessions with
// them and leave others. So a session of a user is live only while the user's
// index, an entry of its own, names it: it is written before the record and read
// with it. An index that is gone signs the user out, and nothing that ended comes
// back. DeleteUser is one compare-and-set of the index: at that moment all the
// user's sessions are dead, and a sign-in under way. The index is trimmed as it
// is used, and holds about 15,000 sessions of a user (MaxItem); when it is full,
// those that signed in first end. Every Load reads it: limit a user's sessions
// with the manager's MaxSessions.
//
// Reading costs two round trips, which run side by side where this process has
// seen the session before, and one if nobody is signed in; saving what was
// loaded costs one, a touch two, a sign-in three, and a fourth when the user has
// many sessions. A member that does not own the key asks the one that does. Scan
// reads the whole cache. There is no Clean: the members remove what has expired.
//
// # Expiry
//
// The record has the exact time, to the millisecond, and decides; the members
// drop the entry two seconds later, by their own clocks, also after the owner
// was lost. A member whose clock is ahead by more drops it early: keep them in
// step.
//
// # Failure
//
// Every call returns at its context's deadline. A member that is lost loses
// nothing that was acknowledged; what was under way on a connection to it is
// looked up through another member, and is an error if that cannot tell.
//
// By itself a member repeats a write whose owner died, and answers "no" to what
// was done. The store finds its own write by name, unless the session was saved
// three times meanwhile: then the change is made twice. With
// hazelcast.operation.fail.on.indeterminate.state the member says that it does
// not know, and nothing is made twice.
//
// The members need up to a second to notice a crash, and longer while they hand
// partitions over; a request that comes then may wait, or fail with 503. If all
// members are down, everybody is signed out: the cache is memory.
//
// A partition of the network splits the cluster: both sides go on, and after they
// meet again the merge policy chooses one of two entries, so what one side ended
// the other may bring back, and what one side saved be lost. Hazelcast's
// split-brain protection (minimum-cluster-size, for three members and more)
// makes the smaller side refuse instead.
package hazelcaststore

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"hash/maphash"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/hazelcaststore/internal/wire"
	"github.com/distsession/session/internal/casstore"
	"github.com/distsession/session/internal/hosts"
	"github.com/distsession/session/internal/members"
)

// Options configure a Store.
type Options struct {
	// Cluster is the cluster's name. If "", it is "dev", Hazelcast's default.
	Cluster string

	// Cache is the name of the cache in the members' configuration. If "", it
	// is "sessions".
	Cache string

	// Prefix begins every key. If "", it is "session:".
	Prefix string

	// Timeout bounds connecting to a member, and waiting for its answer, whatever
	// the context allows. If 0, it is one second.
	Timeout time.Duration

	// KeepAlive is after how long without an answer a connection is tried with a
	// ping; after as long again it is given up. If 0, it is two seconds. A member
	// drops a client that is silent for 300 seconds
	// (hazelcast.client.max.no.heartbeat.seconds).
	KeepAlive time.Duration

	// MaxItem is how many bytes a record may take, with its key. If 0, it is
	// 1 MiB. A larger one is ErrTooLarge before anything is sent.
	MaxItem int

	// TLS, if it is not nil, is used for every connection. The open source
	// edition has none.
	TLS *tls.Config

	// Username and Password sign in. The open source edition refuses whoever has
	// any: there the network must keep strangers away.
	Username, Password string

	// InsecureEviction accepts a cache that evicts: when it is full, live
	// sessions end.
	InsecureEviction bool

	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

const (
	defaultCluster   = "dev"
	defaultCache     = "sessions"
	defaultPrefix    = "session:"
	defaultTimeout   = time.Second
	defaultKeepAlive = 2 * time.Second
	defaultMaxItem   = 1 << 20
	minMaxItem       = 2 << 10
	maxMaxItem       = 64 << 20
	answerSlack      = 1 << 18 // bytes that an answer may take beside a value: members, partitions, keys
)

// records are the methods of a Store. The type is not embedded by its own name,
// which would be one more field of Store.
type records = casstore.Store

// Store keeps sessions in Hazelcast. Beside what every store does it touches,
// lists and ends a user's sessions, and scans.
type Store struct {
	*records
	cluster  *cluster
	limit    int
	now      func() time.Time
	eviction bool // accepted
	stop     func()
	close    sync.Once
}

// New returns a store that uses these members, each a host and port; opts may be
// nil. It does not connect: Check does. Close it.
func New(addrs []string, opts *Options) (*Store, error) {
	if opts == nil {
		opts = &Options{}
	}
	timeout, keepAlive := cmp.Or(opts.Timeout, defaultTimeout), cmp.Or(opts.KeepAlive, defaultKeepAlive)
	limit := cmp.Or(opts.MaxItem, defaultMaxItem)
	name := cmp.Or(opts.Cache, defaultCache)
	switch {
	case timeout < 0 || keepAlive < 0:
		return nil, configError("Timeout and KeepAlive are longer than 0; leave them out for the defaults")
	case limit < minMaxItem || limit > maxMaxItem:
		return nil, configError("MaxItem is %d bytes; it takes %d to %d", limit, minMaxItem, maxMaxItem)
	case strings.Contains(name, "/"):
		return nil, configError("Cache takes the name that the members' configuration has, without a /")
	case opts.Username == "" && opts.Password != "":
		return nil, configError("there is a password and no user name; set both or none")
	}
	addrs, err := hosts.Distinct(addrs, "hazelcast")
	if err != nil {
		return nil, err
	}
	wired := wire.Options{
		Cluster: cmp.Or(opts.Cluster, defaultCluster), User: opts.Username, Password: opts.Password, Cache: name,
		TLS: opts.TLS, Limit: limit + answerSlack, KeepAlive: keepAlive,
	}
	c := &cluster{group: members.NewGroup(len(addrs)), timeout: timeout, seed: maphash.MakeSeed()}
	for _, addr := range addrs {
		c.members = append(c.members, newMember(addr, wired, timeout))
	}
	s := &Store{cluster: c, limit: limit, now: opts.Now, eviction: opts.InsecureEviction, stop: func() {}}
	if s.now == nil {
		s.now = time.Now
	}
	s.records = casstore.New(place{s}, casstore.Options{Name: "hazelcast", Prefix: cmp.Or(opts.Prefix, defaultPrefix), Now: s.now})
	return s, nil
}

func configError(format string, args ...any) error {
	return fmt.Errorf("%w: hazelcast: "+format, append([]any{session.ErrConfig}, args...)...)
}

// Close closes the connections.
func (s *Store) Close() error {
	s.close.Do(func() {
		s.stop()
		s.cluster.close()
	})
	return nil
}

var (
	_ session.Store       = (*Store)(nil)
	_ session.Toucher     = (*Store)(nil)
	_ session.Lister      = (*Store)(nil)
	_ session.UserDeleter = (*Store)(nil)
	_ session.Scanner     = (*Store)(nil)
	_ io.Closer           = (*Store)(nil)
)
