package servers

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// KerberosHDFS is an HDFS that asks for proof.
type KerberosHDFS struct {
	*HDFSServers
	Krb5Conf string // the file that names the KDC
	Keytab   string // the file with the keys of HDFSUser and of Users
	Service  string // the namenode's principal
}

const kerberosRealm = "EXAMPLE.COM"

// HDFSKerberos starts an HDFS with a Kerberos KDC that knows users. The
// datanodes take only connections with this protection: authentication,
// integrity or privacy, which is AES.
func HDFSKerberos(t testing.TB, protection string, users ...string) *KerberosHDFS {
	t.Helper()
	java := Require(t, "java", javaHint)
	jars := mavenJars(t, "minikdc-"+hdfsVersion, hadoop("hadoop-minikdc"))
	dir := t.TempDir()
	k := &KerberosHDFS{
		Krb5Conf: filepath.Join(dir, "krb5.conf"),
		Keytab:   filepath.Join(dir, "keytab"),
		Service:  HDFSUser + "/localhost",
	}
	props := filepath.Join(dir, "minikdc.properties")
	must(t, "minikdc.properties", os.WriteFile(props, []byte("transport=TCP\nmax.ticket.lifetime=86400000\n"), 0o600))
	args := append(javaArgs(java, filepath.Join(jars, "*")), "org.apache.hadoop.minikdc.MiniKdc",
		dir, props, k.Keytab, k.Service, "HTTP/localhost", HDFSUser)
	kdc := start(t, dir, append(args, users...)...)
	Wait(t, "the KDC", hdfsStartTime, func(context.Context) error {
		if !bytes.Contains(kdc.out.tail(1<<16), []byte("Standalone MiniKdc Running")) {
			return errors.New("not yet")
		}
		return nil
	})
	k.HDFSServers = &HDFSServers{
		dir:        t.TempDir(),
		properties: []string{"-Djava.security.krb5.conf=" + k.Krb5Conf},
		conf: map[string]string{
			"hadoop.security.authentication":            "kerberos",
			"dfs.block.access.token.enable":             "true",
			"dfs.data.transfer.protection":              protection,
			"dfs.encrypt.data.transfer.cipher.suites":   "AES/CTR/NoPadding",
			"dfs.namenode.kerberos.principal":           k.Service + "@" + kerberosRealm,
			"dfs.namenode.keytab.file":                  k.Keytab,
			"dfs.datanode.kerberos.principal":           k.Service + "@" + kerberosRealm,
			"dfs.datanode.keytab.file":                  k.Keytab,
			"dfs.web.authentication.kerberos.principal": "HTTP/localhost@" + kerberosRealm,
			"dfs.web.authentication.kerberos.keytab":    k.Keytab,
			// The datanodes listen on ports that need no root.
			"ignore.secure.ports.for.testing": "true",
		},
	}
	k.start(t, 2)
	return k
}
