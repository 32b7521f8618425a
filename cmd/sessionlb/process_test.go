package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/distsession/session/sticky"
)

// TestMain lets the test's own binary be the program.
func TestMain(m *testing.M) {
	if os.Getenv("BE_SESSIONLB") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// patience is for what must happen at some time; nothing is said about when.
const patience = 20 * time.Second

// process is sessionlb at work.
type process struct {
	t            *testing.T
	cmd          *exec.Cmd
	users, admin string // addresses
	out          *output
	err          *output
	ended        chan error
}

// output is what the process has written so far.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func start(t *testing.T, args ...string) *process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: exec.Command(exe, append([]string{"-listen", "127.0.0.1:0"}, args...)...), out: &output{}, err: &output{}, ended: make(chan error, 1)}
	p.cmd.Env = append(os.Environ(), "BE_SESSIONLB=1")
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.err
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.ended <- p.cmd.Wait() }()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		if t.Failed() {
			t.Logf("stderr:\n%s", p.err)
		}
	})
	p.users = p.find(`msg=listening address=(\S+)`)
	if strings.Contains(strings.Join(args, " "), "-admin") {
		p.admin = p.find(`admin page" url=(\S+)/-/status`)
	}
	return p
}

// find waits until the log has this, and returns its first group.
func (p *process) find(pattern string) string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	var found []string
	p.until("the log has "+pattern, func() bool {
		found = re.FindStringSubmatch(p.err.String())
		return found != nil
	})
	return found[len(found)-1]
}

func (p *process) until(what string, cond func() bool) {
	p.t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("never: %s; stderr:\n%s", what, p.err)
		}
	}
}

// stop ends it and returns its exit status.
func (p *process) stop(sig os.Signal) int {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
	return p.wait()
}

func (p *process) wait() int {
	p.t.Helper()
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		p.t.Fatalf("it does not end; stderr:\n%s", p.err)
		return -1
	}
}

// get asks with this header and returns the answer and its body.
func get(t *testing.T, c *http.Client, url string, header ...string) (*http.Response, string) {
	t.Helper()
	return send(t, c, "GET", url, "", header...)
}

func send(t *testing.T, c *http.Client, method, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	r.Host = r.Header.Get("Host")
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}

// once does not follow redirects.
var once = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

