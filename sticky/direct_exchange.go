package sticky

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"strings"
	"sync/atomic"
)

// maxInlineHead is how long the header of a request may be that is written
// before the response is read. A socket takes as much at once; were it to
// block, a node that refuses such a header would never be heard.
const maxInlineHead = 16 << 10

// maxInformational is how many responses may come before the final one. A
// request's own hook is given each of them, and for these the limit of the
// header begins again.
const maxInformational = 128

var (
	errNoAnswer      = errors.New("the node closed the connection and sent no response")
	errInformational = errors.New("the node sent too many informational responses")
	errDone          = errors.New("the response has been read")
	errNotKept       = errors.New("sticky: enough idle connections")
	errSwitched      = errors.New("the node switched protocols before it had the whole request")
)

// headerTimeout is the error of a node that was too slow.
type headerTimeout struct{}

func (headerTimeout) Error() string   { return "the response's header did not come in time" }
func (headerTimeout) Timeout() bool   { return true }
func (headerTimeout) Temporary() bool { return true }
func (headerTimeout) Is(target error) bool {
	return target == context.DeadlineExceeded || target == os.ErrDeadlineExceeded
}

// directExchange is one request and its response. It is the response's body too.
type directExchange struct {
	t       *DirectTransport
	c       *directConn
	req     *http.Request
	trace   *httptrace.ClientTrace
	up      *upload     // nil if the request is written here
	unwatch func() bool // ends the watch over the context; false if it has struck

	local    bool // the request could not be written, and not for the connection's sake
	answered bool // with at least one byte

	keep  bool          // the connection, once the response has been read
	body  io.ReadCloser // as http.ReadResponse has it
	state atomic.Int32
	err   error // of the body, in state bodyFailed
}

const (
	bodyOpen int32 = iota
	bodyRead
	bodyFailed
	bodyClosed
)

// do writes the request and reads the header of the response.
func (x *directExchange) do(ctx context.Context, head int) (*http.Response, *directError) {
	x.c.begin(x.t.opts.MaxHeaderBytes)
	x.watch(ctx)
	if err := x.write(head); err != nil {
		return nil, x.fail(err)
	}
	res, err := x.final()
	if err != nil {
		return nil, x.fail(err)
	}
	switched := switchesProtocol(res)
	x.c.headed(!switched && (res.Body == http.NoBody || res.ContentLength >= 0 && int64(x.c.br.Buffered()) >= res.ContentLength))
	x.up.settled()
	res.TLS = x.c.tls
	if switched {
		// What is left of the request would go to whoever speaks the new protocol.
		if !x.up.complete() {
			return nil, x.fail(errSwitched)
		}
		if !x.unwatch() {
			return nil, x.fail(context.Cause(ctx))
		}
		res.Body = &upgraded{x.c}
		return res, nil
	}
	x.keep = !res.Close && !x.req.Close && !hasToken(x.req.Header["Connection"], "close") && res.StatusCode >= 200
	if res.Body == http.NoBody {
		x.finish()
		return res, nil
	}
	x.body, res.Body = res.Body, x
	return res, nil
}

// watch aborts the connection when the context ends.
func (x *directExchange) watch(ctx context.Context) {
	if ctx.Done() == nil {
		x.unwatch = func() bool { return true }
		return
	}
	c := x.c
	x.unwatch = context.AfterFunc(ctx, func() { c.abort(context.Cause(ctx)) })
}

// write sends the request, or has it sent. An error is one of the request: if
// the connection breaks, the response may be there nevertheless.
func (x *directExchange) write(head int) error {
	if hasBody(x.req) || head > maxInlineHead {
		x.up = &upload{c: x.c, req: x.req, trace: x.trace, done: make(chan struct{}),
			timeout: x.t.opts.HeaderTimeout, expect: x.t.opts.ContinueTimeout}
		if hasBody(x.req) && hasToken(x.req.Header["Expect"], "100-continue") {
			x.up.go100, x.up.gone = make(chan struct{}, 1), make(chan struct{})
		}
		x.c.untimed() // the response is read from now on, and timed from the end of the request
		go x.up.run()
		return nil
	}
	err := x.req.Write(x.c.bw)
	if err == nil {
		err = x.c.bw.Flush()
	}
	switch {
	case err == nil:
		x.c.await(x.t.opts.HeaderTimeout)
	case x.c.writeErr == nil:
		x.local = true
		return err
	default:
		x.c.await(writeGrace)
	}
	return nil
}

