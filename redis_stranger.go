package session

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// The servers that speak Redis's protocol and must not be used as one.
var strangers = map[string]error{
	// Measured on 16.0.7: of 1600 increments by scripts, which run side by side,
	// 1097 were lost, and of 1600 with WATCH 1121.
	"infinispan": fmt.Errorf("%w but Infinispan, whose scripts are not atomic, so updates would be lost; use infinispan:// and its memcached port (the module memcachedstore)", errNotRedis),
	// Measured on 2.18: it has no scripts and no WATCH, and bytes that are no
	// UTF-8 come back as U+FFFD.
	"ignite": fmt.Errorf("%w but Apache Ignite, whose Redis port can compare nothing and spoils binary values; use ignite:// and its port for thin clients (the module ignitestore)", errNotRedis),
}

// stranger tells whether one of the servers is known not to be Redis, on
// connections of its own: go-redis tells nothing about its HELLO, and never comes
// so far on servers that do not answer its CLIENT MAINT_NOTIFICATIONS
// (Infinispan) or that hang up at HELLO, a second later (Ignite). What cannot be
// found out is nil.
func (s *RedisStore) stranger(ctx context.Context) error {
	var nodes []*redis.Options
	switch c := s.client.(type) {
	case *redis.Client:
		nodes = append(nodes, c.Options())
	case *redis.ClusterClient:
		o := c.Options()
		for _, addr := range o.Addrs {
			node := &redis.Options{Network: "tcp", Addr: addr, TLSConfig: o.TLSConfig, Dialer: o.Dialer, DialTimeout: o.DialTimeout, Username: o.Username, Password: o.Password}
			if node.Dialer == nil {
				node.Dialer = redis.NewDialer(node)
			}
			nodes = append(nodes, node)
		}
	}
	for _, node := range nodes {
		if err := strangers[redisGreeting(ctx, node)]; err != nil {
			return fmt.Errorf("%s: %w", node.Addr, err)
		}
	}
	return nil
}

// redisGreeting returns who a server says it is, or is known to be by its
// manners; "" for whatever else there is.
func redisGreeting(ctx context.Context, o *redis.Options) (server string) {
	// A server that says nothing must leave time for the rest of the check.
	patience := redisTimeout
	if end, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(end)/2)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := o.Dialer(ctx, o.Network, o.Addr)
	if err != nil {
		return ""
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	r := bufio.NewReader(c)
	echo, err := askRedis(c, r, "ECHO", "\xff")
	switch {
	case err != nil:
		return ""
	case len(echo) == 1 && echo[0] == "\ufffd":
		return "ignite"
	}
	commands := [][]string{{"HELLO", "3"}}
	if o.Password != "" {
		user := o.Username
		if user == "" {
			user = "default"
		}
		commands = append(commands, []string{"HELLO", "3", "AUTH", user, o.Password})
	}
	for _, command := range commands {
		hello, err := askRedis(c, r, command...)
		if err != nil {
			return ""
		}
		for at := 0; at+1 < len(hello); at += 2 {
			if hello[at] == "server" {
				return strings.ToLower(hello[at+1])
			}
		}
	}
	return ""
}

// askRedis sends a command and returns the texts in its reply, in order.
func askRedis(c net.Conn, r *bufio.Reader, command ...string) ([]string, error) {
	b := fmt.Appendf(nil, "*%d\r\n", len(command))
	for _, word := range command {
		b = fmt.Appendf(b, "$%d\r\n%s\r\n", len(word), word)
	}
	if _, err := c.Write(b); err != nil {
		return nil, err
	}
	var texts []string
	err := readReply(r, &texts, 0)
	return texts, err
}

var errReply = errors.New("not a reply of Redis")

const maxReply = 1024 // bytes of a text, and texts

// readReply reads one reply and adds its texts; what no greeting has is an
// error.
func readReply(r *bufio.Reader, texts *[]string, depth int) error {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if len(*texts) >= maxReply {
		return errReply
	}
	kind, text := line[0], strings.TrimSpace(string(line[1:]))
	switch kind {
	case '+', '-', ':', '_', '#', ',':
		*texts = append(*texts, text)
		return nil
	case '$', '*', '%', '~':
	default:
		return errReply
	}
	n, err := strconv.Atoi(text)
	switch {
	case err != nil || n > maxReply || depth > 3:
		return errReply
	case n < 0: // null
		*texts = append(*texts, "")
		return nil
	case kind == '$':
		b := make([]byte, n+2)
		if _, err := io.ReadFull(r, b); err != nil {
			return err
		}
		*texts = append(*texts, string(b[:n]))
		return nil
	case kind == '%':
		n *= 2
	}
	for range n {
		if err := readReply(r, texts, depth+1); err != nil {
			return err
		}
	}
	return nil
}
