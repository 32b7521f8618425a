package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/distsession/session/sticky"
)

// settings are the flags.
type settings struct {
	config            string
	listen, admin     string
	adminHosts        string
	tlsCert, tlsKey   string
	direct            bool
	affinity          string
	keys              string
	sameSite          string
	trusted           string
	accessLog, format string
	maxHeader         int
	grace             time.Duration
	logLevel          slog.Level

	nodes   []sticky.Node // of -node
	options sticky.Options
	file    *sticky.Config // nil without -config
}

func (s *settings) flags() *flag.FlagSet {
	f := flag.NewFlagSet("sessionlb", flag.ContinueOnError)
	o := &s.options
	f.StringVar(&s.config, "config", "", "JSON `file` with nodes and settings; its nodes are read again when it changes")
	f.Func("node", "a node as `id=url`; may be given several times, and not with -config", s.addNode)
	f.StringVar(&s.listen, "listen", ":8080", "`address` for the users")
	f.StringVar(&s.admin, "admin", "", "`address` of the status page and the metrics, such as 127.0.0.1:9090; none if empty")
	f.StringVar(&s.adminHosts, "admin-hosts", "", "further `names` that the admin address is called by, separated by commas")
	f.StringVar(&s.tlsCert, "tls-cert", "", "PEM `file` with the certificate and its chain; with it, -listen takes TLS alone")
	f.StringVar(&s.tlsKey, "tls-key", "", "PEM `file` with the certificate's private key")
	f.StringVar(&s.affinity, "affinity", "cookie", "what pins a user: cookie, ip, or header:`Name`")
	f.StringVar(&s.keys, "keys", "", "keys of the affinity cookie, as env:NAME or file:PATH: base64 of 32 bytes or more each, the newest first")
	f.StringVar(&o.Cookie.Name, "cookie-name", "", "`name` of the affinity cookie, without __Host- (default affinity)")
	f.BoolVar(&o.Cookie.Secure, "cookie-secure", false, "set the cookie for TLS, though TLS is ended in front")
	f.DurationVar(&o.Cookie.MaxAge, "cookie-max-age", 0, "how long browsers keep it (default until they close)")
	f.StringVar(&s.sameSite, "cookie-samesite", "lax", "lax, strict or none")
	f.BoolVar(&o.Cookie.Partitioned, "cookie-partitioned", false, "one cookie for each embedding site")
	f.StringVar(&s.trusted, "trusted", "", "`prefixes` of the proxies in front, such as 10.0.0.0/8, separated by commas")
	f.IntVar(&o.TrustedHops, "trusted-hops", 0, "how many proxies stand in front")
	f.StringVar(&o.Health.Path, "health", "", "`path` that is fetched to check a node; if empty, connecting is enough")
	f.StringVar(&o.Health.Host, "health-host", "", "Host of the check (default the node's)")
	f.DurationVar(&o.Health.Interval, "health-interval", time.Second, "time between checks; negative: none")
	f.DurationVar(&o.Health.Timeout, "health-timeout", time.Second, "how long a check may take")
	f.IntVar(&o.Health.Fall, "health-fall", 2, "failures in a row that take a node out")
	f.IntVar(&o.Health.Rise, "health-rise", 2, "successes in a row that bring it back")
	f.IntVar(&o.Health.Fails, "health-fails", 3, "requests without an answer that take a node out, within -health-window")
	f.DurationVar(&o.Health.Window, "health-window", 10*time.Second, "for -health-fails")
	f.DurationVar(&o.Health.SlowStart, "slow-start", 10*time.Second, "how long a node that comes back takes to get all its users; negative: none")
	f.BoolVar(&o.Health.Strict, "strict", false, "answer 503 when every node is down, rather than try them")
	f.IntVar(&o.MaxInFlight, "max-in-flight", 0, "requests that a node may have; 0: no limit")
	f.IntVar(&o.Retry.Attempts, "attempts", 3, "nodes that may get a request, one after the other")
	f.Float64Var(&o.Retry.Budget, "retry-budget", 0.1, "requests that may be sent again, as a part of all; negative: none")
	f.IntVar(&o.Retry.MaxBody, "retry-max-body", 64<<10, "bytes of a body with an Idempotency-Key that are kept; negative: none")
	f.BoolVar(&o.Retry.NoIdempotencyKey, "no-idempotency-key", false, "send nothing again because of its Idempotency-Key")
	f.Float64Var(&o.Rebalance, "rebalance", 0, "users a second that may move from nodes with more than their share")
	f.DurationVar(&o.DialTimeout, "dial-timeout", 2*time.Second, "how long connecting to a node may take")
	f.DurationVar(&o.HeaderTimeout, "header-timeout", 30*time.Second, "how long a node may take to begin its answer; negative: for ever")
	f.DurationVar(&o.IdleTimeout, "idle-timeout", 30*time.Second, "how long an unused connection to a node is kept; shorter than the node keeps it")
	f.BoolVar(&s.direct, "direct", false, "reach the nodes by sticky.DirectTransport rather than http.Transport: less CPU a request")
	f.DurationVar(&o.CloseOver, "close-over", 5*time.Second, "time over which upgraded connections are closed; negative: at once")
	f.DurationVar(&s.grace, "grace", 30*time.Second, "how long stopping may take")
	f.IntVar(&s.maxHeader, "max-header", 64<<10, "bytes that a request's head may have")
	f.StringVar(&s.accessLog, "access-log", "", "`file` for one line a request, - for standard output; none if empty")
	f.StringVar(&s.format, "access-log-format", "json", "json or combined")
	f.TextVar(&s.logLevel, "log-level", slog.LevelInfo, "debug, info, warn or error")
	return f
}

