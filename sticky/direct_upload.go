package sticky

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"
)

// upload writes a request with a body, in a goroutine of its own: the node may
// answer, and stop reading, before it is done. To Request.Write it is the body.
type upload struct {
	c       *directConn
	req     *http.Request // the caller's, with the caller's body
	trace   *httptrace.ClientTrace
	timeout time.Duration // for the response's header, after the request, and for the node to take some more of that
	expect  time.Duration // how long to wait before the body

	go100 chan struct{} // with Expect: the node wants the body; otherwise nil
	gone  chan struct{} // with Expect: closed when the body is not wanted

	mu       sync.Mutex
	started  bool // the body may be read
	reading  bool // the caller's code is at it
	unwanted bool // nothing is read any more
	readErr  error

	done chan struct{} // closed when the request is written, or will not be
	err  error         // what came of it, after done
}

// maxWriteWait is how long a response that has been read waits for the end of
// its request, before the connection is closed instead of kept. http.Transport
// waits as long.
const maxWriteWait = 50 * time.Millisecond

// writeGrace is how long the response is waited for after the request could not
// be written: the node may have refused a large one, and closed.
const writeGrace = time.Second

var errUnwanted = errors.New("the body of the request is not wanted any more")

func (u *upload) run() {
	defer close(u.done)
	u.c.patience = u.timeout
	defer u.c.calm()
	out := u.req.WithContext(u.req.Context()) // a copy
	if hasBody(u.req) {
		out.Body = u
	}
	err := out.Write(u.c.bw)
	if err == nil {
		err = u.c.bw.Flush()
	}
	u.err = err
	switch {
	case err == nil:
		u.c.await(u.timeout)
	case isTimeout(u.c.writeErr):
		u.c.await(1) // that was long enough
	case u.c.writeErr != nil:
		u.c.await(writeGrace)
	case errors.Is(err, errUnwanted):
	default: // the caller's body failed, or is not as long as was said
		u.mu.Lock()
		if u.readErr != nil {
			err = u.readErr // Request.Write hides it in an error that has no Unwrap
		}
		u.mu.Unlock()
		u.c.abort(err)
	}
}

// Read reads the caller's body, for Request.Write, which has flushed the header.
func (u *upload) Read(p []byte) (int, error) {
	if u.go100 != nil && !u.begun() {
		u.wait()
	}
	u.mu.Lock()
	if u.unwanted {
		u.mu.Unlock()
		return 0, errUnwanted
	}
	u.started, u.reading = true, true
	u.mu.Unlock()
	n, err := u.req.Body.Read(p)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.reading = false
	if err != nil && err != io.EOF {
		u.readErr = err
	}
	return n, err
}

// Close closes the caller's body; Request.Write always does.
func (u *upload) Close() error { return u.req.Body.Close() }

// wait returns when the node wants the body, or has not said so in time, or
// does not want it.
func (u *upload) wait() {
	if u.trace != nil && u.trace.Wait100Continue != nil {
		u.trace.Wait100Continue()
	}
	timer := time.NewTimer(u.expect)
	defer timer.Stop()
	select {
	case <-u.go100:
	case <-timer.C:
	case <-u.gone:
	}
}

func (u *upload) begun() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.started
}

// proceed says that the node wants the body.
func (u *upload) proceed() {
	select {
	case u.go100 <- struct{}{}:
	default:
	}
}

// settled is called with a final status. A body that still waits for a word
// will not be sent.
func (u *upload) settled() {
	if u != nil && u.go100 != nil && !u.begun() {
		u.abandon()
	}
}

// abandon makes sure that the caller's body is not read any more than by a Read
// under way. It tells whether there is one.
func (u *upload) abandon() (reading bool) {
	if u == nil {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.unwanted {
		u.unwanted = true
		if u.gone != nil {
			close(u.gone)
		}
	}
	return u.reading
}

// end abandons an upload whose connection has been aborted, and waits until it
// has let go of the request; not for a Read of the caller's body, which may
// take for ever.
func (u *upload) end() {
	if u != nil && !u.abandon() {
		<-u.done
	}
}

// complete tells whether the whole request was written.
func (u *upload) complete() bool {
	if u == nil {
		return true
	}
	select {
	case <-u.done:
		return u.err == nil
	default:
	}
	timer := time.NewTimer(maxWriteWait)
	defer timer.Stop()
	select {
	case <-u.done:
		return u.err == nil
	case <-timer.C:
		return false
	}
}
