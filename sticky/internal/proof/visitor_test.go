package proof

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// visitor is a browser: an address of its own, and cookies. It keeps no
// connection, so that the client's own replays on one that broke hide nothing.
// It takes Secure cookies over plain http, as if TLS ended in front of the
// balancer.
type visitor struct {
	client *http.Client

	mu      sync.Mutex
	cookies map[string]string
}

// patience is how long a visitor waits for an answer.
const patience = 20 * time.Second

// newVisitor comes from 127.x.y.1, other x and y for each number: nginx' ip_hash
// looks at the first three bytes alone.
func newVisitor(number int) *visitor {
	from := &net.TCPAddr{IP: net.IPv4(127, byte(1+number>>8), byte(number), 1)}
	return &visitor{
		client:  &http.Client{Timeout: patience, Transport: &http.Transport{DialContext: dialFrom(from), DisableKeepAlives: true}},
		cookies: map[string]string{},
	}
}

// dialFrom uses the address where the other end has one of its family; there is
// one ::1 only.
func dialFrom(from net.Addr) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		d := net.Dialer{LocalAddr: from}
		if addr[0] == '[' {
			d.LocalAddr = nil
		}
		return d.DialContext(ctx, network, addr)
	}
}

// response is what a visitor was answered.
type response struct {
	status  int
	node    string // that answered
	numbers numbers
}

// do makes one request, and keeps the cookies of the answer.
func (v *visitor) do(method, url string, header http.Header) (*response, error) {
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		return nil, err
	}
	for name, lines := range header {
		req.Header[name] = lines
	}
	v.mu.Lock()
	for name, value := range v.cookies {
		req.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	v.mu.Unlock()
	res, err := v.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	for _, c := range res.Cookies() {
		if c.MaxAge < 0 {
			delete(v.cookies, c.Name)
		} else {
			v.cookies[c.Name] = c.Value
		}
	}
	v.mu.Unlock()
	r := &response{status: res.StatusCode, node: res.Header.Get("X-Node")}
	if res.Header.Get("Content-Type") == "application/json" {
		if err := json.Unmarshal(body, &r.numbers); err != nil {
			return nil, fmt.Errorf("the answer %q: %w", body, err)
		}
	}
	return r, nil
}

func (v *visitor) cookie(name string) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.cookies[name]
}

// keep sets a cookie; "" drops it.
func (v *visitor) keep(name, value string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if value == "" {
		delete(v.cookies, name)
	} else {
		v.cookies[name] = value
	}
}
