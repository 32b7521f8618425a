package servers

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	infinispanVersion   = "16.0.7"
	infinispanStartTime = 60 * time.Second
	infinispanStarted   = "ISPN080001" // its ports accept long before
)

//go:embed infinispan.xml
var infinispanXML []byte

var infinispanLog = []byte(`<Configuration>
  <Appenders><Console name="out"><PatternLayout pattern="%d{HH:mm:ss.SSS} %-5p %c{1} %m%throwable{short}%n"/></Console></Appenders>
  <Loggers>
    <Root level="WARN"><AppenderRef ref="out"/></Root>
    <Logger name="org.infinispan.SERVER" level="INFO"/>
  </Loggers>
</Configuration>`)

// InfinispanServers are the members of one cluster. Each item is kept by two of
// them, in memory only.
type InfinispanServers struct {
	Members []*InfinispanMember

	java, jars   string
	ports, hosts []string // where they meet
	offset       string   // see watchOffset
}

// InfinispanMember answers memcached's text protocol at Addr, for every key.
type InfinispanMember struct {
	*Process
	Addr      string
	RedisAddr string // where it speaks Redis's protocol, in a way

	root    string
	started int // times that it has said so
}

// Infinispan starts n members.
func Infinispan(t testing.TB, n int) *InfinispanServers {
	t.Helper()
	java := Require(t, "java", javaHint)
	jars := mavenJars(t, "infinispan-"+infinispanVersion,
		mavenArtifact{Group: "org.infinispan", Name: "infinispan-server-runtime", Version: infinispanVersion})
	c := &InfinispanServers{java: java, jars: jars}
	for range n + 1 { // there is room for one more to Join
		port := FreePort(t)
		c.ports = append(c.ports, port)
		c.hosts = append(c.hosts, "127.0.0.1["+port+"]")
	}
	c.offset = watchOffset(t, c.ports)
	for range n {
		c.Join(t) // one after another: together they would first found two clusters
	}
	return c
}

// Join starts one more member.
func (c *InfinispanServers) Join(t testing.TB) *InfinispanMember {
	t.Helper()
	at := len(c.Members)
	if at == len(c.ports) {
		t.Fatal("there is no room for another member")
	}
	dir, redisPort := t.TempDir(), FreePort(t)
	m := &InfinispanMember{Addr: "127.0.0.1:" + FreePort(t), RedisAddr: "127.0.0.1:" + redisPort, root: filepath.Join(dir, "server")}
	m.clear(t)
	property := func(name, value string) string { return "-Dtest." + name + "=" + value }
	args := append(javaArgs(c.java, filepath.Join(c.jars, "*")), "-Xmx256m", "-XX:MaxDirectMemorySize=64m",
		property("cluster.name", "sessions-"+c.ports[0]), property("node", "n"+strconv.Itoa(at)),
		property("port", m.port()), property("redis.port", redisPort), property("rest.port", FreePort(t)),
		property("cluster.port", c.ports[at]), property("cluster.hosts", strings.Join(c.hosts, ",")),
		property("watch.offset", c.offset),
		"org.infinispan.server.Bootstrap", "-s", m.root, "-c", "infinispan.xml")
	m.Process = start(t, dir, args...)
	m.wait(t)
	c.Members = append(c.Members, m)
	return m
}

// Addrs are the addresses of all members.
func (c *InfinispanServers) Addrs() []string {
	addrs := make([]string, len(c.Members))
	for i, m := range c.Members {
		addrs[i] = m.Addr
	}
	return addrs
}

// Restart starts the member again after Kill or Stop. It joins the others.
func (m *InfinispanMember) Restart(t testing.TB) {
	t.Helper()
	m.clear(t)
	m.run(t)
	m.wait(t)
}

// Stop ends the member in good order, as SIGTERM does.
func (m *InfinispanMember) Stop(t testing.TB) {
	t.Helper()
	m.Process.Stop(t, infinispanStartTime)
}

// Ask is MemcachedServer.Ask.
func (m *InfinispanMember) Ask(t testing.TB, commands ...string) []string {
	t.Helper()
	lines, err := askMemcached(m.Addr, commands...)
	must(t, "ask Infinispan", err)
	return lines
}

func (m *InfinispanMember) port() string { return strings.TrimPrefix(m.Addr, "127.0.0.1:") }

// clear removes what a member that was killed left: a lock that would refuse
// the next start.
func (m *InfinispanMember) clear(t testing.TB) {
	t.Helper()
	must(t, "clear", os.RemoveAll(m.root))
	for _, dir := range []string{"conf", "data", "lib", "log"} {
		must(t, dir, os.MkdirAll(filepath.Join(m.root, dir), 0o755))
	}
	for file, text := range map[string][]byte{"infinispan.xml": infinispanXML, "log4j2.xml": infinispanLog} {
		must(t, file, os.WriteFile(filepath.Join(m.root, "conf", file), text, 0o600))
	}
}

func (m *InfinispanMember) wait(t testing.TB) {
	t.Helper()
	Wait(t, "Infinispan at "+m.Addr, infinispanStartTime, func(context.Context) error {
		// It may live on without a server in it.
		if m.out.count("FATAL") > 0 {
			t.Fatalf("Infinispan at %s does not start:\n%s", m.Addr, m.out.tail(8192))
		}
		if n := m.out.count(infinispanStarted); n <= m.started {
			return errors.New("it has not said so")
		}
		m.started++
		return nil
	})
}

// watchOffset is how far above each member's port the one lies through which the
// others see that it is gone. It must be the same for all members: they connect
// to where it would be if it were their own.
func watchOffset(t testing.TB, ports []string) string {
	t.Helper()
	for range 100 {
		offset := 1 + rand.IntN(1000)
		if !slices.ContainsFunc(ports, func(port string) bool { return !freeAbove(port, offset) }) {
			return strconv.Itoa(offset)
		}
	}
	t.Fatal("no free ports above " + strings.Join(ports, ", "))
	return ""
}

func freeAbove(port string, offset int) bool {
	n, err := strconv.Atoi(port)
	if err != nil {
		return false
	}
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(n+offset)))
	if err != nil {
		return false
	}
	l.Close()
	return true
}

// count is how often a text was written.
func (b *syncBuffer) count(text string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Count(b.b.Bytes(), []byte(text))
}
