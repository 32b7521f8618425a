package servers

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	hazelcastVersion   = "5.7.0"
	hazelcastStartTime = 90 * time.Second
)

//go:embed hazelcast.yaml
var hazelcastYAML []byte

// HazelcastServers are the members of one cluster, which has caches of several
// configurations: see hazelcast.yaml. Each entry of "sessions" is kept by two
// members, in memory only.
type HazelcastServers struct {
	Members []*HazelcastMember
	Cluster string // its name

	java, jars string
}

// HazelcastMember answers the open binary protocol at Addr, for every key.
type HazelcastMember struct {
	*Process
	Addr string

	cluster *HazelcastServers
	running bool
}

// Hazelcast starts n members of a cluster with a name of its own.
func Hazelcast(t testing.TB, n int) *HazelcastServers {
	t.Helper()
	return HazelcastNamed(t, "sessions-"+FreePort(t), n)
}

// HazelcastNamed starts n members of the cluster with this name.
func HazelcastNamed(t testing.TB, cluster string, n int) *HazelcastServers {
	t.Helper()
	c := &HazelcastServers{java: Require(t, "java", javaHint), Cluster: cluster}
	c.jars = mavenJars(t, "hazelcast-"+hazelcastVersion,
		mavenArtifact{Group: "com.hazelcast", Name: "hazelcast", Version: hazelcastVersion},
		mavenArtifact{Group: "javax.cache", Name: "cache-api", Version: "1.1.1"})
	for range n {
		c.Join(t) // one after another: the first founds the cluster
	}
	return c
}

// Addrs are the addresses of all members, also of those that are down.
func (c *HazelcastServers) Addrs() []string {
	addrs := make([]string, len(c.Members))
	for i, m := range c.Members {
		addrs[i] = m.Addr
	}
	return addrs
}

// Join starts a further member.
func (c *HazelcastServers) Join(t testing.TB) *HazelcastMember {
	t.Helper()
	dir := t.TempDir()
	must(t, "hazelcast.yaml", os.WriteFile(filepath.Join(dir, "hazelcast.yaml"), hazelcastYAML, 0o600))
	m := &HazelcastMember{Addr: "127.0.0.1:" + FreePort(t), cluster: c, running: true}
	c.Members = append(c.Members, m)
	m.Process = start(t, dir, c.command(m)...)
	m.wait(t)
	return m
}

// command starts a member that looks for all the others.
func (c *HazelcastServers) command(m *HazelcastMember) []string {
	property := func(name, value string) string { return "-D" + name + "=" + value }
	return append(javaArgs(c.java, filepath.Join(c.jars, "*")), "-Xmx256m",
		"--add-modules=java.se", "--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED",
		"--add-opens=java.base/java.lang=ALL-UNNAMED", "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
		property("hazelcast.config", "hazelcast.yaml"), property("test.cluster", c.Cluster),
		property("test.address", m.Addr), property("test.port", strings.TrimPrefix(m.Addr, "127.0.0.1:")),
		property("test.members", strings.Join(c.Addrs(), ",")),
		"com.hazelcast.core.server.HazelcastMemberStarter")
}

// Kill ends the member at once, as kill -9 does.
func (m *HazelcastMember) Kill() {
	m.running = false
	m.Process.Kill()
}

// Stop ends the member as SIGTERM does: it hands over what it has, and leaves.
func (m *HazelcastMember) Stop(t testing.TB) {
	t.Helper()
	m.running = false
	must(t, "stop", m.cmd.Process.Signal(syscall.SIGTERM))
	Wait(t, "the end of Hazelcast at "+m.Addr, hazelcastStartTime, func(context.Context) error {
		select {
		case <-m.done:
			return nil
		default:
			return errors.New("it runs")
		}
	})
}

// Restart starts the member again after Kill or Stop. It joins the others.
func (m *HazelcastMember) Restart(t testing.TB) {
	t.Helper()
	m.running = true
	m.args = m.cluster.command(m)
	m.run(t)
	m.wait(t)
}

// wait waits until the member has met the others, and every entry has its
// backup.
func (m *HazelcastMember) wait(t testing.TB) {
	t.Helper()
	m.cluster.Settle(t, m)
}

// Settle waits until a member says that all that run have met, and that every
// entry has its backup.
func (c *HazelcastServers) Settle(t testing.TB, m *HazelcastMember) {
	t.Helper()
	want := len(slices.DeleteFunc(slices.Clone(c.Members), func(m *HazelcastMember) bool { return !m.running }))
	Wait(t, "Hazelcast at "+m.Addr, hazelcastStartTime, func(ctx context.Context) error {
		select {
		case <-m.done:
			t.Fatalf("Hazelcast at %s does not start:\n%s", m.Addr, m.out.tail(8192))
		default:
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.Addr+"/hazelcast/health", nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		var health struct {
			NodeState   string `json:"nodeState"`
			ClusterSafe bool   `json:"clusterSafe"`
			ClusterSize int    `json:"clusterSize"`
		}
		if err := json.NewDecoder(res.Body).Decode(&health); err != nil {
			return err
		}
		if health.NodeState != "ACTIVE" || !health.ClusterSafe || health.ClusterSize != want {
			return fmt.Errorf("%+v; want %d members", health, want)
		}
		return nil
	})
}
