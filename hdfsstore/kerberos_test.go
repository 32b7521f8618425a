package hdfsstore_test

import (
	"context"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/hdfsstore"
	"github.com/distsession/session/internal/servers"
)

const privacy = "privacy"

// An HDFS that asks for proof, and whose datanodes talk only in secret.
func TestKerberos(t *testing.T) {
	k := servers.HDFSKerberos(t, privacy, user)
	_, port, err := net.SplitHostPort(k.Namenode.Addr)
	must(t, err)
	open := func(t *testing.T, root string, params url.Values) (session.Store, error) {
		t.Helper()
		params.Set("krb5_conf", k.Krb5Conf)
		s, err := session.Open(t.Context(), "hdfs://localhost:"+port+root+"?"+params.Encode())
		if err == nil {
			t.Cleanup(func() { session.Close(s) })
		}
		return s, err
	}
	works := func(t *testing.T, params url.Values) {
		t.Helper()
		s, err := open(t, "/sessions", params)
		must(t, err)
		must(t, s.(*hdfsstore.Store).Check(t.Context()))
		rec, token := create(t, s)
		stored := load(t, s, token)
		save(t, s, stored)
		_, err = s.Save(t.Context(), stored)
		wantErr(t, "the same version again", err, session.ErrConflict)
		must(t, s.Delete(t.Context(), rec.ID))
		_, err = s.Load(t.Context(), token)
		wantErr(t, "load", err, session.ErrNotFound)
	}
	proof := func(more ...string) url.Values {
		v := url.Values{"keytab": {k.Keytab}, "principal": {servers.HDFSUser}, "service": {k.Service}, "protection": {privacy}}
		for i := 0; i < len(more); i += 2 {
			v.Set(more[i], more[i+1])
		}
		return v
	}
	t.Run("keytab", func(t *testing.T) { works(t, proof()) })
	t.Run("a realm and a service by host", func(t *testing.T) {
		works(t, proof("principal", servers.HDFSUser+"@EXAMPLE.COM", "service", servers.HDFSUser+"/_HOST"))
	})
	t.Run("ticket cache", func(t *testing.T) {
		kinit := servers.Require(t, "kinit", "install the package krb5-user")
		cache := filepath.Join(t.TempDir(), "cache")
		cmd := exec.Command(kinit, "-k", "-t", k.Keytab, "-c", cache, servers.HDFSUser)
		cmd.Env = append(os.Environ(), "KRB5_CONFIG="+k.Krb5Conf)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("kinit: %v\n%s", err, out)
		}
		works(t, url.Values{"ccache": {cache}, "service": {k.Service}, "protection": {privacy}})
	})
	t.Run("a user who may not", func(t *testing.T) {
		_, err := open(t, "/others", proof("principal", user))
		wantErr(t, "open", err, session.ErrConfig)
	})
	for _, tt := range []struct {
		why, mend string
		opts      hdfsstore.Options
	}{
		{"no proof", "principal and keytab", hdfsstore.Options{User: servers.HDFSUser}},
		{"a principal without keys", "Client not found", hdfsstore.Options{Kerberos: &hdfsstore.Kerberos{
			Principal: "nobody", Keytab: k.Keytab, Config: k.Krb5Conf, Service: k.Service}}},
		{"another service", "Server not found", hdfsstore.Options{Kerberos: &hdfsstore.Kerberos{
			Principal: servers.HDFSUser, Keytab: k.Keytab, Config: k.Krb5Conf, Service: "nn/localhost"}}},
	} {
		t.Run(tt.why, func(t *testing.T) {
			s, err := hdfsstore.New([]string{k.Namenode.Addr}, "/sessions", &tt.opts)
			must(t, err)
			defer s.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, err = s.Load(ctx, session.NewToken())
			failed(t, "load", err)
			err = s.Check(ctx)
			failed(t, "check", err)
			if err != nil && !strings.Contains(err.Error(), tt.mend) {
				t.Errorf("check: %v; want %q", err, tt.mend)
			}
		})
	}
}