// final reads the header of the final response; the informational ones before
// it go to the hook, as ReverseProxy wants them.
func (x *directExchange) final() (*http.Response, error) {
	if _, err := x.c.br.Peek(1); err != nil {
		return nil, err
	}
	x.answered = true
	if x.trace != nil && x.trace.GotFirstResponseByte != nil {
		x.trace.GotFirstResponseByte()
	}
	for range maxInformational + 1 {
		res, err := http.ReadResponse(x.c.br, x.req)
		if err != nil {
			return nil, err
		}
		code := res.StatusCode
		switch {
		case code < 100:
			return nil, fmt.Errorf("malformed HTTP status code %q", res.Status)
		case code >= 200 || code == http.StatusSwitchingProtocols:
			return res, nil
		}
		if code == http.StatusContinue && x.up != nil && x.up.go100 != nil {
			if x.trace != nil && x.trace.Got100Continue != nil {
				x.trace.Got100Continue()
			}
			x.up.proceed()
		}
		if x.trace != nil && x.trace.Got1xxResponse != nil {
			if err := x.trace.Got1xxResponse(code, textproto.MIMEHeader(res.Header)); err != nil {
				return nil, err
			}
			x.c.limit = x.t.opts.MaxHeaderBytes
		}
	}
	return nil, errInformational
}

// fail ends an exchange that has no response, and tells why.
func (x *directExchange) fail(err error) *directError {
	x.unwatch()
	first := x.c.abort(err)
	x.up.end()
	e := &directError{err: x.c.why(), sent: x.c.sent.Load()}
	if !first || x.local {
		return e // the context, or the request itself
	}
	readErr := x.c.readErr
	slow := errors.Is(readErr, os.ErrDeadlineExceeded)
	writeErr := x.c.writeFailure(x.up)
	switch {
	case writeErr != nil && (slow || !x.answered):
		e.err = writeErr
	case slow:
		e.err = headerTimeout{}
		return e
	case readErr == io.EOF && !x.answered:
		e.err = errNoAnswer
	case readErr != nil && readErr != io.EOF:
		e.err = readErr
	}
	e.lost = !x.answered
	return e
}

// finish gives the connection back, or closes it, when the response has been
// read.
func (x *directExchange) finish() {
	keep := x.keep && x.c.readErr == nil && x.c.br.Buffered() == 0 && x.up.complete()
	if !x.unwatch() || !keep {
		x.c.abort(errDone)
		x.up.abandon()
		return
	}
	var err error
	if !x.t.idle.put(x.c) {
		err = errNotKept
		x.c.conn.Close()
	}
	if x.trace != nil && x.trace.PutIdleConn != nil {
		x.trace.PutIdleConn(err)
	}
}

// Read reads the response's body. At its end the connection serves others.
func (x *directExchange) Read(p []byte) (int, error) {
	switch x.state.Load() {
	case bodyRead:
		return 0, io.EOF
	case bodyFailed:
		return 0, x.err
	case bodyClosed:
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := x.body.Read(p)
	switch {
	case err == nil:
	case err == io.EOF:
		if x.state.CompareAndSwap(bodyOpen, bodyRead) {
			x.finish()
		}
	default:
		x.c.abort(err)
		x.up.abandon()
		x.unwatch()
		err = x.c.why()
		x.err = err
		x.state.CompareAndSwap(bodyOpen, bodyFailed)
	}
	return n, err
}

// Close breaks the connection, unless the whole body has been read.
func (x *directExchange) Close() error {
	if x.state.CompareAndSwap(bodyOpen, bodyClosed) {
		x.c.abort(http.ErrBodyReadAfterClose)
		x.up.abandon()
		x.unwatch()
	}
	return nil
}

// upgraded is the body of a response that switches protocols. The connection is
// its reader's now, and the request's context does not end it.
type upgraded struct{ c *directConn }

func (u *upgraded) Read(p []byte) (int, error) {
	if n := u.c.br.Buffered(); n > 0 {
		return u.c.br.Read(p[:min(n, len(p))])
	}
	return u.c.conn.Read(p)
}

func (u *upgraded) Write(p []byte) (int, error) { return u.c.conn.Write(p) }
func (u *upgraded) Close() error                { return u.c.conn.Close() }

// CloseWrite ends one direction, if the connection can.
func (u *upgraded) CloseWrite() error {
	if c, ok := u.c.conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return fmt.Errorf("sticky: CloseWrite: %w", errors.ErrUnsupported)
}

func switchesProtocol(res *http.Response) bool {
	return res.StatusCode == http.StatusSwitchingProtocols && res.Header.Get("Upgrade") != "" && hasToken(res.Header["Connection"], "upgrade")
}

// hasToken looks for one element of a list, in any case.
func hasToken(values []string, token string) bool {
	for _, v := range values {
		for v != "" {
			var element string
			element, v, _ = strings.Cut(v, ",")
			if strings.EqualFold(textproto.TrimString(element), token) {
				return true
			}
		}
	}
	return false
}
