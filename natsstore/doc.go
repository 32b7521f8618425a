// Package natsstore keeps sessions in a bucket that NATS JetStream replicates by
// Raft: every node of the application may hold them, and there is no server to
// run. It also uses servers that run by themselves.
//
// # Configuration
//
// A node is a NATS server in this process. With StartNode and Node.Open, or by
// URL:
//
//	nats+embedded:?dir=/var/lib/app
//	nats+embedded://n1@10.0.0.1:6222?voter=10.0.0.1:6222&voter=10.0.0.2:6222&voter=10.0.0.3:6222
//	    &dir=/var/lib/app&durability=file&consistency=local
//	    &secret=file:cluster.secret&ca=ca.pem&cert=n1.pem&key=n1.key
//
// The first is alone, for development. The second is one of three: each has a
// name of its own that stays the same over restarts, a directory of its own, and
// the same list of voters. There are 1, 3 or 5; two would stop more often than
// one. Further nodes join with role=cacher: they have no vote and no disk, and
// may come and go. Do not scale voters up and down.
//
// Closing a store that was opened by URL stops its node at once. To stop with
// care for the others:
//
//	store, _ := session.As[*natsstore.Store](s) // of session.Open
//	store.Node().Shutdown(ctx)                  // hands over and closes both
//
// Between nodes TLS and a secret are required unless every address is loopback.
// Each node shows a certificate that is good for a server and a client; who has
// none, or not the secret, is not let in. No client can connect unless
// ClientListen (client=host:port) says where: in a cluster the server needs a
// port to start, and gets one of loopback with a password that only this process
// knows.
//
// Servers that run by themselves, 2.11 or newer:
//
//	nats://host:4222,host:4222?bucket=sessions&username=app&password=env:NATS_PASSWORD
//
// (nats+tls:// for TLS, with ca, cert, key and server_name; token=env:NAME,
// creds=FILE or, for a node's ClientListen, secret=env:NAME to sign in), or New
// with a connection. The bucket is made if it is not there, and refused with the
// mend if it does not fit: direct reads, a history, a MaxAge, no TTL per message,
// the wrong storage or number of replicas. Storage is file unless storage=memory
// says otherwise; whether servers write every change to the disk at once is
// their configuration (sync_interval: always).
//
// # Guarantees
//
// Every save is a compare-and-set by the sequence of the message that it
// replaces, and is acknowledged when a majority has it. What was deleted stays
// deleted: an update names a message that is no longer there. A save whose
// answer was lost finds by its name that it was done.
//
// Strong, the default, asks the leader at every load. Local answers from a copy
// in this process, which the stream feeds in order; it has at once what this
// node saved and ended, and what others did within MaxStale (5 seconds, mostly a
// millisecond). A session that the copy lacks is asked of the leader before it
// is ErrNotFound, so who has just signed in elsewhere is known here. A stale load
// never wins: its save is ErrConflict, and the manager loads what the leader has.
//
// MaxStale is proven, not assumed. Each node sends a message of its own through
// the stream, five times in MaxStale or every second. Only when it has come back
// through the feed, and nothing is pending there, is the copy known to have what
// was acknowledged before it was sent: while more is pending, a session that is
// written all the time may be replaced each time before the feed comes to it. A
// feed that is late for MaxStale makes loads ask the leader. And only the
// message's acknowledgement shows that the leader still has a majority, for one
// that is cut off believes for ten seconds that it leads. A process that was
// stopped and goes on, or a machine that slept, sees by both its clocks that its
// copy is old.
//
// List, DeleteUser and Scan ask the leader in either mode, and so see every
// change; DeleteUser is seen by all nodes within MaxStale. A user's index is one
// small message a session, written before the record; it lives to the Deadline.
// Reading costs one request, or none with Local; changing what was loaded one, a
// touch two (one with Local), a sign-in two. There is no Clean: the servers
// remove what expires.
//
// A record fits a message: 1 MiB less a kibibyte with the servers' default.
//
// # Expiry
//
// The record has the exact time, to the millisecond, and decides by this
// process's clock. The servers remove the message a second later at most, for
// they count whole seconds; their clocks should agree with the nodes' to the
// second.
//
// # Failure
//
// A change needs a majority: 2 of 3, 3 of 5. Without one every change is an error
// at once and every load after MaxStale, in time, and never "no session".
// The side of a partition with the majority goes on, and nothing has to be
// merged. When the leader dies the others elect one after 4 to 9 seconds, which
// is NATS's own choice and cannot be set: until then changes fail, and so do
// loads but for what Local may still answer. Shutdown hands over first, and
// nobody waits.
//
// A leader that was cut off or stood still may not know yet that another leads.
// A node gives its lead up after 2.5 seconds without a majority, before the
// others can have elected; one that wakes from standing still (SIGSTOP, a frozen
// machine) notices within milliseconds, and until then may answer others with
// what was before. A server that runs by itself has no such lease: when its part
// of the network comes back it may answer Strong loads with what was before, and
// these are then up to MaxStale old. A save that follows is a conflict. In both
// cases a sign-in of the last MaxStale may be missed, with Local too.
//
// What an acknowledged change survives is Durability: Memory, as long as a
// majority runs; File, that all end, but of a majority that loses its power at
// once the last ten seconds may be lost; FileSync, that too. A voter whose disk
// was wiped fetches everything again. Wipe no second one before it is ready, or
// an empty majority could be elected.
//
// Ready tells when a node can serve, or what is missing, and ReadyHandler tells a
// load balancer. The first start of a cluster takes all voters: until each has
// been up the others wait. It is the same where Durability is Memory, there is no
// Dir, and all have ended. Later a majority is enough.
package natsstore
