package sqlstore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"net"
	"net/url"
	"os"
	"strconv"

	"github.com/distsession/session"
	"github.com/go-sql-driver/mysql"
)

const mysqlPort = "3306"

func openMySQL(ctx context.Context, u *url.URL) (session.Store, error) {
	p := session.NewParams(u)
	c, err := readServer(u, p)
	if err != nil {
		return nil, err
	}
	mode := p.String("tls", "false")
	files := tlsFiles{p.String("ca", ""), p.String("cert", ""), p.String("key", ""), p.String("server_name", "")}
	prepare, _ := strconv.ParseBool(p.String("prepare", "true"))
	if err := checkParams(p, u); err != nil {
		return nil, err
	}
	cfg := mysql.NewConfig()
	cfg.User, cfg.Passwd, cfg.DBName = c.user, c.password, c.database
	cfg.Timeout = c.dialTimeout
	cfg.RejectReadOnly = true // what has become a replica is left
	cfg.Logger = &mysql.NopLogger{}
	if c.options.NoPrepare = !prepare; !prepare {
		cfg.InterpolateParams = true
	}
	if c.socket != "" {
		cfg.Net, cfg.Addr = "unix", c.socket
	} else {
		cfg.Net, cfg.Addr = "tcp", c.host
		if u.Port() == "" {
			cfg.Addr = net.JoinHostPort(u.Hostname(), mysqlPort)
		}
	}
	switch {
	case mode == "true":
		if files.serverName == "" {
			files.serverName = u.Hostname()
		}
		if cfg.TLS, err = files.config(u.Scheme); err != nil {
			return nil, err
		}
	case mode != "false":
		return nil, configError("%s: parameter tls is %q; it takes true or false", u.Scheme, mode)
	case files != tlsFiles{}:
		return nil, configError("%s: ca, cert, key and server_name need tls=true", u.Scheme)
	}
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, configError("%s: %w", u.Scheme, err)
	}
	db := c.pool(sql.OpenDB(connector))
	return c.start(ctx, db, db, MySQL)
}

// tlsFiles are files in PEM, and the name that is in the certificate.
type tlsFiles struct{ ca, cert, key, serverName string }

func (f tlsFiles) config(scheme string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: f.serverName}
	if f.ca != "" {
		text, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, configError("%s: parameter ca: the file cannot be read: %w", scheme, err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, configError("%s: parameter ca: the file holds no certificate in PEM", scheme)
		}
	}
	if f.cert != "" || f.key != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, configError("%s: parameters cert and key: a certificate and its key, both as files in PEM: %w", scheme, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
