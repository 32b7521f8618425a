package session_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/servers"
	"github.com/redis/go-redis/v9"
)

// infinispanSays is what Infinispan 16.0.7 answers on its port for Redis, by the
// words of the command; to what it does not know of CLIENT it never answers.
var infinispanSays = map[string]string{
	"ping":    "$4\r\nPONG\r\n",
	"hello":   "-ERR index out of range\r\n",
	"hello 2": "-NOPROTO sorry this protocol version is not supported\r\n",
	"hello 3": "%7\r\n$6\r\nserver\r\n$10\r\nInfinispan\r\n$7\r\nversion\r\n$6\r\n16.0.7\r\n$5\r\nproto\r\n:3\r\n" +
		"$2\r\nid\r\n:184\r\n$4\r\nmode\r\n$7\r\ncluster\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n",
	"info": "$56\r\n# Server\r\nredis_version:16.0\r\nconfig_file:infinispan.xml\r\n\r\n",
}

// says answers commands by their words, in lower case; "" never, and where there
// is no answer the connection ends.
func says(t *testing.T, answers func(command string) (answer string, ok bool)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for r := bufio.NewReader(c); ; {
					var n int
					if _, err := fmt.Fscanf(r, "*%d\r\n", &n); err != nil {
						return
					}
					words := make([]string, n)
					for i := range words {
						var size int
						if _, err := fmt.Fscanf(r, "$%d\r\n%s\r\n", &size, &words[i]); err != nil {
							return
						}
					}
					answer, ok := answers(strings.ToLower(strings.Join(words, " ")))
					if !ok {
						return
					}
					fmt.Fprint(c, answer)
				}
			}()
		}
	}()
	return l.Addr().String()
}

func likeInfinispan(command string) (string, bool) {
	switch answer, ok := infinispanSays[command]; {
	case ok:
		return answer, true
	case strings.Contains(command, "auth"):
		return "-WRONGPASS invalid username-password pair or user is disabled.\r\n", true
	case strings.HasPrefix(command, "client"):
		return "", true
	}
	return "-ERR unknown command\r\n", true
}

// likeIgnite is what Ignite 2.18 answers on its port for Redis: it takes bytes
// for UTF-8, and hangs up at what it does not know.
func likeIgnite(command string) (string, bool) {
	if text, ok := strings.CutPrefix(command, "echo "); ok {
		return "+" + strings.ToValidUTF8(text, "\ufffd") + "\r\n", true
	}
	return "+PONG\r\n", command == "ping"
}

// What speaks Redis's protocol and is no Redis is refused with what to use
// instead, by Open and by Check, also where go-redis would hang.
func TestRedisStranger(t *testing.T) {
	for _, tt := range []struct{ name, addr, mend string }{
		{"a fake Infinispan", says(t, likeInfinispan), "infinispan://"},
		{"a fake Infinispan with an odd INFO", says(t, func(command string) (string, bool) {
			if command == "info" {
				return "$7\r\n\x00:\r\n::\n\r\n", true
			}
			return likeInfinispan(command)
		}), "infinispan://"},
		{"a fake Infinispan that hangs at INFO", says(t, func(command string) (string, bool) {
			if command == "info" {
				return "", true
			}
			return likeInfinispan(command)
		}), "infinispan://"},
		{"a fake Ignite", says(t, likeIgnite), "ignite://"},
	} {
		t.Run(tt.name, func(t *testing.T) { refusedStranger(t, tt.addr, tt.mend) })
	}
	t.Run("Infinispan", func(t *testing.T) {
		refusedStranger(t, servers.Infinispan(t, 1).Members[0].RedisAddr, "infinispan://")
	})
}

func refusedStranger(t *testing.T, addr, mend string) {
	t.Helper()
	const password = "correct-horse"
	refused := func(what string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), mend) || strings.Contains(err.Error(), password) {
			t.Errorf("%s: %v; want %s in it, and no password", what, err, mend)
		}
	}
	for _, rawURL := range []string{
		"redis://" + addr,
		"redis://u:" + url.QueryEscape(password) + "@" + addr,
		"redis+cluster://" + addr,
	} {
		s, err := session.Open(t.Context(), rawURL)
		refused(rawURL, err)
		if !errors.Is(err, session.ErrConfig) || s != nil {
			t.Errorf("%s: %v, %v; want ErrConfig", rawURL, s, err)
		}
	}
	for name, client := range map[string]redis.UniversalClient{
		"a client with go-redis's defaults":  redis.NewClient(&redis.Options{Addr: addr}),
		"a cluster client with its defaults": redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{addr}}),
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		refused(name, session.NewRedisStore(client, nil).Check(ctx))
		cancel()
		t.Cleanup(func() { go client.Close() }) // it waits for the answers that never come
	}
}

// A real Redis is asked in the same way, and is none of these.
func TestRedisIsNoStranger(t *testing.T) {
	server := servers.Redis(t, "--requirepass", secret)
	for _, rawURL := range []string{"redis://:" + url.QueryEscape(secret) + "@" + server.Addr, "redis://default:" + url.QueryEscape(secret) + "@" + server.Addr} {
		s, err := session.Open(t.Context(), rawURL)
		if err != nil {
			t.Fatal(err)
		}
		session.Close(s)
	}
}

// FuzzRedisReply has a server greet with whatever it likes: it costs no more
// than a greeting, and nothing is made up.
func FuzzRedisReply(f *testing.F) {
	for _, said := range []string{
		"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n+proto\r\n:3\r\n", "-ERR unknown command\r\n", "$-1\r\n", "*0\r\n", "$1\r\n\xff\r\n",
		"*1024\r\n*1024\r\n*1024\r\n", "$4294967296\r\n", "$1024\r\nx", "*-2\r\n", "HTTP/1.1 400 Bad Request\r\n", "%1024\r\n" + strings.Repeat("+\n", 2048), "",
	} {
		f.Add([]byte(said))
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		texts, taken, err := session.RedisTexts(said)
		bytes := 0
		for _, text := range texts {
			bytes += len(text)
		}
		if bytes > taken || len(texts) > 1024 || taken > len(said) {
			t.Errorf("%d texts of %d bytes from %d of %d bytes", len(texts), bytes, taken, len(said))
		}
		if again, _, err2 := session.RedisTexts(said[:taken]); err == nil && (err2 != nil || !slices.Equal(texts, again)) {
			t.Errorf("%q, and %q, %v from what was taken alone", texts, again, err2)
		}
	})
}
