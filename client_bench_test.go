package session_test

import (
	"testing"
	"time"

	"github.com/distsession/session"
)

// The session of the benchmarks: six values, about 400 bytes.
const benchValues = `{"user_id":9007199254740993,"name":"Ada Lovelace","roles":["admin","editor","author"],` +
	`"cart":[{"sku":"A-100","n":2,"cents":1999},{"sku":"B-200","n":1,"cents":4550},{"sku":"C-300","n":10,"cents":25}],` +
	`"csrf":"Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6","last":{"path":"/orders/2026/11/22","at":"2026-11-22T10:11:12Z","filter":"open","page":3}}`

func benchStores(b *testing.B) map[string]session.Store {
	revoked := session.NewMemoryStore(nil)
	b.Cleanup(func() { revoked.Close() })
	stores := map[string]session.Store{
		"cookie":         newCookieStore(b, &session.CookieOptions{Irrevocable: true}),
		"cookie/revoked": newCookieStore(b, &session.CookieOptions{Revoked: revoked}),
		"jwt/HS256/sealed": newJWTStore(b, keyHS256, &session.JWTOptions{
			Irrevocable: true, Seal: [][]byte{testKey(9)},
		}),
	}
	for _, key := range []session.JWTKey{keyHS256, keyES256, keyRS256, keyEdDSA} {
		stores["jwt/"+key.Alg] = newJWTStore(b, key, &session.JWTOptions{Irrevocable: true})
	}
	return stores
}

func BenchmarkClientLoad(b *testing.B) {
	for name, s := range benchStores(b) {
		b.Run(name, func(b *testing.B) {
			token, err := s.Save(b.Context(), benchRecord())
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Load(b.Context(), token); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(token)), "token-B")
		})
	}
}

func BenchmarkClientSave(b *testing.B) {
	for name, s := range benchStores(b) {
		b.Run(name, func(b *testing.B) {
			rec := benchRecord()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Save(b.Context(), rec); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func benchRecord() *session.Record {
	now := time.Now()
	return &session.Record{
		ID: session.ID(session.NewToken()), User: "ada", Device: "Firefox on Linux",
		Created: now, SignedIn: now, Seen: now, Expires: now.Add(30 * time.Minute), Deadline: now.Add(12 * time.Hour),
		Data: []byte(benchValues),
	}
}
