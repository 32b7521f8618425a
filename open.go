package session

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// An Opener makes a store from a URL. It reads the parameters with Params, so
// that an unknown one is an error.
type Opener func(ctx context.Context, u *url.URL) (Store, error)

var openers = struct {
	sync.RWMutex
	m map[string]Opener
}{m: map[string]Opener{}}

// Register makes Open use open for URLs of this scheme. A backend calls it
// from init. It panics if the scheme is taken.
func Register(scheme string, open Opener) {
	openers.Lock()
	defer openers.Unlock()
	scheme = strings.ToLower(scheme)
	if _, taken := openers.m[scheme]; taken || scheme == "" || open == nil {
		panic(fmt.Sprintf("session: Register(%q): empty, nil or registered already", scheme))
	}
	openers.m[scheme] = open
}

// Schemes returns the registered schemes in order.
func Schemes() []string {
	openers.RLock()
	defer openers.RUnlock()
	return slices.Sorted(maps.Keys(openers.m))
}

// Open makes the store that rawURL describes, such as "memory:" or
// "redis://localhost:6379". What it makes, Close ends.
//
// A URL that cannot be used is ErrConfig with the mend in the message. No
// error shows a password: secrets are named as "env:NAME" or "file:PATH".
func Open(ctx context.Context, rawURL string) (Store, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		// url.Error carries the URL, and with it a password.
		return nil, configError("the store's URL cannot be parsed; write it as scheme://host/…?name=value, with special characters escaped")
	}
	if strings.Contains(rawURL, "#") {
		// It would cut the rest off: a host, or the end of a password.
		return nil, configError("the store's URL has a # in it; escape special characters (@ is %%40, / is %%2F, ? is %%3F, # is %%23)")
	}
	openers.RLock()
	open := openers.m[strings.ToLower(u.Scheme)]
	openers.RUnlock()
	if open == nil {
		return nil, configError("the store's scheme %q is not known; this program has %s (a backend module adds its own when it is imported)",
			u.Scheme, strings.Join(Schemes(), ", "))
	}
	return open(ctx, u)
}

// openInner opens the store that a parameter of another store's URL names; nil
// if it is not there.
func openInner(ctx context.Context, scheme, param, rawURL string) (Store, error) {
	if rawURL == "" {
		return nil, nil
	}
	s, err := Open(ctx, rawURL)
	if err != nil {
		return nil, fmt.Errorf("session: %s: %s: %w", scheme, param, err)
	}
	return s, nil
}

// onlyParams refuses a host or path where there are only parameters, and a
// store's URL in one of them that was not escaped.
func onlyParams(u *url.URL, inner ...string) error {
	if u.Host != "" || u.Path != "" || u.Opaque != "" || u.User != nil || u.Fragment != "" {
		return configError("%s: takes only parameters; write %s:?name=value&name=value, with special characters escaped", u.Scheme, u.Scheme)
	}
	// A password with & in a URL that nobody escaped falls apart, and its end
	// would be repeated as a parameter that is not known.
	for _, name := range inner {
		_, after, _ := strings.Cut("&"+u.RawQuery, "&"+name+"=")
		value, rest, _ := strings.Cut(after, "&")
		if strings.Contains(value, "://") && !strings.Contains(value, "@") && strings.Contains(rest, "@") {
			return configError("%s: %s cannot be read; escape the special characters of its URL (& is %%26, @ is %%40)", u.Scheme, name)
		}
	}
	return nil
}

func configError(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrConfig}, args...)...)
}

// Params reads the parameters of a store's URL. Every method names one that is
// known; Err then reports those that are not, and the first value that could
// not be read.
type Params struct {
	scheme string
	values url.Values
	known  []string
	err    error
}

// NewParams reads the query of u.
func NewParams(u *url.URL) *Params {
	p := &Params{scheme: u.Scheme}
	var err error
	if p.values, err = url.ParseQuery(u.RawQuery); err != nil {
		p.err = configError("%s: the parameters cannot be parsed; write them as ?name=value&name=value, with special characters escaped", u.Scheme)
	}
	return p
}

// All returns every value of a parameter that may be repeated.
func (p *Params) All(name string) []string {
	p.known = append(p.known, name)
	return p.values[name]
}

// String returns a parameter's value, or def if it is not there.
func (p *Params) String(name, def string) string {
	v := p.All(name)
	switch {
	case len(v) == 0:
		return def
	case len(v) > 1:
		p.fail("%s: parameter %s stands there %d times; keep one", p.scheme, name, len(v))
	}
	return v[0]
}

// Bool returns a parameter that is true or false.
func (p *Params) Bool(name string) bool {
	s := p.String(name, "false")
	v, err := strconv.ParseBool(s)
	if err != nil {
		p.fail("%s: parameter %s is %q; it takes true or false", p.scheme, name, s)
	}
	return v
}

// Int returns a parameter that is a whole number of at least 0.
func (p *Params) Int(name string, def int) int {
	s := p.String(name, strconv.Itoa(def))
	v, err := strconv.Atoi(s)
	if err != nil || v < 0 {
		p.fail("%s: parameter %s is %q; it takes a whole number of at least 0", p.scheme, name, s)
	}
	return v
}

// Duration returns a parameter such as "500ms" or "12h", of at least 0.
func (p *Params) Duration(name string, def time.Duration) time.Duration {
	s := p.String(name, def.String())
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		p.fail("%s: parameter %s is %q; it takes a duration such as 500ms or 12h", p.scheme, name, s)
	}
	return v
}

// Secret returns the bytes of the secret that a parameter names as env:NAME or
// file:PATH, without the white space around them; nil if it is not there.
func (p *Params) Secret(name string) []byte {
	ref := p.String(name, "")
	if ref == "" {
		return nil
	}
	b, err := readSecret(ref)
	if err != nil {
		p.fail("%s: parameter %s: %v", p.scheme, name, err)
	}
	return b
}

// TLS returns the configuration that the parameters ca (a file with the
// authorities to trust, instead of the system's), cert and key (files with the
// client's certificate and its key) and server_name describe.
func (p *Params) TLS() *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: p.String("server_name", "")}
	if file := p.String("ca", ""); file != "" {
		text, err := os.ReadFile(file)
		c.RootCAs = x509.NewCertPool()
		switch {
		case err != nil:
			p.fail("%s: parameter ca: the file cannot be read: %w", p.scheme, err)
		case !c.RootCAs.AppendCertsFromPEM(text):
			p.fail("%s: parameter ca: the file holds no certificate in PEM", p.scheme)
		}
	}
	cert, key := p.String("cert", ""), p.String("key", "")
	if cert == "" && key == "" {
		return c
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		p.fail("%s: parameters cert and key: a certificate and its key, both as files in PEM: %w", p.scheme, err)
	}
	c.Certificates = []tls.Certificate{pair}
	return c
}

// Fail records that a parameter cannot be used; the first failure counts.
func (p *Params) fail(format string, args ...any) {
	if p.err == nil {
		p.err = configError(format, args...)
	}
}

// Err is ErrConfig if a parameter is unknown or could not be read. Call it
// after every parameter has been asked for.
func (p *Params) Err() error {
	if p.err != nil {
		return p.err
	}
	slices.Sort(p.known)
	for _, name := range slices.Sorted(maps.Keys(p.values)) {
		if _, ok := slices.BinarySearch(p.known, name); ok {
			continue
		}
		known := "none"
		if len(p.known) > 0 {
			known = strings.Join(p.known, ", ")
		}
		return configError("%s: parameter %q is not known; known: %s", p.scheme, name, known)
	}
	return nil
}
