package main

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/distsession/session/sticky"
)

// nodesOf is how many nodes there are. They are one process, and one of them
// has all the load: wrk is one user.
const nodesOf = 3

var answer = bytes.Repeat([]byte("0123456789abcdef"), 64)

// server is the nodes or one of the proxies in Go, until SIGTERM. It prints
// where it listens.
func server(name string, nodes []string, profile string) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	if profile != "" {
		file := strings.Map(func(r rune) rune {
			if r == ' ' || r == ',' {
				return '-'
			}
			return r
		}, name)
		f, err := os.Create(filepath.Join(profile, file+".pprof"))
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	listeners := 1
	h, err := proxy(name, nodes)
	if name == "nodes" {
		listeners, err = nodesOf, nil
		h = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Content-Type"] = []string{"text/plain"}
			w.Write(answer)
		})
	}
	if err != nil {
		return err
	}
	for range listeners {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		go http.Serve(l, h)
		fmt.Println("http://" + l.Addr().String())
	}
	log.SetOutput(io.Discard) // that wrk hangs up at the end
	<-stop
	return nil
}

func proxy(name string, nodes []string) (http.Handler, error) {
	var urls []*url.URL
	var balanced []sticky.Node
	for i, n := range nodes {
		u, err := url.Parse(n)
		if err != nil {
			return nil, err
		}
		urls = append(urls, u)
		balanced = append(balanced, sticky.Node{ID: fmt.Sprint("node", i), URL: u})
	}
	o := &sticky.Options{Keys: [][]byte{bytes.Repeat([]byte{1}, 32)}, Logger: slog.New(slog.DiscardHandler)}
	switch name {
	case stickyIP, directIP:
		o.By = sticky.ByIP()
	case stickyCookie, directCookie:
		o.By = sticky.ByCookie()
	case bare:
		return httputil.NewSingleHostReverseProxy(urls[0]), nil
	case tuned:
		return tunedProxy(urls[0]), nil
	default:
		return nil, fmt.Errorf("no proxy %q", name)
	}
	if name == directIP || name == directCookie {
		o.Transport = sticky.NewDirectTransport(nil)
	}
	return sticky.New(balanced, o)
}

// tunedProxy is what one makes of ReverseProxy once one has measured it.
func tunedProxy(to *url.URL) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host
			r.SetXForwarded()
		},
		Transport:  &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true, IdleConnTimeout: 30 * time.Second},
		BufferPool: &buffers{},
		ErrorLog:   slog.NewLogLogger(slog.NewTextHandler(io.Discard, nil), slog.LevelError),
	}
}

type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if v, ok := b.pool.Get().(*[16 << 10]byte); ok {
		return v[:]
	}
	return make([]byte, 16<<10)
}

func (b *buffers) Put(buf []byte) { b.pool.Put((*[16 << 10]byte)(buf)) }

// freeAddr is where nobody listens, for servers that cannot choose a port.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func haproxy(dir, addr string, nodes []string) ([]string, error) {
	var c strings.Builder
	fmt.Fprintf(&c, `global
	maxconn 4096
defaults
	mode http
	timeout connect 2s
	timeout client 30s
	timeout server 30s
	option forwardfor
frontend front
	bind %s
	default_backend nodes
backend nodes
	balance roundrobin
	option redispatch
	cookie SRV insert indirect nocache httponly
`, addr)
	for i, n := range nodes {
		fmt.Fprintf(&c, "\tserver n%d %s cookie n%d check\n", i, strings.TrimPrefix(n, "http://"), i)
	}
	path := filepath.Join(dir, "haproxy.cfg")
	return []string{"-q", "-db", "-f", path}, os.WriteFile(path, []byte(c.String()), 0o600)
}

func nginx(dir, addr string, nodes []string) ([]string, error) {
	var c strings.Builder
	if os.Getuid() == 0 {
		c.WriteString("user root;\n") // its workers write to dir
	}
	fmt.Fprintf(&c, "daemon off;\nworker_processes auto;\npid %s/nginx.pid;\nerror_log stderr error;\nevents { worker_connections 1024; }\nhttp {\n\taccess_log off;\n\tkeepalive_requests 100000000;\n", dir)
	for _, temp := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&c, "\t%s_temp_path %s/%s;\n", temp, dir, temp)
	}
	c.WriteString("\tupstream nodes {\n\t\tip_hash;\n")
	for _, n := range nodes {
		fmt.Fprintf(&c, "\t\tserver %s;\n", strings.TrimPrefix(n, "http://"))
	}
	fmt.Fprintf(&c, `		keepalive 64;
		keepalive_requests 100000000;
	}
	server {
		listen %s;
		location / {
			proxy_pass http://nodes;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_set_header Host $host;
			proxy_set_header X-Forwarded-For $remote_addr;
		}
	}
}
`, addr)
	path := filepath.Join(dir, "nginx.conf")
	return []string{"-e", "stderr", "-c", path}, os.WriteFile(path, []byte(c.String()), 0o600)
}
