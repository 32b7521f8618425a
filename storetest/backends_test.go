package storetest_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/distsession/session"
	"github.com/distsession/session/storetest"
	"github.com/redis/go-redis/v9"
)

func TestRedisStore(t *testing.T)         { storetest.Run(t, onMiniredis) }
func TestRedisStoreOverHTTP(t *testing.T) { storetest.RunHTTP(t, onMiniredis) }

func TestCookieStore(t *testing.T)         { storetest.Run(t, cookies) }
func TestCookieStoreOverHTTP(t *testing.T) { storetest.RunHTTP(t, cookies) }

func TestJWTStore(t *testing.T)         { storetest.Run(t, jwts) }
func TestJWTStoreOverHTTP(t *testing.T) { storetest.RunHTTP(t, jwts) }

func TestSealedJWTStore(t *testing.T)         { storetest.Run(t, sealedJWTs) }
func TestSealedJWTStoreOverHTTP(t *testing.T) { storetest.RunHTTP(t, sealedJWTs) }

func onMiniredis(t *testing.T) storetest.Backend {
	server := miniredis.RunT(t)
	clock := &storetest.Clock{}
	return storetest.Backend{
		Open: func() session.Store {
			client := redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: true})
			t.Cleanup(func() { client.Close() })
			return session.NewRedisStore(client, &session.RedisOptions{Now: clock.Now})
		},
		Advance: clock.Advance, // the server's own clock stays: the store must not rest on it
	}
}

func randomKey() []byte {
	key := make([]byte, 32)
	rand.Read(key)
	return key
}

// clientSide is a place whose handles open share a store of what was revoked.
func clientSide(t *testing.T, open func(revoked session.Store, clock *storetest.Clock) (session.Store, error)) storetest.Backend {
	clock := &storetest.Clock{}
	revoked := session.NewMemoryStore(&session.MemoryOptions{Now: clock.Now})
	return storetest.Backend{
		Open: func() session.Store {
			s, err := open(revoked, clock)
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
		ClientSide: true,
		MaxData:    1900,
		Advance:    clock.Advance,
	}
}

func cookies(t *testing.T) storetest.Backend {
	keys := [][]byte{randomKey(), randomKey()}
	return clientSide(t, func(revoked session.Store, clock *storetest.Clock) (session.Store, error) {
		return session.NewCookieStore(keys, &session.CookieOptions{Revoked: revoked, Now: clock.Now})
	})
}

func jwts(t *testing.T) storetest.Backend {
	_, private, _ := ed25519.GenerateKey(nil)
	return clientSide(t, func(revoked session.Store, clock *storetest.Clock) (session.Store, error) {
		return session.NewJWTStore([]session.JWTKey{{Alg: "EdDSA", Key: private}}, &session.JWTOptions{
			Issuer: "https://auth.example", Audience: "shop", Revoked: revoked, Now: clock.Now,
		})
	})
}

func sealedJWTs(t *testing.T) storetest.Backend {
	key, seal := randomKey(), [][]byte{randomKey()}
	return clientSide(t, func(revoked session.Store, clock *storetest.Clock) (session.Store, error) {
		return session.NewJWTStore([]session.JWTKey{{Alg: "HS256", Key: key}}, &session.JWTOptions{
			Issuer: "https://auth.example", Audience: "shop", Seal: seal, Revoked: revoked, Now: clock.Now,
		})
	})
}
