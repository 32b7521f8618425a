package session_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/servers"
	"github.com/redis/go-redis/v9"
)

// docACL is the user that docs/redis.md recommends.
func docACL(t *testing.T) []any {
	t.Helper()
	doc, err := os.ReadFile("docs/redis.md")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^ACL SETUSER .*$`).FindString(string(doc))
	var args []any
	for f := range strings.FieldsSeq(line) {
		args = append(args, f)
	}
	if len(args) < 10 {
		t.Fatalf("docs/redis.md has no user: %q", line)
	}
	return args
}

// The user that docs/redis.md recommends may do all that the store does.
func TestRedisACL(t *testing.T) {
	primary, _ := servers.RedisReplicas(t, 1)
	if err := primary.Client.Do(t.Context(), docACL(t)...).Err(); err != nil {
		t.Fatal(err)
	}
	t.Setenv("REDIS_PASSWORD", "secret")
	for _, replicas := range []string{"0", "1"} {
		primary.Client.FlushAll(t.Context())
		store := openRedis(t, "redis://"+primary.Addr+"/2?username=app&password=env:REDIS_PASSWORD&read_timeout=20s&replica_timeout=10s&replicas="+replicas)
		client := redis.NewClient(redisOptions(primary.Addr))
		defer client.Close()
		e := &redisEnv{store: store, client: client, clock: &redisClock{}, prefix: "session:"}
		everyCall(t, e)
	}
	store := openRedis(t, "redis://"+primary.Addr+"?username=app&password=env:REDIS_PASSWORD&prefix=other:")
	if _, err := store.Load(t.Context(), session.NewToken()); !redis.HasErrorPrefix(err, "NOPERM") {
		t.Errorf("another prefix: %v", err)
	}
}

func TestRedisClusterACL(t *testing.T) {
	c := servers.RedisCluster(t)
	for _, n := range c.Nodes {
		if err := n.Client.Do(t.Context(), docACL(t)...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("REDIS_PASSWORD", "secret")
	store := openRedis(t, clusterURL(c, "?username=app&password=env:REDIS_PASSWORD&replicas=1"+patientURL))
	everyCall(t, &redisEnv{store: store, clock: &redisClock{}, prefix: "session:"})
}

// everyCall makes every call of the store.
func everyCall(t *testing.T, e *redisEnv) {
	t.Helper()
	ctx := t.Context()
	rec, token := e.create(t, "ann")
	e.create(t, "ann")
	e.save(t, e.load(t, token))
	if err := e.store.Touch(ctx, rec.ID, rec.Seen.Add(time.Minute), rec.Expires.Add(time.Minute)); err != nil {
		t.Error(err)
	}
	if ids := e.list(t, "ann"); len(ids) != 2 {
		t.Errorf("list: %q", ids)
	}
	n := 0
	for _, err := range e.store.Scan(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 2 {
		t.Errorf("scan: %d", n)
	}
	if err := e.store.Delete(ctx, rec.ID); err != nil {
		t.Error(err)
	}
	if n, err := e.store.DeleteUser(ctx, "ann", ""); n != 1 || err != nil {
		t.Error(n, err)
	}
	if err := e.store.Check(ctx); err == nil || !strings.Contains(err.Error(), "persistence is off") || strings.Contains(err.Error(), "NOPERM") {
		t.Errorf("check: %v", err)
	}
}

func TestRedisTLS(t *testing.T) {
	dir := t.TempDir()
	ca, cert, key := certificate(t, dir)
	port := servers.FreePort(t)
	servers.Redis(t, "--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ca)
	addr := "127.0.0.1:" + port
	store := openRedis(t, "rediss://"+addr+"?ca="+ca+"&cert="+cert+"&key="+key)
	if _, err := store.Load(t.Context(), session.NewToken()); err != session.ErrNotFound {
		t.Errorf("load: %v", err)
	}
	for _, tt := range []struct{ why, url string }{
		{"a certificate that nobody vouches for", "rediss://" + addr + "?cert=" + cert + "&key=" + key},
		{"another name", "rediss://" + addr + "?server_name=example.org&ca=" + ca + "&cert=" + cert + "&key=" + key},
		{"no certificate of our own", "rediss://" + addr + "?ca=" + ca},
		{"no TLS", "redis://" + addr},
	} {
		store, err := session.Open(t.Context(), tt.url)
		if err == nil {
			_, err = store.Load(t.Context(), session.NewToken())
			session.Close(store)
		}
		if err == nil || errors.Is(err, session.ErrNotFound) {
			t.Errorf("%s: %v", tt.why, err)
		}
	}
}

// certificate writes a certificate for 127.0.0.1, which vouches for itself.
func certificate(t *testing.T, dir string) (ca, cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert = write("cert.pem", "CERTIFICATE", der)
	return cert, cert, write("key.pem", "PRIVATE KEY", pkcs8)
}
