// Proxies measures what a reverse proxy costs in front of three nodes: net/http's
// as one gets it and tuned, this library's balancer with either transport, HAProxy
// and nginx. Each runs as a process of its own, all in one run, in turns; wrk has 32
// connections and asks for 1 KB.
//
//	go run ./proxies                  five rounds of three seconds each
//	go run ./proxies -short           to see that it runs, in a quarter of a minute
//	go run ./proxies -profile DIR     with a CPU profile of each proxy in Go
//
// Requests per second are given as a ratio to those without a proxy, measured just
// before, since the three share the machine's cores; CPU is the proxy's own.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/distsession/session/bench/load"
)

func main() {
	log.SetFlags(0)
	rounds := flag.Int("rounds", 5, "turns; the median of them counts")
	each := flag.Int("each", 3, "seconds of a turn")
	short := flag.Bool("short", false, "one round of a second each")
	profile := flag.String("profile", "", "a folder for CPU profiles of the proxies in Go")
	serve := flag.String("serve", "", "be the nodes or a proxy (used by this program itself)")
	nodes := flag.String("nodes", "", "the nodes behind the proxy (used by this program itself)")
	flag.Parse()
	if *serve != "" {
		if err := server(*serve, strings.Fields(*nodes), *profile); err != nil {
			log.Fatal(err)
		}
		return
	}
	if err := load.Found(); err != nil {
		log.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "proxies")
	if err != nil {
		log.Fatal(err)
	}
	b := bench{dir: dir, rounds: *rounds, seconds: *each, direct: *each, profile: *profile}
	if *short {
		b.rounds, b.seconds, b.direct = 1, 1, 0
	}
	err = b.run()
	for _, p := range b.started {
		p.stop()
	}
	os.RemoveAll(dir)
	if err != nil {
		log.Fatal(err)
	}
}

type bench struct {
	rounds, seconds int
	direct          int // seconds without a proxy, before each turn; 0: once a round
	profile         string
	nodes           []string // URLs
	started         []*process
	dir             string
}

// subject is one way to the nodes.
type subject struct {
	name    string
	pinned  bool // by a cookie that the first answer sets
	process *process
	url     string
	header  string

	ratio, cost []float64 // of each round: to direct; µs of CPU a request
}

// The names are also what server understands.
const (
	bare          = "ReverseProxy, bare"
	tuned         = "ReverseProxy, tuned"
	stickyIP      = "sticky, by IP"
	stickyCookie  = "sticky, by cookie"
	directIP      = "sticky, by IP, DirectTransport"
	directCookie  = "sticky, by cookie, DirectTransport"
	haproxyCookie = "HAProxy, cookie insert"
	nginxIP       = "nginx, ip_hash, keepalive"
)