// readSettings reads the command line, and the file that it names.
func readSettings(args []string, stderr io.Writer) (*settings, error) {
	s := &settings{}
	f := s.flags()
	f.SetOutput(stderr)
	if err := f.Parse(args); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			err = errors.New("see sessionlb -help") // the flag set has said what is wrong
		}
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("%q is no flag", f.Arg(0))
	}
	if s.config != "" {
		if len(s.nodes) > 0 {
			return nil, errors.New("-node and -config: put the nodes into the file")
		}
		text, err := os.ReadFile(s.config)
		if err != nil {
			return nil, err
		}
		if s.file, err = sticky.ParseConfig(text); err != nil {
			return nil, fmt.Errorf("%s: %w", s.config, err)
		}
		if err := setFromFile(f, s.file.Settings); err != nil {
			return nil, fmt.Errorf("%s: settings: %w", s.config, err)
		}
		if s.nodes, err = s.file.NodeList(); err != nil {
			return nil, err
		}
	} else if len(s.nodes) == 0 {
		return nil, errors.New("there is no node; give -node id=url, or -config")
	}
	return s, s.complete()
}

// setFromFile sets the flags that the command line has not set.
func setFromFile(f *flag.FlagSet, text json.RawMessage) error {
	if len(text) == 0 {
		return nil
	}
	var values map[string]any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&values); err != nil {
		return err
	}
	given := map[string]bool{}
	f.Visit(func(fl *flag.Flag) { given[fl.Name] = true })
	for name, v := range values {
		switch v.(type) {
		case string, json.Number, bool:
		default:
			return fmt.Errorf("%q takes a string, a number or a boolean", name)
		}
		if f.Lookup(name) == nil || name == "config" || name == "node" {
			return fmt.Errorf("there is no setting %q", name)
		}
		if given[name] {
			continue
		}
		if err := f.Set(name, fmt.Sprint(v)); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
	}
	return nil
}

func (s *settings) addNode(v string) error {
	id, raw, ok := strings.Cut(v, "=")
	if !ok {
		return errors.New("write id=url")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return errors.New("the URL cannot be read")
	}
	s.nodes = append(s.nodes, sticky.Node{ID: id, URL: u})
	return nil
}

// complete turns what is text into options.
func (s *settings) complete() (err error) {
	o := &s.options
	switch name, isHeader := strings.CutPrefix(s.affinity, "header:"); {
	case s.affinity == "cookie":
		o.By = sticky.ByCookie()
	case s.affinity == "ip":
		o.By = sticky.ByIP()
	case isHeader && name != "":
		o.By = sticky.ByKey(func(r *http.Request) string { return r.Header.Get(name) })
	default:
		return fmt.Errorf("-affinity is %q; it is cookie, ip or header:Name", s.affinity)
	}
	sites := map[string]http.SameSite{"lax": http.SameSiteLaxMode, "strict": http.SameSiteStrictMode, "none": http.SameSiteNoneMode}
	if o.Cookie.SameSite = sites[s.sameSite]; o.Cookie.SameSite == 0 {
		return fmt.Errorf("-cookie-samesite is %q; it is lax, strict or none", s.sameSite)
	}
	for _, p := range split(s.trusted) {
		prefix, err := netip.ParsePrefix(p)
		if err != nil {
			return fmt.Errorf("-trusted: %q is no prefix; write 10.0.0.0/8", p)
		}
		o.Trusted = append(o.Trusted, prefix)
	}
	switch {
	case (s.tlsCert == "") != (s.tlsKey == ""):
		return errors.New("-tls-cert and -tls-key go together")
	case s.format != "json" && s.format != "combined":
		return fmt.Errorf("-access-log-format is %q; it is json or combined", s.format)
	case s.maxHeader < 1024 || s.maxHeader > 16<<20:
		return fmt.Errorf("-max-header is %d; give 1024 to 16777216", s.maxHeader)
	case s.grace <= 0:
		return errors.New("-grace is not positive")
	}
	if s.direct {
		o.Transport = sticky.NewDirectTransport(&sticky.DirectOptions{DialTimeout: o.DialTimeout, HeaderTimeout: o.HeaderTimeout, IdleTimeout: o.IdleTimeout})
	}
	if s.keys != "" {
		if o.Keys, err = readKeys(s.keys); err != nil {
			return fmt.Errorf("-keys: %w", err)
		}
	}
	return nil
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(c rune) bool { return c == ',' || c == ' ' })
}

// readKeys reads what env:NAME or file:PATH names. Its errors never show what is
// there.
func readKeys(ref string) ([][]byte, error) {
	kind, name, _ := strings.Cut(ref, ":")
	var text string
	switch {
	case kind == "env" && name != "":
		text = os.Getenv(name)
	case kind == "file" && name != "":
		fi, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		if fi.Mode().Perm()&0o006 != 0 {
			return nil, fmt.Errorf("everybody can read or write %s; chmod it to 600", name)
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		text = string(b)
	default:
		return nil, errors.New("write env:NAME or file:PATH, not the keys themselves")
	}
	var keys [][]byte
	for i, field := range strings.FieldsFunc(text, func(c rune) bool { return strings.ContainsRune(", \t\r\n", c) }) {
		field = strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(field), "=")
		key, err := base64.RawStdEncoding.DecodeString(field)
		if err != nil {
			return nil, fmt.Errorf("key %d is not base64; make one with: openssl rand -base64 32", i+1)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s is empty", ref)
	}
	return keys, nil
}
