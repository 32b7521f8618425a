package sticky

import (
	"errors"
	"io"
	"net/http"
	"sync"
)

// prepareBody puts the request's body under watch, and tells whether the
// request may be sent again after it was sent. It sees to it that net/http's
// own replays, over a fresh connection to the same node, keep to the same rule.
func (x *exchange) prepareBody(out *http.Request) (replayable bool) {
	retry := &x.p.o.Retry
	twice := retry.Attempts > 1 && retry.Budget > 0
	idempotent := twice && !retry.NoIdempotencyKey && out.Header.Get("Idempotency-Key") != ""
	if out.Body == nil || out.Body == http.NoBody {
		switch out.Method {
		case http.MethodGet, http.MethodHead, http.MethodOptions:
			replayable = twice
		default:
			replayable = idempotent
		}
		if !replayable && replayedByHTTP(out) {
			// It does not replay a body that it cannot make anew, even if nothing
			// comes of it.
			out.Body = io.NopCloser(eof{})
		}
		return replayable
	}
	idempotent = idempotent && retry.MaxBody > 0 && out.ContentLength <= int64(retry.MaxBody)
	x.body = &replayBody{src: out.Body, limit: unsent}
	if idempotent {
		x.body.limit = retry.MaxBody
	}
	out.Body = x.body.attempt()
	out.GetBody = nil
	return idempotent
}

// unsent is how much of any body is kept: net/http reads up to a buffer of 4 KiB,
// of a chunked body 32 KiB, before it writes, and a dead connection has then taken
// nothing.
const unsent = 32 << 10

// replayedByHTTP tells whether net/http's transport would send a request without
// a body once more when a kept connection dies.
func replayedByHTTP(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return r.Header["Idempotency-Key"] != nil || r.Header["X-Idempotency-Key"] != nil
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// bodyError is why the client's body could not be read, nil if it could.
func (x *exchange) bodyError() error {
	if x.body == nil {
		return nil
	}
	x.body.mu.Lock()
	defer x.body.mu.Unlock()
	if x.body.end == io.EOF {
		return nil
	}
	return x.body.end
}

// replayBody is a request's body over several attempts. It is passed on as it
// comes; up to limit bytes are kept beside.
type replayBody struct {
	src   io.ReadCloser
	limit int

	mu   sync.Mutex
	kept []byte
	lost bool  // more was read than is kept
	end  error // of src
	busy bool  // a Read of src runs
	now  *attemptBody
}

// attemptBody is the body of one attempt.
type attemptBody struct {
	b   *replayBody
	off int
}

var errDetached = errors.New("sticky: the body belongs to another attempt")

// attempt returns the body from its beginning; the last attempt's reads no more.
func (b *replayBody) attempt() io.ReadCloser {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = &attemptBody{b: b}
	return b.now
}

// rewind tells whether the body can be given from its beginning. If so, no
// earlier attempt reads on: one whose goroutine is late would otherwise take
// what is then missing.
func (b *replayBody) rewind() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lost || b.busy || b.end != nil && b.end != io.EOF {
		return false
	}
	b.now = nil
	return true
}

// Read holds no lock while it waits for the client, who may take for ever.
func (a *attemptBody) Read(p []byte) (int, error) {
	b := a.b
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.now != a || b.busy || b.lost && a.off == 0:
		return 0, errDetached
	case a.off < len(b.kept):
		n := copy(p, b.kept[a.off:])
		a.off += n
		return n, nil
	case b.end != nil:
		return 0, b.end
	}
	b.busy = true
	b.mu.Unlock()
	n, err := b.src.Read(p)
	b.mu.Lock()
	b.busy = false
	a.off += n
	if b.end = err; n > 0 {
		if b.lost = b.lost || len(b.kept)+n > b.limit; b.lost {
			b.kept = nil
		} else {
			b.kept = append(b.kept, p[:n]...)
		}
	}
	return n, err
}

// Close ends nothing: the server closes the client's body.
func (a *attemptBody) Close() error { return nil }
