package natsstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// link is the way to the stream that holds the bucket: raw requests, for the
// client's Put and Update drop the TTL and its Get may ask a follower.
type link struct {
	nc     *nats.Conn
	stream string
}

// The answers that the rest tells apart.
var (
	errNone  = errors.New("there is no such message")
	errWrong = errors.New("the subject was written to meanwhile")
	errLost  = errors.New("no answer came") // and it may be done or not
)

// The error codes of nats-server/server/errors.json.
const (
	codeNoPeers       = 10005 // there are too few servers
	codeUnavailable   = 10008
	codeNoMessage     = 10037
	codeTooLarge      = 10054
	codeNoStream      = 10059
	codeNoReplicas    = 10074 // there is no cluster
	codeWrongLast     = 10071 // of one server
	codeWrongLastRaft = 10164 // of several, where another write is on its way
)

// apiError is what a server answers instead.
type apiError struct {
	Code    int    `json:"code"`
	ErrCode int    `json:"err_code"`
	Text    string `json:"description"`
}

func (e *apiError) Error() string { return fmt.Sprintf("%s (%d)", e.Text, e.ErrCode) }

const (
	callLimit = 10 * time.Second       // of a call whose context has no deadline
	tryLimit  = time.Second            // of one request
	tryLeast  = 200 * time.Millisecond // that one request is given, if there is as much
	tryPause  = 10 * time.Millisecond  // before the second, then ever longer
)

// limited gives a call a deadline that has none.
func limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, callLimit)
}

// try is how long one request of a call may take, so that another can follow
// where a leader has died with the answer.
func try(ctx context.Context) (context.Context, context.CancelFunc) {
	d := tryLimit
	if deadline, ok := ctx.Deadline(); ok {
		d = min(d, max(time.Until(deadline)/3, tryLeast))
	}
	return context.WithTimeout(ctx, d)
}

// backoff waits longer each time; false if the context ends first.
func backoff(ctx context.Context, n int) bool {
	d := min(tryPause<<min(n, 8), 250*time.Millisecond)
	t := time.NewTimer(d/2 + rand.N(d))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// request sends one request and waits for one answer. sent is false where the
// request certainly reached nobody.
func (l *link) request(ctx context.Context, m *nats.Msg) (data []byte, sent bool, err error) {
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	ctx, cancel := try(ctx)
	defer cancel()
	answer, err := l.nc.RequestMsgWithContext(ctx, m)
	switch {
	case err == nil:
		return answer.Data, true, nil
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrMaxPayload),
		errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrInvalidConnection):
		return nil, false, err
	}
	return nil, true, err
}

// hopeless tells whether another try is in vain.
func hopeless(err error) bool {
	return errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrInvalidConnection) || errors.Is(err, nats.ErrMaxPayload)
}

// ask sends a request that may be sent again, as often as the context allows,
// and reads the answer.
func (l *link) ask(ctx context.Context, subject string, in, out any) error {
	ctx, cancel := limited(ctx)
	defer cancel()
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		data, _, err := l.request(ctx, &nats.Msg{Subject: subject, Data: body})
		if err == nil {
			err = decode(data, out)
			var api *apiError
			if !errors.As(err, &api) || api.ErrCode != codeUnavailable {
				return err
			}
		}
		if hopeless(err) || !backoff(ctx, n) {
			return ended(ctx, err)
		}
	}
}

