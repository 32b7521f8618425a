// Package hdfsstore keeps sessions in the Hadoop Distributed File System, for
// those who have one and want no other server.
//
// # Configuration
//
// Importing the package registers the scheme "hdfs":
//
//	session.Open(ctx, "hdfs://nn1:8020,nn2:8020/user/app/sessions?user=app")
//
// with all namenodes of the cluster (the port is 8020 if there is none; an IPv6
// address is written ?addr=[::1]:8020, repeated) and a directory that is the
// store's own. It takes these parameters:
//
//	user=app                  who to be; default HADOOP_USER_NAME, or who runs the program
//	principal=app@EXAMPLE.COM Kerberos: who to be, with
//	keytab=/etc/app.keytab    the file of its keys; or in the place of both
//	ccache=/tmp/krb5cc_1000   the file of tickets that kinit wrote
//	krb5_conf=/etc/krb5.conf  default KRB5_CONFIG, or this one
//	service=nn/_HOST          the namenodes' principal; this is the default
//	protection=privacy        of what goes to datanodes: authentication or privacy
//	replication=3             datanodes that keep a record; default the cluster's
//	clients=16                calls at a time, and connections to a namenode
//	timeout=5s                of each read and write, whatever the context's deadline
//	datanode_hostnames=true   connect to datanodes by name, not by address
//	max_data=65536            bytes of values a session may have; default 1 MiB
//	clean=1h                  how often what has expired is removed; 0: never, somebody calls Clean
//
// Open makes the directory with mode 0700 if it may, and refuses one that others
// can write to, or that fails a short test of what the store rests on. If the
// namenode is away or in safe mode, Open returns a store all the same, logs it,
// and tries again until it succeeds; calls fail meanwhile. New does not
// connect: call Check.
//
// A namenode that believes everybody (no Kerberos) lets whoever reaches it be
// any user, and so read and forge sessions. The client understands data under
// dfs.data.transfer.protection=authentication, and under privacy where the
// datanodes have dfs.encrypt.data.transfer.cipher.suites=AES/CTR/NoPadding; under
// integrity, and the older ciphers of privacy, it fails to read. Wrap the store
// in session.Encrypted to have the values unreadable in HDFS too.
//
// A record is a directory with one directory and one file in it: three objects
// and a block in the namenode's memory, some 600 bytes, and one object more in
// the index if somebody is signed in; up to 8,700 directories are the store's
// own. A million sessions take the namenode about 700 MB. Small files are not
// what HDFS is made for: with more than that, or more than a few hundred changes
// a second, take another store.
//
// # Guarantees
//
// Every save is a compare-and-set: the file of the next version is written into
// the record's directory, which then gets the name of the next version. The
// namenode lets one rename win. There is no lock, no lease and no clock that a
// crash could leave held or that decides. A save whose answer was lost is told
// from a conflict by the names of the last 64 writes in the file. A reader sees
// the old version or the new one, whole. A touch is a rename, and writes no
// data. The store has every ability of a store. List and DeleteUser read one
// directory of the index, a 4096th of it, and that user's sessions; Scan and
// Clean read all.
//
// # Expiry
//
// A record that has expired by this process's clock is not returned. Open
// removes what has expired once an hour, and what a crash left and has not
// changed for an hour by the namenode's clock. New does not: call Clean, or set
// Options.CleanEvery.
//
// # Failure
//
// The client (github.com/colinmarc/hdfs) knows neither contexts nor deadlines:
// here each connection ends a read or write when the call's context ends, so
// every call returns by then, over a half-open connection too. (With Kerberos a
// ticket may be waited for longer, in the background.) A client whose connection
// broke is replaced, by one that begins with another namenode if there is one. A
// namenode that is down, frozen, on standby or in safe mode is an error, never
// "no session", and the store goes on when it is back.
//
// A write that meets a dead datanode is tried again, and one to a datanode that
// does not answer gets half of the time that is left. The namenode chooses
// datanodes by chance, and offers dead ones until it knows: set
// dfs.namenode.avoid.write.stale.datanode=true and
// dfs.namenode.stale.datanode.interval=3000 there, and have one datanode more
// than replicas.
//
// What was acknowledged has reached the memory of every datanode that keeps it,
// and the namenode's log on disk. The death of any process loses nothing; a power
// cut of all replicas at once may, unless the datanodes have
// dfs.datanode.synconclose=true. One namenode is a single point of failure: run
// two with a quorum journal, and name both.
package hdfsstore

import (
	"cmp"
	"fmt"
	"os"
	"os/user"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/colinmarc/hdfs/v2"
	"github.com/distsession/session"
	"github.com/distsession/session/internal/dirstore"
)