func (b *bench) run() error {
	app, out, err := b.self("nodes")
	if err != nil {
		return err
	}
	for range nodesOf {
		line, err := out.ReadString('\n')
		if err != nil {
			return fmt.Errorf("the nodes do not start: %w", err)
		}
		b.nodes = append(b.nodes, strings.TrimSpace(line))
	}
	subjects, err := b.start()
	if err != nil {
		return err
	}
	for _, s := range subjects {
		if err := s.prepare(); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	var alone, nodeCost []float64
	base := func(seconds int) error {
		n, perSecond, cost, err := measure(app, b.nodes[0], cookie(""), seconds)
		if err != nil || n == 0 {
			return fmt.Errorf("direct: %w", err)
		}
		alone, nodeCost = append(alone, perSecond), append(nodeCost, cost)
		return nil
	}
	for round := range b.rounds {
		if b.direct == 0 {
			if err := base(b.seconds); err != nil {
				return err
			}
		}
		for i := range subjects {
			s := subjects[(i+round)%len(subjects)] // nobody always follows the same one
			if b.direct > 0 {
				if err := base(b.direct); err != nil {
					return err
				}
			}
			_, perSecond, cost, err := measure(s.process, s.url, s.header, b.seconds)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			s.ratio = append(s.ratio, perSecond/alone[len(alone)-1])
			s.cost = append(s.cost, cost)
		}
	}
	report(subjects, alone, nodeCost)
	return nil
}

// start starts every proxy that there is.
func (b *bench) start() ([]*subject, error) {
	var subjects []*subject
	for _, name := range []string{bare, tuned, stickyIP, stickyCookie, directIP, directCookie} {
		p, out, err := b.self(name)
		if err != nil {
			return nil, err
		}
		line, err := out.ReadString('\n')
		if err != nil {
			return nil, fmt.Errorf("%s does not start: %w", name, err)
		}
		subjects = append(subjects, &subject{name: name, process: p, url: strings.TrimSpace(line), pinned: name == stickyCookie || name == directCookie})
	}
	for _, other := range []struct {
		name, program string
		pinned        bool
		config        func(dir, addr string, nodes []string) (args []string, err error)
	}{
		{haproxyCookie, "haproxy", true, haproxy},
		{nginxIP, "nginx", false, nginx},
	} {
		path, err := exec.LookPath(other.program)
		if err != nil {
			log.Printf("%s is not installed: without its row", other.program)
			continue
		}
		addr, err := freeAddr()
		if err != nil {
			return nil, err
		}
		args, err := other.config(b.dir, addr, b.nodes)
		if err != nil {
			return nil, err
		}
		p, _, err := b.process(path, args)
		if err != nil {
			return nil, err
		}
		subjects = append(subjects, &subject{name: other.name, process: p, url: "http://" + addr, pinned: other.pinned})
	}
	return subjects, nil
}

// prepare waits for the proxy, makes sure that the node's answer comes through
// it, fetches the cookie of those that pin by one, and warms up.
func (s *subject) prepare() error {
	var res *http.Response
	var err error
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		res, err = http.Get(s.url)
		if err == nil && res.StatusCode == http.StatusOK {
			break
		}
		if err == nil {
			res.Body.Close()
			err = errors.New(res.Status)
		}
		if time.Now().After(end) {
			return err
		}
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || len(body) != len(answer) {
		return fmt.Errorf("%d bytes: %w", len(body), err)
	}
	pin := ""
	for _, c := range res.Cookies() {
		pin = c.Name + "=" + c.Value
	}
	if (pin != "") != s.pinned {
		return fmt.Errorf("cookie %q", pin)
	}
	s.header = cookie(pin)
	_, _, err = load.Wrk(s.url, 1, "-H", s.header)
	return err
}

// cookie is the header of a client with a session, and one more cookie.
func cookie(pin string) string {
	if pin != "" {
		pin = "; " + pin
	}
	return "Cookie: session=mVv0s7yfjG3iS0pS8m3bQe1kD2sYb6h1xw0nJq9TzLc" + pin
}

// measure returns requests, requests per second, and the µs of the process's CPU
// that each took.
func measure(p *process, url, header string, seconds int) (requests int, perSecond, cost float64, err error) {
	before, err := load.CPU(p.cmd.Process.Pid)
	if err != nil {
		return 0, 0, 0, err
	}
	requests, perSecond, err = load.Wrk(url, seconds, "-H", header)
	if err != nil {
		return 0, 0, 0, err
	}
	after, err := load.CPU(p.cmd.Process.Pid)
	return requests, perSecond, float64((after - before).Microseconds()) / float64(requests), err
}

// process is a server that this program started.
type process struct{ cmd *exec.Cmd }

// self starts this program again, as the nodes or as a proxy in Go.
func (b *bench) self(name string) (*process, *bufio.Reader, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	args := []string{"-serve", name, "-nodes", strings.Join(b.nodes, " ")}
	if b.profile != "" {
		args = append(args, "-profile", b.profile)
	}
	return b.process(program, args)
}

func (b *bench) process(program string, args []string) (*process, *bufio.Reader, error) {
	cmd := exec.Command(program, args...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", filepath.Base(program), err)
	}
	p := &process{cmd}
	b.started = append(b.started, p)
	return p, bufio.NewReader(out), nil
}

func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	p.cmd.Wait()
}

func report(subjects []*subject, alone, nodeCost []float64) {
	fmt.Printf("Without a proxy: %.0f requests a second (%.0f to %.0f), %.1f µs of the node's CPU each.\n\n",
		median(alone), slices.Min(alone), slices.Max(alone), median(nodeCost))
	fmt.Println("| proxy | requests a second ÷ direct | ÷ bare ReverseProxy | proxy's CPU a request | ÷ HAProxy |\n|---|---:|---:|---:|---:|")
	by := map[string]*subject{}
	for _, s := range subjects {
		by[s.name] = s
	}
	times := func(a, b *subject, of func(*subject) []float64) float64 {
		if a == nil || b == nil {
			return 0
		}
		return median(of(a)) / median(of(b))
	}
	faster := func(s *subject) float64 { return times(s, by[bare], func(s *subject) []float64 { return s.ratio }) }
	dearer := func(s *subject) float64 {
		return times(s, by[haproxyCookie], func(s *subject) []float64 { return s.cost })
	}
	for _, s := range subjects {
		fmt.Printf("| %s | %s | %.2f | %s µs | %s |\n", s.name, spread("%.3f", s.ratio), faster(s), spread("%.1f", s.cost), orNone(dearer(s)))
	}
	fmt.Println("\n| goal | wanted | by IP | by cookie |\n|---|---:|---:|---:|")
	for _, goal := range []struct {
		what       string
		wanted     string
		of         func(*subject) float64
		ip, cookie *subject
	}{
		{"requests a second ÷ bare ReverseProxy", "≥ 2.0", faster, by[stickyIP], by[stickyCookie]},
		{"CPU a request ÷ HAProxy", "≤ 2.6", dearer, by[stickyIP], by[stickyCookie]},
		{"DirectTransport: requests a second ÷ bare ReverseProxy", "≥ 2.8", faster, by[directIP], by[directCookie]},
		{"DirectTransport: CPU a request ÷ HAProxy", "≤ 1.9", dearer, by[directIP], by[directCookie]},
	} {
		fmt.Printf("| %s | %s | %s | %s |\n", goal.what, goal.wanted, orNone(goal.of(goal.ip)), orNone(goal.of(goal.cookie)))
	}
}

// orNone is for what could not be compared.
func orNone(v float64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", v)
}

func median(v []float64) float64 { return slices.Sorted(slices.Values(v))[len(v)/2] }

func spread(format string, v []float64) string {
	if len(v) == 1 {
		return fmt.Sprintf(format, v[0])
	}
	return fmt.Sprintf(format+" ("+format+" to "+format+")", median(v), slices.Min(v), slices.Max(v))
}