// ended tells why a call came to nothing: the context's end and what went wrong
// until then.
func ended(ctx context.Context, err error) error {
	if cause := ctx.Err(); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// decode reads an answer; *apiError if it is one.
func decode(data []byte, out any) error {
	var failed struct {
		Error *apiError `json:"error"`
	}
	// Answers with a message in them are long, and have no error.
	if bytes.Contains(data[:min(len(data), 256)], []byte(`"error"`)) {
		if err := json.Unmarshal(data, &failed); err == nil && failed.Error != nil {
			return failed.Error
		}
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("the answer cannot be read: %w", err)
	}
	return nil
}

// message is the last one of a subject.
type message struct {
	Subject string    `json:"subject"`
	Seq     uint64    `json:"seq"`
	Data    []byte    `json:"data"`
	Time    time.Time `json:"time"`
}

// last returns the last message of a subject from the stream's leader; errNone
// if there is none.
func (l *link) last(ctx context.Context, subject string) (*message, error) {
	var answer struct {
		Message *message `json:"message"`
	}
	err := l.ask(ctx, "$JS.API.STREAM.MSG.GET."+l.stream, map[string]string{"last_by_subj": subject}, &answer)
	var api *apiError
	switch {
	case errors.As(err, &api) && api.ErrCode == codeNoMessage:
		return nil, errNone
	case err != nil:
		return nil, err
	case answer.Message == nil || answer.Message.Subject != subject:
		return nil, errors.New("the answer is for another request")
	}
	return answer.Message, nil
}

// anyRevision publishes whatever stands there.
const anyRevision = -1

// publish writes a subject whose last message has the sequence expected, 0 for
// none, and returns the new one. ttl is rounded up to whole seconds, at least
// one: the server takes nothing else. It is sent again only where it certainly
// reached nobody: errLost leaves it to the caller to look.
func (l *link) publish(ctx context.Context, subject string, data []byte, expected int64, ttl time.Duration, header ...string) (uint64, error) {
	ctx, cancel := limited(ctx)
	defer cancel()
	m := &nats.Msg{Subject: subject, Data: data, Header: nats.Header{}}
	if expected >= 0 {
		m.Header[jetstream.ExpectedLastSubjSeqHeader] = []string{strconv.FormatInt(expected, 10)}
	}
	m.Header[jetstream.ExpectedStreamHeader] = []string{l.stream}
	if ttl > 0 {
		m.Header[jetstream.MsgTTLHeader] = []string{strconv.FormatInt(int64((ttl+time.Second-1)/time.Second), 10)}
	}
	for i := 0; i+1 < len(header); i += 2 {
		m.Header[header[i]] = []string{header[i+1]}
	}
	for n := 0; ; n++ {
		data, sent, err := l.request(ctx, m)
		if err == nil {
			return written(data)
		}
		if sent {
			return 0, ended(ctx, fmt.Errorf("%w: %w", errLost, err))
		}
		if hopeless(err) || !backoff(ctx, n) {
			return 0, ended(ctx, err)
		}
	}
}

// written reads the acknowledgement of a write.
func written(data []byte) (uint64, error) {
	var ack struct {
		Seq uint64 `json:"seq"`
	}
	err := decode(data, &ack)
	var api *apiError
	if errors.As(err, &api) {
		switch api.ErrCode {
		case codeWrongLast, codeWrongLastRaft:
			return 0, errWrong
		case codeUnavailable:
			return 0, fmt.Errorf("%w: %w", errLost, err)
		}
	}
	if err == nil && ack.Seq == 0 {
		err = errors.New("the write was not acknowledged")
	}
	return ack.Seq, err
}

// info asks the stream's leader about the stream.
func (l *link) info(ctx context.Context, filter string, offset int) (*streamInfo, error) {
	in := struct {
		Filter string `json:"subjects_filter,omitempty"`
		Offset int    `json:"offset,omitempty"`
	}{filter, offset}
	var out streamInfo
	if err := l.ask(ctx, "$JS.API.STREAM.INFO."+l.stream, in, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// streamInfo is what of it is needed.
type streamInfo struct {
	Config jetstream.StreamConfig `json:"config"`
	State  struct {
		LastSeq  uint64            `json:"last_seq"`
		Subjects map[string]uint64 `json:"subjects"`
	} `json:"state"`
	Cluster *struct {
		Leader   string `json:"leader"`
		Replicas []struct {
			Name    string        `json:"name"`
			Current bool          `json:"current"`
			Offline bool          `json:"offline"`
			Active  time.Duration `json:"active"`
			Lag     uint64        `json:"lag"`
		} `json:"replicas"`
	} `json:"cluster"`
	Total int `json:"total"`
	Limit int `json:"limit"`
}

// clientOptions suit a request: what cannot be sent now is not kept for later,
// and a connection that answers nothing is given up within seconds.
func clientOptions(log *slog.Logger) []nats.Option {
	return []nats.Option{
		nats.Timeout(2 * time.Second),
		nats.PingInterval(2 * time.Second), nats.MaxPingsOutstanding(2),
		nats.FlusherTimeout(time.Second),
		nats.MaxReconnects(-1), nats.ReconnectWait(250 * time.Millisecond), nats.IgnoreAuthErrorAbort(),
		nats.ReconnectBufSize(-1),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			log.Warn("session: nats: connection", "error", err)
		}),
	}
}
