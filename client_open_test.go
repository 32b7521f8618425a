package session_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
)

func b64Key(n byte) string { return base64.StdEncoding.EncodeToString(testKey(n)) }

// privatePEM and publicPEM are a key as openssl writes it.
func privatePEM(t testing.TB, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func publicPEM(t testing.TB, key session.JWTKey) string {
	t.Helper()
	return string(publicBytes(t, publicOf(key).Key, "PEM"))
}

func secretFile(t testing.TB, text string, mode os.FileMode) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
	return name
}

func openURL(t testing.TB, rawURL string) session.Store {
	t.Helper()
	s, err := session.Open(t.Context(), rawURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close(s) })
	return s
}

func TestOpenCookie(t *testing.T) {
	t.Setenv("TEST_KEYS", b64Key(2)+","+b64Key(1))
	file := secretFile(t, b64Key(1)+"\n", 0o600)
	live := testRecord(&testClock{now: time.Now()}, "ada")

	direct := newCookieStore(t, &session.CookieOptions{Irrevocable: true}, testKey(1))
	fromFile := openURL(t, "cookie:?irrevocable=true&keys=file:"+file)
	fromEnv := openURL(t, "cookie:?irrevocable=true&keys=env:TEST_KEYS")
	token := mustSave(t, direct, live)
	mustLoad(t, fromFile, token)
	mustLoad(t, fromEnv, token)
	mustNot(t, direct, mustSave(t, fromEnv, live), "the first key seals")
	mustNot(t, openURL(t, "cookie:?irrevocable=true&name=other&keys=file:"+file), token, "another name")

	s := openURL(t, "cookie:?keys=env:TEST_KEYS&revoked="+url.QueryEscape("memory:?max=100"))
	token = mustSave(t, s, live)
	if err := s.Delete(t.Context(), live.ID); err != nil {
		t.Fatal(err)
	}
	mustNot(t, s, token, "signed out")
}

// closing is a store that counts how often it was closed.
type closing struct {
	*session.MemoryStore
	closed *int
}

func (c closing) Close() error { *c.closed++; return c.MemoryStore.Close() }

func TestOpenClosesRevoked(t *testing.T) {
	t.Setenv("TEST_KEYS", b64Key(1))
	for kind, more := range map[string]string{"cookie": "", "jwt": "&iss=i&aud=a"} {
		opened, closed := 0, 0
		scheme := "counted-by-" + kind
		session.RegisterForTest(t, scheme, func() session.Store {
			opened++
			return closing{session.NewMemoryStore(nil), &closed}
		})
		s, err := session.Open(t.Context(), kind+":?keys=env:TEST_KEYS"+more+"&revoked="+scheme+":")
		if err != nil {
			t.Fatal(err)
		}
		if err := session.Close(s); err != nil || opened != 1 || closed != 1 {
			t.Errorf("%s: opened %d, closed %d, %v", kind, opened, closed, err)
		}
		// A configuration that fails after it was opened leaves nothing open.
		_, err = session.Open(t.Context(), kind+":?keys=env:TEST_KEYS&irrevocable=true"+more+"&revoked="+scheme+":")
		if !errors.Is(err, session.ErrConfig) || opened != closed {
			t.Errorf("%s: opened %d, closed %d, %v", kind, opened, closed, err)
		}
	}
	// What a program passes in stays its own.
	closed := 0
	passed := closing{session.NewMemoryStore(nil), &closed}
	if err := session.Close(newCookieStore(t, &session.CookieOptions{Revoked: passed})); err != nil || closed != 0 {
		t.Errorf("closed %d, %v", closed, err)
	}
}

