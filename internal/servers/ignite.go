package servers

import (
	"context"
	_ "embed"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	igniteVersion   = "2.18.0"
	igniteStartTime = 90 * time.Second
)

// The user that an Ignite with Password has, and that user's password.
const (
	IgniteUser     = "ignite"
	IgnitePassword = "ignite"
)

//go:embed IgniteMember.java
var igniteMember []byte

// igniteOpens are the packages into which Ignite reaches by reflection (its own
// bin/ignite.sh opens the same ones).
var igniteOpens = []string{
	"java.base/jdk.internal.access", "java.base/jdk.internal.misc", "java.base/sun.nio.ch", "java.base/sun.util.calendar",
	"java.base/sun.reflect.generics.reflectiveObjects", "java.base/java.io", "java.base/java.nio", "java.base/java.net",
	"java.base/java.util", "java.base/java.util.concurrent", "java.base/java.util.concurrent.locks",
	"java.base/java.util.concurrent.atomic", "java.base/java.lang", "java.base/java.lang.invoke", "java.base/java.math",
	"java.base/java.time", "java.base/java.text", "java.management/com.sun.jmx.mbeanserver", "java.management/sun.management",
	"jdk.management/com.sun.management.internal", "jdk.internal.jvmstat/sun.jvmstat.monitor", "java.sql/java.sql",
}

// IgniteOptions say what clients of a cluster must bring.
type IgniteOptions struct {
	Password bool // a user and a password; there is one member, and data on disk

	// ClientCert is a file in PEM with the certificate that a client must show;
	// "": no TLS. The members' own certificate is then in IgniteServers.CA.
	ClientCert string
}

// IgniteServers are members of one cluster, which is in memory only.
type IgniteServers struct {
	Members []*IgniteMember
	CA      string // file in PEM with the authority of the members' certificate

	jars, java string
	opts       []string
	find       []string // ports
}

// IgniteMember answers thin clients at Addr, for every key.
type IgniteMember struct {
	*Process
	Addr      string
	RedisAddr string // where it speaks Redis's protocol, in a way

	dir string
}

// Ignite starts n members, and leaves room for one more to Join.
func Ignite(t testing.TB, n int, opts IgniteOptions) *IgniteServers {
	t.Helper()
	java := Require(t, "java", javaHint)
	Require(t, "javac", "install a JDK of version 17 or later (the package default-jdk-headless)")
	c := &IgniteServers{java: java, jars: mavenJars(t, "ignite-"+igniteVersion,
		mavenArtifact{Group: "org.apache.ignite", Name: "ignite-core", Version: igniteVersion})}
	if opts.Password {
		c.opts = append(c.opts, "-Dmember.password=true")
	}
	if opts.ClientCert != "" {
		c.keys(t, opts.ClientCert)
	}
	for range n + 1 {
		c.find = append(c.find, FreePort(t))
	}
	for range n {
		c.Join(t)
	}
	return c
}

// Join starts one more member.
func (c *IgniteServers) Join(t testing.TB) *IgniteMember {
	t.Helper()
	at := len(c.Members)
	if at == len(c.find) {
		t.Fatal("there is no room for another member")
	}
	dir, port, redisPort := t.TempDir(), FreePort(t), FreePort(t)
	source := filepath.Join(dir, "IgniteMember.java")
	must(t, "the member's source", os.WriteFile(source, igniteMember, 0o600))
	m := &IgniteMember{Addr: "127.0.0.1:" + port, RedisAddr: "127.0.0.1:" + redisPort, dir: filepath.Join(dir, "work")}
	args := append(javaArgs(c.java, filepath.Join(c.jars, "*")), "-Xmx256m")
	for _, name := range igniteOpens {
		args = append(args, "--add-opens", name+"=ALL-UNNAMED")
	}
	for name, value := range map[string]string{
		"member.name": "sessions-" + c.find[0] + "-" + strconv.Itoa(at), "member.dir": m.dir, "member.port": port, "member.redis": redisPort, "member.talk": FreePort(t),
		"member.find": c.find[at], "member.peers": strings.Join(c.find, ","),
		"IGNITE_UPDATE_NOTIFIER": "false", "IGNITE_NO_ASCII": "true", "IGNITE_PERFORMANCE_SUGGESTIONS_DISABLED": "true",
	} {
		args = append(args, "-D"+name+"="+value)
	}
	m.Process = start(t, dir, append(append(args, c.opts...), source)...)
	m.wait(t)
	c.Members = append(c.Members, m)
	return m
}

// Addrs are the addresses of all members.
func (c *IgniteServers) Addrs() []string {
	addrs := make([]string, len(c.Members))
	for i, m := range c.Members {
		addrs[i] = m.Addr
	}
	return addrs
}

// Stop ends the member in good order, as SIGTERM does.
func (m *IgniteMember) Stop(t testing.TB) {
	t.Helper()
	m.Process.Stop(t, igniteStartTime)
}

// Restart starts the member again after Kill or Stop. It joins the others.
func (m *IgniteMember) Restart(t testing.TB) {
	t.Helper()
	must(t, "clear", os.RemoveAll(m.dir))
	m.run(t)
	m.wait(t)
}

func (m *IgniteMember) wait(t testing.TB) {
	t.Helper()
	Wait(t, "Ignite at "+m.Addr, igniteStartTime, func(context.Context) error {
		select {
		case <-m.done:
			t.Fatalf("Ignite at %s does not start:\n%s", m.Addr, m.out.tail(8192))
		default:
		}
		if _, err := os.Stat(filepath.Join(m.dir, "ready")); err != nil {
			return errors.New("it has not said so")
		}
		return nil
	})
}

// keys makes the members' key and certificate, and has them trust a client's.
func (c *IgniteServers) keys(t testing.TB, clientCert string) {
	t.Helper()
	keytool := Require(t, "keytool", javaHint)
	dir := t.TempDir()
	keys, trust := filepath.Join(dir, "keys.p12"), filepath.Join(dir, "trust.p12")
	c.CA = filepath.Join(dir, "ca.pem")
	for _, args := range [][]string{
		{"-genkeypair", "-alias", "member", "-keyalg", "EC", "-dname", "CN=ignite", "-ext", "san=ip:127.0.0.1", "-ext", "bc:c=ca:true", "-keystore", keys},
		{"-exportcert", "-alias", "member", "-rfc", "-file", c.CA, "-keystore", keys},
		{"-importcert", "-noprompt", "-alias", "client", "-file", clientCert, "-keystore", trust},
	} {
		out, err := exec.Command(keytool, append(args, "-storetype", "PKCS12", "-storepass", "changeit")...).CombinedOutput()
		if err != nil {
			t.Fatalf("keytool %s: %v\n%s", args[0], err, out)
		}
	}
	c.opts = append(c.opts, "-Dmember.keys="+keys, "-Dmember.trust="+trust)
}
