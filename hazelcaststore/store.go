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
// one that is not BINARY (OBJECT does not compare bytes), one that evicts, and
// members of different clusters; Check tells the same later. What the protocol
// does not tell, nobody checks: how many members there are, the properties above,
// the merge policy, whether the members' clocks agree. A member with a
// java-serialization-filter must allow javax.cache.expiry.* and
// java.util.concurrent.TimeUnit; Open finds out by a write.
//
// # Guarantees
//
// Every save is a compare-and-set of whole values, on the member that owns the
// key, and has its backup before it is answered. A save whose answer was lost
// looks whether it was done, for each write has bytes of its own; a creation is
// never sent twice, so that none arrives after a sign-out.
//
// Reading costs one round trip; saving what was loaded one, a touch two, a
// sign-in three. A member that does not own the key asks the one that does.
//
// A user's sessions are listed in one item, which holds about 15,000 (MaxValue);
// when it is full, those that signed in first end. It is trimmed as it is used:
// limit a user's sessions with the manager's MaxSessions. Where two of three or
// more members are lost at once, the list may be lost and a session of it stay:
// DeleteUser does not find that one, and it lives until it expires.
//
// There is no Clean: the members remove what has expired.
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
// four times meanwhile: then the change is made twice. With
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
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/hazelcaststore/internal/wire"
	"github.com/distsession/session/internal/gridstore"
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

	// MaxValue is how many bytes a record may take. If 0, it is 1 MiB. A larger
	// one is ErrTooLarge before anything is sent.
	MaxValue int

	// TLS, if it is not nil, is used for every connection. The open source
	// edition has none.
	TLS *tls.Config

	// Username and Password sign in. The open source edition ignores them: there
	// the network must keep strangers away.
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
	defaultMaxValue  = 1 << 20
	minMaxValue      = 2 << 10
	maxMaxValue      = 64 << 20
	answerSlack      = 1 << 18 // bytes that an answer may take beside a value: members, partitions, keys
)

type records = gridstore.Store

// Store keeps sessions in Hazelcast. Beside what every store does it touches,
// lists and ends a user's sessions, and scans.
type Store struct {
	*records
	cluster  *cluster
	eviction bool // accepted
	stop     func()
	close    sync.Once
}

// New returns a store that uses these members, each a host and port; opts may be
// nil. It does not connect: Check does. Close it.
func New(members []string, opts *Options) (*Store, error) {
	if opts == nil {
		opts = &Options{}
	}
	timeout, keepAlive := cmp.Or(opts.Timeout, defaultTimeout), cmp.Or(opts.KeepAlive, defaultKeepAlive)
	maxValue := cmp.Or(opts.MaxValue, defaultMaxValue)
	name := cmp.Or(opts.Cache, defaultCache)
	switch {
	case len(members) == 0:
		return nil, configError("no members; name at least one as host:port")
	case timeout < 0 || keepAlive < 0:
		return nil, configError("Timeout and KeepAlive are longer than 0; leave them out for the defaults")
	case maxValue < minMaxValue || maxValue > maxMaxValue:
		return nil, configError("MaxValue is %d bytes; it takes %d to %d", maxValue, minMaxValue, maxMaxValue)
	case strings.Contains(name, "/"):
		return nil, configError("Cache takes the name that the members' configuration has, without a /")
	case opts.Username == "" && opts.Password != "":
		return nil, configError("there is a password and no user name; set both or none")
	}
	wired := wire.Options{
		Cluster: cmp.Or(opts.Cluster, defaultCluster), User: opts.Username, Password: opts.Password, Cache: name,
		TLS: opts.TLS, Limit: maxValue + answerSlack, KeepAlive: keepAlive,
	}
	c := &cluster{timeout: timeout, seed: maphash.MakeSeed()}
	for i, addr := range members {
		if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
			return nil, configError("a member is no host:port")
		}
		if slices.Contains(members[:i], addr) {
			return nil, configError("the member %s is named twice; name each once", addr)
		}
		c.members = append(c.members, newMember(addr, wired, timeout))
	}
	return &Store{
		records: gridstore.New(c, gridstore.Options{
			Name: "hazelcaststore", Prefix: cmp.Or(opts.Prefix, defaultPrefix), MaxValue: maxValue, Now: opts.Now,
		}),
		cluster: c, eviction: opts.InsecureEviction, stop: func() {},
	}, nil
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

var _ io.Closer = (*Store)(nil)