func TestOpenJWT(t *testing.T) {
	const params = "&irrevocable=true&iss=https://auth.example&aud=shop"
	live := testRecord(&testClock{now: time.Now()}, "ada")
	sec1, err := x509.MarshalECPrivateKey(privateES256)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	pkcs1 := block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(privateRSA))
	for _, tt := range []struct {
		why, keys, more string
		key             session.JWTKey
	}{
		{"a secret", b64Key('h'), "", keyHS256},
		{"a secret, and its algorithm", b64Key('h'), "&alg=HS256", keyHS256},
		{"PKCS #8, Ed25519", privatePEM(t, privateEd25519), "", keyEdDSA},
		{"PKCS #8, ECDSA", privatePEM(t, privateES256), "&alg=ES256", keyES256},
		{"PKCS #8, RSA", privatePEM(t, privateRSA), "&alg=PS256", keyPS256},
		{"PKCS #1", pkcs1, "&alg=RS256", keyRS256},
		{"SEC 1, with parameters in front", block("EC PARAMETERS", []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}) + block("EC PRIVATE KEY", sec1), "", keyES256},
		{"two keys of two kinds", privatePEM(t, privateEd25519) + publicPEM(t, keyES256), "", keyEdDSA},
		{"text between the blocks", "the key of 2026\n" + privatePEM(t, privateEd25519) + "\nthe one before\n" + publicPEM(t, keyES256), "", keyEdDSA},
		{"IDs of one's own", privatePEM(t, privateEd25519) + publicPEM(t, keyES256), "&kid=new&kid=old", withID(keyEdDSA, "new")},
	} {
		t.Run(tt.why, func(t *testing.T) {
			s := openURL(t, "jwt:?keys=file:"+url.QueryEscape(secretFile(t, tt.keys, 0o600))+params+tt.more)
			direct := newJWTStore(t, tt.key, &session.JWTOptions{Irrevocable: true})
			mustLoad(t, s, mustSave(t, direct, live))
			mustLoad(t, direct, mustSave(t, s, live))
		})
	}
	t.Run("a service that only verifies may keep its keys where all can read", func(t *testing.T) {
		s := openURL(t, "jwt:?keys=file:"+url.QueryEscape(secretFile(t, publicPEM(t, keyES256)+publicPEM(t, keyEdDSA), 0o644))+params)
		mustLoad(t, s, mustSave(t, newJWTStore(t, keyEdDSA, &session.JWTOptions{Irrevocable: true}), live))
		_, err := s.Save(t.Context(), live)
		wantErr(t, "Save", err, errors.ErrUnsupported)
	})
	t.Run("sealed, with a lifetime", func(t *testing.T) {
		t.Setenv("TEST_SEAL", b64Key(5))
		s := openURL(t, "jwt:?keys=file:"+url.QueryEscape(secretFile(t, b64Key('h'), 0o600))+params+"&seal=env:TEST_SEAL&lifetime=30m")
		direct := newJWTStore(t, keyHS256, &session.JWTOptions{Irrevocable: true, Seal: [][]byte{testKey(5)}})
		mustLoad(t, direct, mustSave(t, s, live))
		live.Expires = live.Expires.Add(2 * time.Hour)
		_, err := s.Save(t.Context(), live)
		wantErr(t, "longer than lifetime", err, session.ErrConfig)
	})
}

