package failures_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distsession/session/internal/servers"
	"github.com/distsession/session/natsstore"
)

// One node is cut off from the others, each in a network namespace of its own:
// what is sent arrives nowhere, and nobody is told. It must not acknowledge
// anything, and once its copy is older than MaxStale not answer at all. The
// others go on without it, and nothing has to be merged when it is back.
func TestPartition(t *testing.T) {
	for _, who := range []string{"leader", "follower"} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			net := newNetwork(t)
			c := start(t, natsstore.File, net.configure, net.within)
			cs := connect(t, c, many, maxStale)
			m := c.role(who)
			left := cs.known(m)
			var ready time.Duration
			cs.trouble(func() {
				net.cut(m)
				began := time.Now()
				answers := cs.isolated(m, left, began)
				cs.progress()
				cs.leave(c.others(m)[0], left)
				cs.outlast(left)
				answers += cs.isolated(m, left, began)
				done := make(chan struct{})
				var watching sync.WaitGroup
				for _, o := range c.members {
					watching.Go(func() { cs.watch(o, left, done) })
				}
				net.heal(m)
				ready = c.waitServing(m)
				close(done)
				watching.Wait()
				t.Logf("cut off for %v, it answered %d requests within MaxStale and none later", time.Since(began)-ready, answers)
			})
			cs.progress()
			cs.close("the "+who+" is cut off from the others", ready)
		})
	}
}

// isolated asks a node that has been cut off since then, and counts what it
// answered. It acknowledges no change.
func (cs *clients) isolated(m *member, left *user, since time.Time) (answers int) {
	cs.t.Helper()
	var asking sync.WaitGroup
	var answered atomic.Int64
	for on := range modes {
		for _, u := range cs.stayers[:2] {
			asking.Go(func() {
				n := cs.next.Add(1)
				u.mu.Lock()
				u.sent[n] = true // it may be done, for all its sender knows
				u.mu.Unlock()
				code, _, _, err := m.ask(cs.t.Context(), "POST", fmt.Sprintf("/%s/add?n=%d", on, n), u.token)
				if code != http.StatusServiceUnavailable {
					cs.t.Errorf("a change on %s, which is cut off: %d, %v", m.config.Name, code, err)
				}
			})
		}
		for _, u := range []*user{cs.stayers[0], left} {
			asking.Go(func() {
				began := time.Now()
				code, _ := cs.read(cs.t.Context(), m, on, u)
				if code == http.StatusOK {
					answered.Add(1)
				}
				if began.Sub(since) > maxStale && code != http.StatusServiceUnavailable {
					cs.t.Errorf("%s on %s, cut off %v ago: %d", on, m.config.Name, began.Sub(since), code)
				}
			})
		}
	}
	asking.Wait()
	return int(answered.Load())
}

// network is a bridge with a network namespace for each node: .1, .2 and .3 of
// a subnet of its own. The namespaces are gone when the test ends.
type network struct {
	t    testing.TB
	name string // of the bridge's namespace; those of the nodes begin with it
	n    int64
	dir  string
}

var networks atomic.Int64

func newNetwork(t testing.TB) *network {
	t.Helper()
	servers.Require(t, "ip", "install the package iproute2")
	if os.Geteuid() != 0 {
		servers.Lacking(t, "network namespaces take root")
	}
	n := networks.Add(1)
	net := &network{t: t, n: n, name: fmt.Sprintf("session%d-%d", os.Getpid(), n), dir: t.TempDir()}
	if out, err := net.try("netns", "add", net.name); err != nil {
		servers.Lacking(t, "network namespaces are not permitted: "+out)
	}
	t.Cleanup(func() { net.ip("netns", "del", net.name) })
	net.ip("-n", net.name, "link", "add", "bridge", "type", "bridge")
	net.ip("-n", net.name, "link", "set", "bridge", "up")
	for i := range 3 {
		inner, port := net.namespace(i), net.port(i)
		net.ip("netns", "add", inner)
		t.Cleanup(func() { net.ip("netns", "del", inner) })
		net.ip("-n", net.name, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", inner)
		net.ip("-n", net.name, "link", "set", port, "master", "bridge", "up")
		net.ip("-n", inner, "addr", "add", net.host(i)+"/24", "dev", "eth0")
		net.ip("-n", inner, "link", "set", "eth0", "up")
		net.ip("-n", inner, "link", "set", "lo", "up")
	}
	net.certificate()
	return net
}

func (n *network) try(args ...string) (string, error) {
	out, err := exec.Command("ip", args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (n *network) ip(args ...string) {
	n.t.Helper()
	if out, err := n.try(args...); err != nil {
		n.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func (n *network) namespace(i int) string { return fmt.Sprintf("%s-n%d", n.name, i) }
func (n *network) port(i int) string      { return fmt.Sprintf("n%d", i) }
func (n *network) host(i int) string      { return fmt.Sprintf("10.77.%d.%d", n.n, i+1) }

// within is what runs a program where a node lives.
func (n *network) within(i int) []string {
	return []string{"ip", "netns", "exec", n.namespace(i)}
}

func (n *network) configure(i int, c *nodeConfig) {
	c.Listen, c.Voters = n.host(i)+":6222", nil
	for j := range 3 {
		c.Voters = append(c.Voters, n.host(j)+":6222")
	}
	c.Folder = n.dir
	c.Timeout = time.Second // so that what cannot be done fails soon
}

// cut takes a node's cable out of the bridge and leaves it in its own end.
func (n *network) cut(m *member) { n.ip("-n", n.name, "link", "set", m.config.Name, "nomaster") }

func (n *network) heal(m *member) {
	n.ip("-n", n.name, "link", "set", m.config.Name, "master", "bridge")
}

// certificate makes what the nodes show each other, and their secret.
func (n *network) certificate() {
	n.t.Helper()
	must := func(err error) {
		n.t.Helper()
		if err != nil {
			n.t.Fatal(err)
		}
	}
	file := func(name, kind string, der []byte) {
		n.t.Helper()
		must(os.WriteFile(filepath.Join(n.dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "nodes"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for i := range 3 {
		cert.IPAddresses = append(cert.IPAddresses, net.ParseIP(n.host(i)))
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	must(err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)
	file("ca.pem", "CERTIFICATE", der)
	file("cert.pem", "CERTIFICATE", der)
	file("key.pem", "PRIVATE KEY", secret)
	must(os.WriteFile(filepath.Join(n.dir, "secret"), []byte(rand.Text()+rand.Text()), 0o600))
}
