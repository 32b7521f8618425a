package storetest

import (
	_ "embed"
	"encoding/json"
	"strings"
	"testing"

	"github.com/distsession/session"
)

// tokensJSON holds what a client may send instead of a token. The outcome is
// the same for all: no session.
//
//go:embed testdata/tokens.json
var tokensJSON []byte

// hostile is a token that opens nothing, and why somebody would send it.
type hostile struct {
	Name, Why string
	Token     string // with {token}, {id} and the like for those of a live session
	Bytes     []byte // base64, instead of Token
	Repeat    int    // how often Token stands there; 0 is once
}

// hostileTokens returns the vectors with a live session's token put in.
func hostileTokens(t testing.TB, token, id string) []hostile {
	t.Helper()
	var all []hostile
	if err := json.Unmarshal(tokensJSON, &all); err != nil || len(all) == 0 {
		t.Fatalf("testdata/tokens.json: %d vectors, %v", len(all), err)
	}
	fill := strings.NewReplacer(
		"{random}", session.NewToken(),
		"{token}", token,
		"{token^}", strings.ToUpper(token),
		"{token~}", respell(token),
		"{token:1:}", token[1:],
		"{token::-1}", token[:len(token)-1],
		"{token::20}", token[:20],
		"{token:20:}", token[20:],
		"{token::42}", token[:42],
		"{id}", id,
		"{id of id}", session.ID(id),
	)
	for i := range all {
		h := &all[i]
		if h.Bytes != nil {
			h.Token = string(h.Bytes)
		}
		h.Token = strings.Repeat(fill.Replace(h.Token), max(1, h.Repeat))
		h.Token = h.Token[:min(len(h.Token), 1_000_000)] // as much as net/http lets through
		if h.Token == token {
			t.Fatalf("testdata/tokens.json: %q is the token itself", h.Name)
		}
	}
	return all
}

const base64url = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// respell changes the last bit of base64url text. Of 32 bytes in 43 characters
// it is a bit that a lax decoder ignores.
func respell(token string) string {
	last := strings.IndexByte(base64url, token[len(token)-1])
	if last < 0 {
		last = 0
	}
	return token[:len(token)-1] + string(base64url[last^1])
}

// cookieValue tells whether HTTP carries the token as a cookie's value.
func cookieValue(token string) bool {
	for _, c := range []byte(token) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\",;\\", c) >= 0 {
			return false
		}
	}
	return true
}
