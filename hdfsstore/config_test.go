package hdfsstore_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/hdfsstore"
)

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	conf := filepath.Join(dir, "krb5.conf")
	must(t, os.WriteFile(conf, []byte("[libdefaults]\n default_realm = EXAMPLE.COM\n"), 0o600))
	broken := filepath.Join(dir, "broken")
	must(t, os.WriteFile(broken, []byte("x"), 0o600))
	for _, tt := range []struct{ url, mend, why string }{
		{"hdfs:", "namenode", "nothing at all"},
		{"hdfs:///user/app", "no namenode", "no host"},
		{"hdfs://nn", "directory of their own", "no directory"},
		{"hdfs://nn/", "directory of their own", "the root of everything"},
		{"hdfs://nn/..", "directory of their own", "the root by another name"},
		{"hdfs://nn:x/a", "cannot be parsed", "no port"},
		{"hdfs://nn:0/a", "address", "port 0"},
		{"hdfs://nn,/a", "address", "an empty host"},
		{"hdfs://::1/a", "address", "IPv6 without brackets"},
		{"hdfs://nn/a?addr=other:99999", "address", "no such port"},
		{"hdfs://ann:hunter2@nn/a", "?user=", "a password, which HDFS does not know"},
		{"hdfs://ann@nn/a", "?user=", "one way to name the user is enough"},
		{"hdfs://ann:hunter2/@nn/a", "cannot be ", "a password that is not escaped"},
		{"hdfs://nn/a?pool=3", "known: ", "an unknown parameter"},
		{"hdfs://nn/a?user=x&user=y", "keep one", "two users"},
		{"hdfs://nn/a?clients=-1", "whole number", "less than none"},
		{"hdfs://nn/a?timeout=1", "duration", "no unit"},
		{"hdfs://nn/a?protection=secret", "privacy", "an unknown protection"},
		{"hdfs://nn/a?protection=integrity", "use privacy", "one under which the client reads wrongly"},
		{"hdfs://nn/a?datanode_hostnames=maybe", "true or false", "neither"},
		{"hdfs://nn/a?service=nn/_HOST", "Keytab or Cache", "Kerberos without a proof"},
		{"hdfs://nn/a?keytab=k&ccache=c&principal=p", "Keytab or Cache", "two proofs"},
		{"hdfs://nn/a?keytab=k", "Principal", "a keytab without a name"},
		{"hdfs://nn/a?ccache=c&principal=p", "names its own", "a name too many"},
		{"hdfs://nn/a?keytab=k&principal=p&krb5_conf=" + dir + "/none", "Config", "no configuration of Kerberos"},
		{"hdfs://nn/a?keytab=" + broken + "&principal=p&krb5_conf=" + conf, "Keytab " + broken, "no keytab"},
		{"hdfs://nn/a?ccache=" + dir + "/none&krb5_conf=" + conf, "kinit", "no tickets"},
		{"hdfs://nn/a?keytab=" + broken + "&principal=p&user=ann&krb5_conf=" + conf, "remove it", "two users"},
	} {
		_, err := session.Open(t.Context(), tt.url)
		if !errors.Is(err, session.ErrConfig) || !strings.Contains(err.Error(), tt.mend) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %s: %v; want ErrConfig with %q", tt.why, tt.url, err, tt.mend)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for _, tt := range []struct {
		root string
		opts hdfsstore.Options
		why  string
	}{
		{"sessions", hdfsstore.Options{}, "a relative directory"},
		{"/a:b", hdfsstore.Options{}, "HDFS has no colon in names"},
		{"/a", hdfsstore.Options{Clients: -1}, "less than none"},
		{"/a", hdfsstore.Options{Replication: -1}, "less than none"},
		{"/a", hdfsstore.Options{Timeout: -1}, "less than none"},
		{"/a", hdfsstore.Options{CleanEvery: -1}, "less than none"},
		{"/a", hdfsstore.Options{MaxData: -1}, "less than none"},
	} {
		if _, err := hdfsstore.New([]string{"nn:8020"}, tt.root, &tt.opts); !errors.Is(err, session.ErrConfig) {
			t.Errorf("%s: %v", tt.why, err)
		}
	}
	if _, err := hdfsstore.New(nil, "/a", nil); !errors.Is(err, session.ErrConfig) {
		t.Errorf("no namenode: %v", err)
	}
}

// What is not a token is refused though no namenode is there to ask.
func TestMalformedToken(t *testing.T) {
	s := newStore(t, []string{"127.0.0.1:1"}, "/a", hdfsstore.Options{})
	for _, token := range []string{"", "../../etc", strings.Repeat("A", 44), strings.Repeat("/", 43)} {
		_, err := s.Load(t.Context(), token)
		wantErr(t, token, err, session.ErrNotFound)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := s.Load(ctx, session.NewToken())
	failed(t, "a token that has to be looked for", err)
}
