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

	// Protection of what goes to the datanodes and comes from them:
	// "authentication", "integrity" (which nobody can change) or "privacy"
	// (which nobody can read). If "", it is what the cluster asks for.
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
	case !slices.Contains([]string{"", hdfs.DataTransferProtectionAuthentication, hdfs.DataTransferProtectionIntegrity, hdfs.DataTransferProtectionPrivacy}, opts.Protection):
		return nil, configError("Protection is %q; it is authentication, integrity or privacy", opts.Protection)
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