func TestOpenClientConfig(t *testing.T) {
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	secret := b64Key(1)
	t.Setenv("TEST_KEYS", secret)
	t.Setenv("TEST_TEXT", "changeme")
	t.Setenv("TEST_NOT_BASE64", "!!canary!!")
	t.Setenv("TEST_RSA", privatePEM(t, privateRSA))
	t.Setenv("TEST_P384", privatePEM(t, p384))
	t.Setenv("TEST_CERT", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	t.Setenv("TEST_DAMAGED", strings.Replace(privatePEM(t, privateEd25519), "-----END", "----END", 1))
	t.Setenv("TEST_GARBAGE", "-----BEGIN PRIVATE KEY-----\nY2FuYXJ5\n-----END PRIVATE KEY-----\n")
	t.Setenv("TEST_EMPTY", " ")
	for _, tt := range []struct{ url, mend string }{
		{"cookie:", "keys is missing"},
		{"cookie:?irrevocable=true", "keys is missing"},
		{"cookie:?keys=env:TEST_KEYS", "Revoked"},
		{"cookie:?keys=env:TEST_KEYS&irrevocable=yes", "true or false"},
		{"cookie:?keys=env:TEST_KEYS&irrevocable=true&revoked=memory:", "remove one"},
		{"cookie:?keys=env:TEST_KEYS&revoked=" + url.QueryEscape("cookie:?irrevocable=true&keys=env:TEST_KEYS"), "server-side"},
		{"cookie:?keys=env:TEST_KEYS&revoked=nosuch:", "nosuch"},
		{"cookie:?keys=env:TEST_KEYS&irrevocable=true&name=a%20b", "cookie name"},
		{"cookie:?keys=env:TEST_KEYS&irrevocable=true&colour=red", "irrevocable, keys, name, revoked"},
		{"cookie:?keys=" + url.QueryEscape(secret) + "&irrevocable=true", "env:NAME"},
		{"cookie:?keys=env:TEST_NOWHERE&irrevocable=true", "not set"},
		{"cookie:?keys=env:TEST_EMPTY&irrevocable=true", "empty"},
		{"cookie:?keys=env:TEST_TEXT&irrevocable=true", "at least 32"},
		{"cookie:?keys=env:TEST_NOT_BASE64&irrevocable=true", "not base64"},
		{"cookie:?keys=file:" + secretFile(t, secret, 0o644) + "&irrevocable=true", "chmod"},
		{"cookie://host/?keys=env:TEST_KEYS&irrevocable=true", "only parameters"},
		{"cookie:x?keys=env:TEST_KEYS&irrevocable=true", "only parameters"},
		{"jwt:?irrevocable=true&iss=i&aud=a", "keys is missing"},
		{"jwt:?keys=env:TEST_KEYS&irrevocable=true&aud=a", "Issuer"},
		{"jwt:?keys=env:TEST_KEYS&irrevocable=true&iss=i", "Audience"},
		{"jwt:?keys=env:TEST_KEYS&iss=i&aud=a", "Revoked"},
		{"jwt:?keys=env:TEST_KEYS&irrevocable=true&iss=i&aud=a&alg=none", "HS256"},
		{"jwt:?keys=env:TEST_KEYS&irrevocable=true&iss=i&aud=a&lifetime=-1h", "duration"},
		{"jwt:?keys=env:TEST_KEYS&irrevocable=true&iss=i&aud=a&kid=a&kid=b", "kid"},
		{"jwt:?keys=env:TEST_KEYS&irrevocable=true&iss=i&aud=a&colour=red", "alg, aud, irrevocable, iss, keys, kid, lifetime, revoked, seal"},
		{"jwt:?keys=env:TEST_KEYS&irrevocable=true&iss=i&aud=a&seal=env:TEST_KEYS", "signs too"},
		{"jwt:?keys=env:TEST_KEYS&irrevocable=true&iss=i&aud=a&seal=env:TEST_NOT_BASE64", "not base64"},
		{"jwt:?keys=env:TEST_RSA&irrevocable=true&iss=i&aud=a", "alg"},
		{"jwt:?keys=env:TEST_RSA&irrevocable=true&iss=i&aud=a&alg=HS256", "[]byte"},
		{"jwt:?keys=env:TEST_RSA&irrevocable=true&iss=i&aud=a&alg=ES256", "RS256 or PS256"},
		{"jwt:?keys=env:TEST_P384&irrevocable=true&iss=i&aud=a", "P-256"},
		{"jwt:?keys=env:TEST_CERT&irrevocable=true&iss=i&aud=a", "CERTIFICATE"},
		{"jwt:?keys=env:TEST_DAMAGED&irrevocable=true&iss=i&aud=a", "damaged"},
		{"jwt:?keys=env:TEST_GARBAGE&irrevocable=true&iss=i&aud=a", "cannot be read"},
		{"jwt:?keys=file:" + secretFile(t, privatePEM(t, privateEd25519), 0o644) + "&irrevocable=true&iss=i&aud=a", "chmod"},
	} {
		t.Run(tt.url[:min(len(tt.url), 90)], func(t *testing.T) {
			s, err := session.Open(t.Context(), tt.url)
			if !errors.Is(err, session.ErrConfig) || s != nil || !strings.Contains(fmt.Sprint(err), tt.mend) {
				t.Errorf("got %v, %v, want ErrConfig with %q", s, err, tt.mend)
			}
			for _, canary := range []string{secret, "canary", "Y2FuYXJ5", "changeme"} {
				if strings.Contains(fmt.Sprint(err), canary) {
					t.Errorf("the message shows a secret: %v", err)
				}
			}
		})
	}
}