// Options configure a Store.
type Options struct {
	// User is who to be. If "", it is the environment variable
	// HADOOP_USER_NAME, or who runs the program. With Kerberos it has to be "".
	User string

	// Kerberos proves it; nil for an HDFS that believes everybody.
	Kerberos *Kerberos

	// Protection is what the connections to datanodes must at least have:
	// "authentication", or "privacy", so that nobody on the way can read or
	// change what passes. If "", it is what the cluster asks for.
	Protection string

	// Replication is how many datanodes keep each record. If 0, it is the
	// cluster's default.
	Replication int

	// Clients is how many calls there may be at once; each has a connection to
	// a namenode. If 0, it is 16.
	Clients int

	// Timeout bounds each read and write of a connection, whatever the
	// context's deadline. If 0, it is 5 seconds.
	Timeout time.Duration

	// DatanodeHostnames says to connect to datanodes by name, where their
	// addresses cannot be reached.
	DatanodeHostnames bool

	// MaxData is how many bytes of values a record may have. If 0, it is 1 MiB.
	MaxData int

	// CleanEvery is how often expired sessions and what crashes left are removed
	// in the background, until Close. If 0, they are not: somebody calls Clean.
	CleanEvery time.Duration

	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

const (
	defaultClients = 16
	defaultTimeout = 5 * time.Second
	defaultMaxData = 1 << 20
)

// Store keeps sessions in a directory of an HDFS. It has every ability of a
// store.
type Store struct {
	*records

	tree  *tree
	end   func() // of what belongs to Kerberos
	stop  func() // of the check in the background
	close sync.Once
}

// records has the methods of session.Store and of the abilities.
type records = dirstore.Store

// New returns a store in the directory root of the HDFS with these namenodes
// (host:port; the active one is found); opts may be nil. It does not connect.
// ErrConfig if they cannot be used. Check makes the directory.
func New(namenodes []string, root string, opts *Options) (*Store, error) {
	if opts == nil {
		opts = &Options{}
	}
	switch {
	case len(namenodes) == 0:
		return nil, configError("there is no namenode; name one as host:%s", namenodePort)
	case !path.IsAbs(root) || path.Clean(root) == "/" || strings.Contains(root, ":"):
		return nil, configError("sessions need a directory of their own; name one such as /user/app/sessions")
	case opts.Protection == hdfs.DataTransferProtectionIntegrity:
		// digestMD5IntegrityConn.Read of v2.4.0 forgets to count what it had left.
		return nil, configError("Protection integrity is not to be had, for the client reads such data wrongly; use privacy")
	case !slices.Contains([]string{"", hdfs.DataTransferProtectionAuthentication, hdfs.DataTransferProtectionPrivacy}, opts.Protection):
		return nil, configError("Protection is %q; it is authentication or privacy", opts.Protection)
	case opts.Clients < 0 || opts.Replication < 0 || opts.Timeout < 0 || opts.MaxData < 0 || opts.CleanEvery < 0:
		return nil, configError("Clients, Replication, Timeout, MaxData and CleanEvery are at least 0")
	}
	for _, addr := range namenodes {
		if !checkAddr(addr) {
			return nil, configError("a namenode's address cannot be read; write host:%s, and an IPv6 address in brackets", namenodePort)
		}
	}
	o := hdfs.ClientOptions{
		Addresses:              slices.Clone(namenodes),
		DataTransferProtection: opts.Protection,
		UseDatanodeHostname:    opts.DatanodeHostnames,
	}
	end, err := identify(&o, opts)
	if err != nil {
		return nil, err
	}
	t := &tree{
		pool:   newPool(o, cmp.Or(opts.Clients, defaultClients), cmp.Or(opts.Timeout, defaultTimeout)),
		root:   path.Clean(root),
		writer: writer{replication: opts.Replication},
	}
	s := &Store{records: newRecords(t, opts), tree: t, end: end, stop: func() {}}
	if opts.CleanEvery > 0 {
		s.CleanEvery(opts.CleanEvery)
	}
	return s, nil
}

// newRecords returns the sessions in t, which are compared and set by the
// rename of directories.
func newRecords(t dirstore.Tree, opts *Options) *records {
	maxData := cmp.Or(opts.MaxData, defaultMaxData)
	protocol := &dirstore.Renaming{Tree: t, Limit: dirstore.TextLimit(maxData)}
	return dirstore.New(t, protocol, dirstore.Options{Name: "hdfsstore", MaxData: maxData, Now: opts.Now})
}

// identify fills in who the store is. What it made for that, end ends.
func identify(o *hdfs.ClientOptions, opts *Options) (end func(), err error) {
	if opts.Kerberos != nil {
		if opts.User != "" {
			return nil, configError("User is set beside Kerberos, whose Principal is the user; remove it")
		}
		client, err := opts.Kerberos.client()
		if err != nil {
			return nil, err
		}
		o.User = client.Credentials.UserName()
		o.KerberosClient = client
		o.KerberosServicePrincipleName = cmp.Or(opts.Kerberos.Service, kerberosNames)
		return client.Destroy, nil
	}
	o.User = cmp.Or(opts.User, os.Getenv("HADOOP_USER_NAME"))
	if o.User == "" {
		u, err := user.Current()
		if err != nil {
			return nil, configError("User is not set, and who runs the program is not known: %w", err)
		}
		o.User = u.Username
	}
	return func() {}, nil
}

// Close ends the connections; one that is in use ends with its call.
func (s *Store) Close() error {
	s.close.Do(func() {
		s.stop()
		s.StopCleaning()
		s.tree.pool.close()
		s.end()
	})
	return nil
}

func configError(format string, args ...any) error {
	return fmt.Errorf("%w: hdfs: "+format, append([]any{session.ErrConfig}, args...)...)
}