func node(t *testing.T, id string) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Upgrade") != "":
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer c.Close()
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			io.Copy(c, c)
		case r.URL.Path == "/slow":
			w.(http.Flusher).Flush()
			time.Sleep(300 * time.Millisecond)
			io.WriteString(w, id)
		default:
			io.WriteString(w, id)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func TestProcess(t *testing.T) {
	a, b := node(t, "a"), node(t, "b")
	dir := t.TempDir()
	config := filepath.Join(dir, "lb.json")
	write := func(drain string) {
		text := fmt.Sprintf(`{"settings": {"admin": "127.0.0.1:0", "health": "/", "health-interval": "200ms", "slow-start": "-1s", "access-log": "-", "close-over": "200ms"},
			"nodes": [{"id": "a", "url": %q, "drain": %q}, {"id": "b", "url": %q}]}`, a.URL, drain, b.URL)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	p := start(t, "-config", config, "-access-log-format", "json")
	p.admin = p.find(`admin page" url=(\S+)/-/status`)
	users := "http://" + p.users

	// A user stays.
	cookies := map[string]string{}
	p.until("both nodes have users", func() bool {
		res, id := get(t, once, users)
		cookies[id] = strings.SplitN(res.Header.Get("Set-Cookie"), ";", 2)[0]
		return len(cookies) == 2
	})
	for range 10 {
		if res, id := get(t, once, users, "Cookie", cookies["a"]); id != "a" || res.Header["Set-Cookie"] != nil {
			t.Fatalf("a user of a is on %s: %v", id, res.Header)
		}
	}

	// The file drains a node, a bad file changes nothing.
	write("move")
	p.until("a is drained", func() bool {
		_, id := get(t, once, users, "Cookie", cookies["a"])
		return id == "b"
	})
	if err := os.WriteFile(config, []byte(`{"nodes": [`), 0o600); err != nil {
		t.Fatal(err)
	}
	p.find("the old one stays")
	if _, id := get(t, once, users, "Cookie", cookies["a"]); id != "b" {
		t.Errorf("after a bad file: %s", id)
	}

	// So does the page, for its own forms alone.
	act := func(path, form string, header ...string) int {
		res, _ := send(t, once, "POST", p.admin+path, form, append([]string{"Content-Type", "application/x-www-form-urlencoded"}, header...)...)
		return res.StatusCode
	}
	if code := act("/-/resume", "id=a", "Sec-Fetch-Site", "cross-site"); code != 403 {
		t.Errorf("a form of another site: %d; want 403", code)
	}
	if code := act("/-/resume", "id=a", "Origin", "http://evil.example"); code != 403 {
		t.Errorf("from another origin: %d; want 403", code)
	}
	if code := act("/-/resume", "id=a", "Host", "evil.example"); code != 421 {
		t.Errorf("under another name: %d; want 421", code)
	}
	if res, _ := get(t, once, p.admin+"/-/resume?id=a"); res.StatusCode != 405 {
		t.Errorf("with GET: %d; want 405", res.StatusCode)
	}
	if _, id := get(t, once, users, "Cookie", cookies["a"]); id != "b" {
		t.Errorf("one of those has resumed a")
	}
	if code := act("/-/resume", "id=a", "Sec-Fetch-Site", "same-origin"); code != 303 {
		t.Errorf("resume: %d; want 303", code)
	}
	if _, id := get(t, once, users, "Cookie", cookies["a"]); id != "a" {
		t.Errorf("after resume: %s", id)
	}
	for form, want := range map[string]int{"id=z": 404, "id=a&mode=slowly": 400, "id=a&mode=keep+10m": 303} {
		if code := act("/-/drain", form); code != want {
			t.Errorf("drain %s: %d; want %d", form, code, want)
		}
	}
	res, text := get(t, once, p.admin+"/-/status", "Accept", "text/html,*/*;q=0.8")
	if ct := res.Header.Get("Content-Type"); ct != "text/html; charset=utf-8" || !strings.Contains(text, `class="text keeping"`) || !strings.Contains(text, "<button>resume") {
		t.Errorf("%s\n%s", ct, text)
	}
	if csp := res.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "frame-ancestors 'none'") {
		t.Errorf("the page can be framed: %q", csp)
	}
	res, text = get(t, once, p.admin+"/-/status")
	if ct := res.Header.Get("Content-Type"); ct != "application/json" || !strings.Contains(text, `"state": "keeping"`) {
		t.Errorf("%s\n%s", ct, text)
	}
	if _, text = get(t, once, p.admin+"/-/metrics"); !strings.Contains(text, `sticky_node_state{node="a",state="keeping"} 1`) {
		t.Errorf("metrics:\n%s", text)
	}
	if res, _ := get(t, once, users+"/-/status"); res.Header.Get("Content-Type") == "application/json" {
		t.Error("users can see the status")
	}
	act("/-/resume", "id=a")

	// SIGTERM ends what is in flight in good order.
	ws, err := net.Dial("tcp", p.users)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	ws.SetDeadline(time.Now().Add(patience))
	fmt.Fprint(ws, "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	upgraded := bufio.NewReader(ws)
	if res, err := http.ReadResponse(upgraded, nil); err != nil || res.StatusCode != 101 {
		t.Fatalf("%v, %v", res, err)
	}
	slow, err := once.Get(users + "/slow")
	if err != nil {
		t.Fatal(err)
	}
	if code := p.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("exit status %d; want 0", code)
	}
	if body, err := io.ReadAll(slow.Body); err != nil || string(body) != "a" && string(body) != "b" {
		t.Errorf("the request in flight: %q, %v", body, err)
	}
	if _, err := upgraded.ReadByte(); err == nil {
		t.Error("the upgraded connection is open")
	}

	log := p.out.String()
	for _, want := range []string{`"status":101,`, `"node":"a"`, `"client":"127.0.0.1"`, `"moved":true`, `"uri":"/slow"`} {
		if !strings.Contains(log, want) {
			t.Errorf("the access log does not have %s:\n%.2000s", want, log)
		}
	}
	if strings.Contains(log, cookies["a"]) || strings.Contains(log, "affinity") {
		t.Error("a cookie is in the access log")
	}
}

// The flags that say how nodes are reached hold for DirectTransport too.
func TestDirect(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hangs" {
			<-r.Context().Done()
		}
		io.WriteString(w, "ok")
	}))
	t.Cleanup(app.Close)
	args := []string{"-direct", "-node", "a=" + app.URL, "-header-timeout", "200ms"}
	s, err := readSettings(args, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := s.options.Transport.(*sticky.DirectTransport); !ok {
		t.Errorf("the transport is a %T", s.options.Transport)
	}
	p := start(t, args...)
	if _, body := get(t, once, "http://"+p.users); body != "ok" {
		t.Errorf("%q", body)
	}
	if res, _ := get(t, once, "http://"+p.users+"/hangs"); res.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("a node that hangs: %d; want 504", res.StatusCode)
	}
	if code := p.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

