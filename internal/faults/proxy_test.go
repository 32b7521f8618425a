package faults_test

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distsession/session/internal/faults"
)

// echo is a server that answers each line with its number and itself.
func echo(t *testing.T) (addr string, served *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	served = &atomic.Int64{}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for s := bufio.NewScanner(c); s.Scan(); {
					fmt.Fprintf(c, "%d %s\n", served.Add(1), s.Text())
				}
			}()
		}
	}()
	return l.Addr().String(), served
}

type client struct {
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, p *faults.Proxy) *client {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &client{c, bufio.NewReader(c)}
}

func (c *client) ask(line string) (string, error) {
	c.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprintln(c, line)
	return c.r.ReadString('\n')
}

func TestProxyPasses(t *testing.T) {
	addr, _ := echo(t)
	c := dial(t, faults.NewProxy(t, addr))
	for i, want := range []string{"1 a\n", "2 b\n"} {
		if got, err := c.ask(string(rune('a' + i))); got != want || err != nil {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
}

func TestProxyStalls(t *testing.T) {
	addr, served := echo(t)
	p := faults.NewProxy(t, addr)
	old := dial(t, p)
	old.ask("before")
	p.Stall()
	fresh := dial(t, p)
	for name, c := range map[string]*client{"an old connection": old, "a new one": fresh} {
		fmt.Fprintln(c, "stalled")
		c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, err := c.r.ReadByte()
		if timeout, ok := err.(net.Error); !ok || !timeout.Timeout() {
			t.Errorf("%s: %v; want nothing at all", name, err)
		}
	}
	p.Heal()
	if got, err := old.ask("late"); err == nil {
		t.Errorf("a connection that was stalled answers %q", got)
	}
	if got, err := dial(t, p).ask("after"); got != "2 after\n" || err != nil {
		t.Errorf("after Heal: %q, %v", got, err)
	}
	if n := served.Load(); n != 2 {
		t.Errorf("the server got %d lines; want 2, none of the stalled", n)
	}
}

func TestProxyCuts(t *testing.T) {
	addr, _ := echo(t)
	p := faults.NewProxy(t, addr)
	c := dial(t, p)
	c.ask("before")
	p.Cut()
	if got, err := c.ask("cut"); err == nil {
		t.Errorf("an old connection answers %q", got)
	}
	if got, err := dial(t, p).ask("cut"); err == nil {
		t.Errorf("a new one answers %q", got)
	}
	p.Heal()
	if got, err := dial(t, p).ask("after"); got != "2 after\n" || err != nil {
		t.Errorf("after Heal: %q, %v", got, err)
	}
}

func TestProxyLosesAnswers(t *testing.T) {
	addr, served := echo(t)
	p := faults.NewProxy(t, addr)
	p.Spare = func(answer []byte) bool { return bytes.Contains(answer, []byte("spare")) }
	var during []int64
	p.LoseNext(2, func(request []byte) bool { return bytes.HasPrefix(request, []byte("set")) },
		func() { during = append(during, served.Load()) })
	for _, tt := range []struct {
		line, why string
		lost      bool
	}{
		{"get", "it does not match", false},
		{"set spare", "its answer is spared", false},
		{"set 1", "the first of two", true},
		{"set 2", "the second of two", true},
		{"set 3", "there are no more to lose", false},
	} {
		got, err := dial(t, p).ask(tt.line)
		if lost := err != nil; lost != tt.lost {
			t.Errorf("%s (%s): %q, %v", tt.line, tt.why, got, err)
		}
	}
	if n := p.Lost(); n != 2 || len(during) != 2 || during[0] != 3 || during[1] != 4 {
		t.Errorf("%d lost; then saw %v lines served, want 3 and 4: after the server's work", n, during)
	}
}

// A refusal passes, and the answer to what the client does then is lost.
func TestProxySpares(t *testing.T) {
	addr, _ := echo(t)
	p := faults.NewProxy(t, addr)
	p.Spare = func(answer []byte) bool { return bytes.Contains(answer, []byte("refused")) }
	p.LoseNext(1, func(request []byte) bool { return bytes.HasPrefix(request, []byte("set")) }, nil)
	c := dial(t, p)
	if got, err := c.ask("set refused"); got != "1 set refused\n" || err != nil {
		t.Errorf("spared: %q, %v", got, err)
	}
	if got, err := c.ask("in another way"); err == nil || p.Lost() != 1 {
		t.Errorf("%q, %d lost; want this answer lost", got, p.Lost())
	}
}
