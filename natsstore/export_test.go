package natsstore

import (
	"context"
	"log/slog"
	"time"

	"github.com/distsession/session"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// OpenHeld is Open, and the feed waits before each message until hold returns.
func (n *Node) OpenHeld(opts *Options, hold func(context.Context)) (*Store, error) {
	return n.open(opts, func(s *Store) { s.hold = hold })
}

// OpenAway is OpenHeld with a copy that begins anew when it is older than away.
func (n *Node) OpenAway(opts *Options, hold func(context.Context), away time.Duration) (*Store, error) {
	return n.open(opts, func(s *Store) { s.hold, s.away = hold, away })
}

// SetUnderway sets how long an index entry stays without its record.
func (s *Store) SetUnderway(d time.Duration) { s.underway = d }

// Leads tells whether the node leads the bucket.
func (n *Node) Leads(bucket string) bool {
	return n.server.JetStreamIsStreamLeader("$G", "KV_"+bucket)
}

// Routes is how many connections to other nodes there are.
func (n *Node) Routes() int { return n.server.NumRoutes() }

// Dir is where the node keeps its files.
func (n *Node) Dir() string { return n.opts.Dir }

// Copy is a node's copy, without a node.
type Copy struct{ c *localCopy }

func NewCopy() *Copy { return &Copy{newCopy()} }

func (c *Copy) Feed(id string, rec *session.Record, seq uint64) { c.c.feed(id, rec, seq) }
func (c *Copy) See(id string, rec *session.Record, seq uint64)  { c.c.see(id, rec, seq) }
func (c *Copy) Get(id string) *session.Record                   { rec, _ := c.c.get(id); return rec }
func (c *Copy) Sweep(now time.Time)                             { c.c.sweep(now) }
func (c *Copy) Len() int                                        { return len(c.c.entries) }

// Asks are questions to a leader that is a function.
type Asks struct{ a *asks }

func NewAsks() *Asks { return &Asks{newAsks(time.Minute)} }

func (a *Asks) Do(ctx context.Context, id string, f func(context.Context, string) (*session.Record, error)) (*session.Record, error) {
	return a.a.do(ctx, id, f)
}

const MaxAsks = maxAsks

// AskHeld is a load's question to the leader, whose answer comes only when held
// returns.
func (s *Store) AskHeld(ctx context.Context, id string, held func()) (*session.Record, error) {
	return s.asks.do(ctx, id, func(ctx context.Context, id string) (*session.Record, error) {
		rec, err := s.leaders(ctx, id)
		held()
		return rec, err
	})
}

// Feed is a copy with the beats that prove how new it is, without a stream.
type Feed struct{ s *Store }

func NewFeed() *Feed {
	return &Feed{&Store{prefix: "$KV.b.", away: time.Hour, copy: newCopy(), pulse: &pulse{subject: "$KV.b.b.own", sent: map[uint64]time.Time{}}}}
}

// Sent notes that a beat was sent.
func (f *Feed) Sent(n uint64, at time.Time) { f.s.pulse.sent[n] = at }

// Apply brings a message; the subject "beat" is that of the own beats.
func (f *Feed) Apply(subject string, data []byte, seq uint64, consumer string, pending uint64) error {
	if subject == "beat" {
		subject = "b.own"
	}
	m := fedMessage{subject: f.s.prefix + subject, data: data}
	m.meta = jetstream.MsgMetadata{Consumer: consumer, NumPending: pending, Sequence: jetstream.SequencePair{Stream: seq}}
	return f.s.apply(m)
}

type fedMessage struct {
	jetstream.Msg
	subject string
	data    []byte
	meta    jetstream.MsgMetadata
}

func (m fedMessage) Subject() string                           { return m.subject }
func (m fedMessage) Data() []byte                              { return m.data }
func (m fedMessage) Metadata() (*jetstream.MsgMetadata, error) { return &m.meta, nil }

// Forget is what happens when the copy is too old.
func (f *Feed) Forget() { f.s.forget() }

// Has tells which version is in the copy, 0 for none, and as of when it has
// everything.
func (f *Feed) Has(id string) (version int64, as time.Time) {
	if rec, _ := f.s.copy.get(id); rec != nil {
		version = rec.Version
	}
	as, _, _ = f.s.copy.state()
	return version, as
}

// ClearCopy makes the copy empty, as one that begins anew is.
func (s *Store) ClearCopy() { s.forget() }

// Erase takes a session out of the stream and leaves nothing in its place.
func (s *Store) Erase(ctx context.Context, id string) error {
	m, err := s.link.last(ctx, s.subject(id))
	if err != nil {
		return err
	}
	return s.link.purge(ctx, m.Subject, m.Seq)
}

// Raw returns the message that stands at a subject, and its header.
func (s *Store) Raw(ctx context.Context, subject string) (data []byte, header nats.Header, err error) {
	stream, err := s.js.Stream(ctx, s.link.stream)
	if err != nil {
		return nil, nil, err
	}
	m, err := stream.GetLastMsgForSubject(ctx, subject)
	if err != nil {
		return nil, nil, err
	}
	return m.Data, m.Header, nil
}

// Subjects are those of a session and of its entry in a user's index.
func (s *Store) Subjects(id, user string) (record, entry string) {
	return s.subject(id), s.userSubject(user) + tokenOf(id)
}

// Note notes what came of a look at the bucket, in a store that logs there.
func Note(log *slog.Logger) func(error) {
	return (&Store{log: log, link: &link{stream: "KV_b"}}).note
}

// Unfit is the kind of error that only an operator mends.
var Unfit = errUnfit

// PublishRaw writes whatever one likes into the bucket.
func (s *Store) PublishRaw(subject string, data []byte) error {
	_, err := s.link.publish(context.Background(), s.prefix+subject, data, anyRevision, 0)
	return err
}

// Since is how long ago t was.
var Since = since

// RoutePassword is what the servers sign in to one another with.
func RoutePassword(secret []byte) string { return routePassword(secret) }

// Judge makes of looks at a node, one after the other, whether it is ready.
func Judge() func(at time.Time, err error) error { return new(nodeState).judge }

// Behind is what a look finds at a node that lacks changes.
var Behind = errBehind