func TestGraceEnds(t *testing.T) {
	stop := make(chan struct{})
	stuck := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		select {
		case <-stop:
		case <-r.Context().Done():
		}
	}))
	defer stuck.Close()
	defer close(stop)
	p := start(t, "-node", "a="+stuck.URL, "-grace", "300ms")
	res, err := once.Get("http://" + p.users)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if code := p.stop(syscall.SIGTERM); code != 1 {
		t.Errorf("exit status %d; want 1", code)
	}
	if _, err := io.ReadAll(res.Body); err == nil {
		t.Error("what was cut looks like a whole answer")
	}
}

func TestTLS(t *testing.T) {
	a := node(t, "a")
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	first := writeCertificate(t, cert, key)
	p := start(t, "-node", "a="+a.URL, "-tls-cert", cert, "-tls-key", key)
	url := "https://" + p.users
	res, body := get(t, clientFor(first), url)
	if body != "a" || res.ProtoMajor != 2 || !strings.HasPrefix(res.Header.Get("Set-Cookie"), "__Host-affinity=") {
		t.Errorf("%s %s %v", res.Proto, body, res.Header)
	}
	second := writeCertificate(t, cert, key)
	p.until("the new certificate is used", func() bool {
		res, err := clientFor(second).Get(url)
		if err != nil {
			return false
		}
		res.Body.Close()
		return true
	})
	// A client that talks plain HTTP is told so, and changes nothing.
	if res, _ := get(t, once, "http://"+p.users); res.StatusCode != 400 {
		t.Errorf("plain HTTP: %d; want 400", res.StatusCode)
	}
	if code := p.stop(os.Interrupt); code != 0 {
		t.Errorf("exit status %d; want 0", code)
	}
}

func TestBadSettings(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("SHORT_KEY", "aHVudGVyMg==")
	t.Setenv("BAD_KEY", "hunter2!")
	const n = "a=http://127.0.0.1:1"
	for _, tt := range []struct {
		why  string
		args []string
		says string
	}{
		{"no node", nil, "no node"},
		{"an unknown flag", []string{"-wieght"}, "wieght"},
		{"an argument", []string{"-node", n, "x"}, `"x"`},
		{"a node without an ID", []string{"-node", "http"}, "id=url"},
		{"a node's bad URL", []string{"-node", "a=ftp://h"}, "http or https"},
		{"affinity", []string{"-node", n, "-affinity", "luck"}, "-affinity"},
		{"same site", []string{"-node", n, "-cookie-samesite", "x"}, "-cookie-samesite"},
		{"trusted", []string{"-node", n, "-trusted", "10.0.0.1"}, "10.0.0.0/8"},
		{"half of TLS", []string{"-node", n, "-tls-cert", "x"}, "go together"},
		{"no certificate", []string{"-node", n, "-tls-cert", dir + "/x", "-tls-key", dir + "/y"}, "no such file"},
		{"the format", []string{"-node", n, "-access-log-format", "x"}, "combined"},
		{"the keys themselves", []string{"-node", n, "-keys", "hunter2"}, "env:NAME"},
		{"a short key", []string{"-node", n, "-keys", "env:SHORT_KEY"}, "32"},
		{"no base64", []string{"-node", n, "-keys", "env:BAD_KEY"}, "base64"},
		{"an empty key", []string{"-node", n, "-keys", "env:NO_KEY_AT_ALL"}, "empty"},
		{"keys that everybody reads", []string{"-node", n, "-keys", "file:" + file("keys", "hunter2", 0o644)}, "chmod"},
		{"a port that is taken", []string{"-node", n, "-listen", node(t, "x").Listener.Addr().String()}, "-listen"},
		{"no file", []string{"-config", dir + "/none"}, "no such file"},
		{"a bad file", []string{"-config", file("bad", `{"nodes":[`, 0o600)}, "bad: "},
		{"a setting that there is not", []string{"-config", file("typo", `{"settings":{"lisen":":1"},"nodes":[]}`, 0o600)}, `"lisen"`},
		{"a setting of another type", []string{"-config", file("type", `{"settings":{"grace":["x"]},"nodes":[]}`, 0o600)}, `"grace"`},
		{"a setting's bad value", []string{"-config", file("value", `{"settings":{"grace":"x"},"nodes":[]}`, 0o600)}, `"grace"`},
		{"nodes twice", []string{"-node", n, "-config", file("good", `{"nodes":[]}`, 0o600)}, "into the file"},
	} {
		var stderr bytes.Buffer
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // what starts by mistake stops at once
		args := append([]string{"-listen", "127.0.0.1:0"}, tt.args...)
		if code := run(ctx, args, io.Discard, &stderr); code != 2 || !strings.Contains(stderr.String(), tt.says) || strings.Contains(stderr.String(), "hunter2") {
			t.Errorf("%s: exit status %d, %s; want 2 and %q", tt.why, code, stderr.String(), tt.says)
		}
	}
}
