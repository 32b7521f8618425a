package hdfsstore

import (
	"cmp"
	"os"
	"strings"

	krb "github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/credentials"
	"github.com/jcmturner/gokrb5/v8/keytab"
)

// Kerberos tells how to prove to a secure HDFS who the user is.
type Kerberos struct {
	// Principal is who to be, such as "app@EXAMPLE.COM"; without a realm that is
	// Config's default. It is required with Keytab, and the cache's own with
	// Cache.
	Principal string

	// Keytab is the file with the keys of Principal. Tickets are got and renewed
	// as they are needed.
	Keytab string

	// Cache is the file of tickets that kinit wrote, in the place of a Keytab.
	// When its tickets have run out, so has the store: every call fails.
	Cache string

	// Config is the file that names realms and their servers. If "", it is that
	// of the environment variable KRB5_CONFIG, or /etc/krb5.conf.
	Config string

	// Service is the namenodes' principal without its realm. In "nn/_HOST"
	// (which is meant by "") the last part stands for the host's name as it is
	// among the addresses.
	Service string
}

const (
	krb5Conf      = "/etc/krb5.conf"
	kerberosNames = "nn/_HOST"
)

// client reads the files; it does not speak with a server.
func (k *Kerberos) client() (*krb.Client, error) {
	switch {
	case (k.Keytab == "") == (k.Cache == ""):
		return nil, configError("Kerberos takes either Keytab or Cache, the path of a file")
	case k.Keytab != "" && k.Principal == "":
		return nil, configError("Kerberos lacks the Principal whose keys Keytab has, such as app@EXAMPLE.COM")
	case k.Cache != "" && k.Principal != "":
		return nil, configError("Kerberos has a Principal and a Cache, which names its own; remove one")
	}
	file := cmp.Or(k.Config, os.Getenv("KRB5_CONFIG"), krb5Conf)
	conf, err := config.Load(file)
	if err != nil {
		return nil, configError("Kerberos: Config %s cannot be read: %w", file, err)
	}
	if k.Cache != "" {
		cache, err := credentials.LoadCCache(k.Cache)
		if err != nil {
			return nil, configError("Kerberos: Cache %s cannot be read; run kinit -c %s: %w", k.Cache, k.Cache, err)
		}
		client, err := krb.NewFromCCache(cache, conf)
		if err != nil {
			return nil, configError("Kerberos: Cache %s is of no use; run kinit -c %s: %w", k.Cache, k.Cache, err)
		}
		return client, nil
	}
	keys, err := keytab.Load(k.Keytab)
	if err != nil {
		return nil, configError("Kerberos: Keytab %s cannot be read: %w", k.Keytab, err)
	}
	name, realm, _ := strings.Cut(k.Principal, "@")
	return krb.NewWithKeytab(name, cmp.Or(realm, conf.LibDefaults.DefaultRealm), keys, conf), nil
}
