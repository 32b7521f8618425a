package session_test

import (
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/distsession/session"
)

// A backend module reads the parameters of TLS as the root package does.
func TestParamsTLS(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		query, why      string
		config, trusted bool
	}{
		{"", "the system does not know the authority", false, false},
		{"ca=" + ca, "the authority, and the server's address is in the certificate", false, true},
		{"ca=" + ca + "&server_name=example.com", "another name that is in the certificate", false, true},
		{"ca=" + ca + "&server_name=example.org", "a name that is not", false, false},
		{"ca=/not/there", "no such file", true, false},
		{"cert=" + ca, "a certificate without its key", true, false},
	} {
		p := session.NewParams(&url.URL{Scheme: "x", RawQuery: tt.query})
		config := p.TLS()
		if err := p.Err(); errors.Is(err, session.ErrConfig) != tt.config {
			t.Errorf("%q (%s): %v", tt.query, tt.why, err)
		}
		if tt.config {
			continue
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
		res, err := client.Get(server.URL)
		if (err == nil) != tt.trusted {
			t.Errorf("%q (%s): %v", tt.query, tt.why, err)
		}
		if err == nil {
			res.Body.Close()
		}
		client.CloseIdleConnections()
	}
}
