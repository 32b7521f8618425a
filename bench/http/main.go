// Http measures what a request costs a server over HTTP: it starts one server
// at a time, as a process of its own, puts wrk with 32 connections and 200
// sessions on it, and divides the CPU time of the server's process by the
// requests that it answered. With Redis it also prints what a session takes
// there.
//
//	go run ./http -redis localhost:6379 -seconds 5 -rounds 3
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/distsession/session/bench"
	"github.com/distsession/session/bench/load"
	"github.com/redis/go-redis/v9"
)

const sessionsOf = 200

func main() {
	log.SetFlags(0)
	addr := flag.String("redis", "", "host:port of a Redis server, for its rows")
	seconds := flag.Int("seconds", 5, "how long each server is measured")
	rounds := flag.Int("rounds", 3, "turns; the median of them counts")
	serve := flag.String("serve", "", "library/store: be the server (used by this program itself)")
	flag.Parse()
	if *serve != "" {
		log.Fatal(server(*serve, *addr))
	}
	if err := load.Found(); err != nil {
		log.Fatal(err)
	}
	if err := compare(*addr, *seconds, *rounds); err != nil {
		log.Fatal(err)
	}
}

func subjects(addr string) ([]bench.Subject, redis.UniversalClient) {
	var client redis.UniversalClient
	if addr != "" {
		client = redis.NewClient(&redis.Options{Addr: addr, PoolSize: load.Connections, ContextTimeoutEnabled: true})
	}
	s, err := bench.Subjects(client)
	if err != nil {
		log.Fatal(err)
	}
	return s, client
}

// server serves one subject, an op a path, and prints its address.
func server(name, addr string) error {
	all, _ := subjects(addr)
	i := slices.IndexFunc(all, func(s bench.Subject) bool { return s.Library+"/"+s.Store == name })
	if i < 0 {
		return fmt.Errorf("no subject %q", name)
	}
	mux := http.NewServeMux()
	for op, h := range all[i].Ops {
		mux.Handle("/"+op, h)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	return http.Serve(l, mux)
}

func compare(addr string, seconds, rounds int) error {
	all, client := subjects(addr)
	type cell struct{ name, op string }
	cost := map[cell][]float64{}
	var order []cell
	for range rounds {
		for _, s := range all {
			for _, op := range []string{bench.Read, bench.Change, bench.Untouched} {
				if _, ok := s.Ops[op]; !ok {
					continue
				}
				c := cell{s.Library + "/" + s.Store, op}
				us, err := measure(c.name, op, addr, seconds)
				if err != nil {
					return fmt.Errorf("%s %s: %w", c.name, op, err)
				}
				if cost[c] == nil {
					order = append(order, c)
				}
				cost[c] = append(cost[c], us)
			}
		}
	}
	fmt.Println("| library/store | op | server CPU a request | beyond the bare handler |\n|---|---|---:|---:|")
	median := func(c cell) float64 { v := slices.Sorted(slices.Values(cost[c])); return v[len(v)/2] }
	for _, c := range order {
		us := median(c)
		fmt.Printf("| %s | %s | %.1f µs | %.1f µs |\n", c.name, c.op, us, us-median(cell{"bare/", bench.Read}))
	}
	if client != nil {
		return memory(client, all)
	}
	return nil
}

// measure returns the microseconds of CPU that the server spent a request.
func measure(name, op, addr string, seconds int) (float64, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(self, "-serve", name, "-redis", addr)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	line := make([]byte, 64)
	n, err := out.Read(line)
	if err != nil {
		return 0, err
	}
	url := "http://" + strings.TrimSpace(string(line[:n]))

	script, err := cookies(url)
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(filepath.Dir(script))
	if _, _, err := load.Wrk(url+"/"+op, 1, "-s", script); err != nil { // warm up
		return 0, err
	}
	before, err := load.CPU(cmd.Process.Pid)
	if err != nil {
		return 0, err
	}
	requests, _, err := load.Wrk(url+"/"+op, seconds, "-s", script)
	if err != nil {
		return 0, err
	}
	after, err := load.CPU(cmd.Process.Pid)
	return float64((after - before).Microseconds()) / float64(requests), err
}

// cookies makes the sessions and a script with which wrk sends them in turn.
func cookies(url string) (string, error) {
	var lua bytes.Buffer
	lua.WriteString("local cookies = {\n")
	for range sessionsOf {
		res, err := http.Get(url + "/" + bench.Create)
		if err != nil {
			return "", err
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		var pairs []string
		for _, c := range res.Cookies() {
			pairs = append(pairs, c.Name+"="+c.Value)
		}
		fmt.Fprintf(&lua, "%q,\n", strings.Join(pairs, "; "))
	}
	lua.WriteString("}\nlocal n = 0\nrequest = function()\n n = n % #cookies + 1\n return wrk.format(nil, nil, {[\"Cookie\"] = cookies[n]})\nend\n")
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "cookies.lua")
	return path, os.WriteFile(path, lua.Bytes(), 0o600)
}

// memory prints what one session takes in Redis, by Redis' own count.
func memory(client redis.UniversalClient, all []bench.Subject) error {
	ctx := context.Background()
	fmt.Println("\n| library | bytes a session in Redis (MEMORY USAGE) |\n|---|---:|")
	for _, s := range all {
		if s.Store != "redis" || s.Library == "raw GET" {
			continue
		}
		if err := client.FlushDB(ctx).Err(); err != nil {
			return err
		}
		s.Prepare(bench.Read)
		keys, err := client.Keys(ctx, "*").Result()
		if err != nil {
			return err
		}
		if len(keys) != 1 {
			return fmt.Errorf("%s keeps a session under %d keys", s.Library, len(keys))
		}
		n, err := client.MemoryUsage(ctx, keys[0]).Result()
		if err != nil {
			return err
		}
		fmt.Printf("| %s | %d |\n", s.Library, n)
	}
	return nil
}
