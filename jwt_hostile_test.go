package session_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/distsession/session"
)

// A jwtVector describes a token by what differs from a good one.
type jwtVector struct {
	Name, Why, Source string

	Store         string                     // the algorithm of the store's key "k1"; HS256
	Header        json.RawMessage            // as it stands
	HeaderText    *string                    `json:"header_text"` // where it is no JSON
	Set           map[string]json.RawMessage // claims that are other or more
	ClaimsSetText map[string]string          `json:"claims_set_text"` // the same, expanded
	Without       []string                   // claims that are missing
	ClaimsText    *string                    `json:"claims_text"` // all claims as they stand
	Sign          string                     // how it is signed; with the store's key
	Encode        map[string]string          // other base64 for header, claims or signature
	Shape         *string                    // {h}.{c}.{s}

	Expect  string  // "none" or "session"
	User    *string // of that session; "ada"
	Expires int64   // of that session
}

func TestHostileJWT(t *testing.T) {
	stores := map[string]*session.JWTStore{}
	for _, key := range jwtKeys {
		key.ID = "k1"
		stores[key.Alg] = newJWTStore(t, key, &session.JWTOptions{Irrevocable: true, Now: hostileClock().Now})
	}
	hostileVectors(t, "jwt", func(t *testing.T, v jwtVector) {
		if v.Store == "" {
			v.Store = "HS256"
		}
		s := stores[v.Store]
		token := v.token(t)
		if v.Expect == "none" {
			mustNot(t, s, token, v.Why)
			return
		}
		rec := mustLoad(t, s, token)
		user := "ada"
		if v.User != nil {
			user = *v.User
		}
		if slices.Contains(v.Without, "sub") {
			user = ""
		}
		if rec.User != user || v.Expires > 0 && rec.Expires.Unix() != v.Expires {
			t.Errorf("loads %+v", rec)
		}
	})
}

func (v *jwtVector) token(t *testing.T) string {
	// A text that base64 encodes differently in the way that is asked for is
	// found soon.
	for n := range 100 {
		header, claims := v.header(), v.claims()
		if v.Encode != nil {
			header += strings.Repeat(" ", n%3)
			claims = claims[:len(claims)-1] + `,"z":"` + strings.Repeat("~", 3+n) + `"}` + strings.Repeat(" ", n%3)
		}
		h, differs := v.encode("header", []byte(header))
		c, differs2 := v.encode("claims", []byte(claims))
		s, differs3 := v.encode("signature", v.signature(t, h+"."+c))
		if v.Encode != nil && !differs && !differs2 && !differs3 {
			continue
		}
		shape := "{h}.{c}.{s}"
		if v.Shape != nil {
			shape = *v.Shape
		}
		return strings.NewReplacer("{h}", h, "{c}", c, "{s}", s).Replace(expand(shape))
	}
	t.Fatal("no text encodes differently")
	return ""
}

func (v *jwtVector) header() string {
	switch {
	case v.HeaderText != nil:
		return *v.HeaderText
	case v.Header != nil:
		attacker := ed25519.NewKeyFromSeed(testKey('a')).Public().(ed25519.PublicKey)
		return strings.ReplaceAll(expand(string(v.Header)), "<<attacker>>", base64.RawURLEncoding.EncodeToString(attacker))
	}
	return `{"alg":"` + v.Store + `","typ":"session+jwt","kid":"k1"}`
}

func (v *jwtVector) claims() string {
	now := hostileNow.Unix()
	claims := [][2]string{
		{"iss", `"` + testIssuer + `"`}, {"aud", `"` + testAudience + `"`}, {"sub", `"ada"`},
		{"exp", fmt.Sprint(now + 1800)}, {"iat", fmt.Sprint(now - 60)}, {"jti", `"vector-jti-0001"`},
		{"values", `{"cart":[1,2,3]}`},
		{"session", fmt.Sprintf(`{"version":3,"created":%d,"seen":%d,"expires":%d}`, (now-60)*1000, (now-60)*1000, (now+1800)*1000)},
	}
	var members []string
	add := func(name, value string) { members = append(members, `"`+name+`":`+value) }
	set := maps.Clone(v.Set)
	if set == nil {
		set = map[string]json.RawMessage{}
	}
	for name, value := range v.ClaimsSetText {
		set[name] = json.RawMessage(expand(value))
	}
	for _, claim := range claims {
		if value, ok := set[claim[0]]; ok {
			add(claim[0], string(value))
			delete(set, claim[0])
		} else if !slices.Contains(v.Without, claim[0]) {
			add(claim[0], claim[1])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		add(name, string(set[name]))
	}
	all := strings.Join(members, ",")
	if v.ClaimsText == nil {
		return "{" + all + "}"
	}
	var wide []byte
	for _, u := range utf16.Encode([]rune("{" + all + "}")) {
		wide = append(wide, byte(u>>8), byte(u))
	}
	return strings.NewReplacer("<<claims>>", "{"+all+"}", "<<members>>", all, "<<utf16>>", string(wide)).Replace(expand(*v.ClaimsText))
}

// encode returns a part in base64url, or in the other way that the vector has
// for it; differs tells whether that made a difference.
func (v *jwtVector) encode(part string, b []byte) (text string, differs bool) {
	url := base64.RawURLEncoding.EncodeToString(b)
	text = url
	switch v.Encode[part] {
	case "std":
		text = base64.RawStdEncoding.EncodeToString(b)
	case "padded":
		text = base64.URLEncoding.EncodeToString(b)
	case "newline":
		text = url[:8] + "\n" + url[8:]
	case "return":
		text = url[:8] + "\r" + url[8:]
	case "space":
		text = url[:8] + " " + url[8:]
	case "slack":
		if len(b)%3 != 0 {
			const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
			last := strings.IndexByte(alphabet, url[len(url)-1])
			text = url[:len(url)-1] + alphabet[last|1:last|1+1]
		}
	}
	return text, text != url
}

func (v *jwtVector) signature(t *testing.T, text string) []byte {
	t.Helper()
	hash := sha256.Sum256([]byte(text))
	mac := func(key []byte) []byte {
		m := hmac.New(sha256.New, key)
		m.Write([]byte(text))
		return m.Sum(nil)
	}
	must := func(sig []byte, err error) []byte {
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	pss := func(key *rsa.PrivateKey, salt int) []byte {
		return must(rsa.SignPSS(rand.Reader, key, crypto.SHA256, hash[:], &rsa.PSSOptions{SaltLength: salt}))
	}
	sha512mac := func(size crypto.Hash) []byte {
		m := hmac.New(size.New, testKey('h'))
		m.Write([]byte(text))
		return m.Sum(nil)
	}
	asymmetric := map[string]crypto.Signer{"ES256": privateES256, "RS256": privateRSA, "PS256": privateRSA, "EdDSA": privateEd25519}
	switch kind, form, _ := strings.Cut(v.Sign, " "); v.Sign {
	case "":
		switch v.Store {
		case "HS256":
			return mac(testKey('h'))
		case "ES256":
			return ecdsaSignature(t, privateES256, hash[:])
		case "RS256":
			return must(rsa.SignPKCS1v15(nil, privateRSA, crypto.SHA256, hash[:]))
		case "PS256":
			return pss(privateRSA, 32)
		}
		return ed25519.Sign(privateEd25519, []byte(text))
	case "right":
		w := *v
		w.Sign = ""
		return w.signature(t, text)
	case "nothing":
		return nil
	case "zeros", "short", "long":
		w := *v
		w.Sign = ""
		sig := w.signature(t, text)
		if v.Sign == "zeros" {
			return make([]byte, len(sig))
		}
		return append(sig, 0)[:len(sig)+map[string]int{"short": -1, "long": 1}[v.Sign]]
	case "other key":
		switch v.Store {
		case "HS256":
			return mac(testKey('x'))
		case "ES256":
			other, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			return ecdsaSignature(t, other, hash[:])
		case "EdDSA":
			return ed25519.Sign(ed25519.NewKeyFromSeed(testKey('x')), []byte(text))
		}
		if v.Store == "RS256" {
			return must(rsa.SignPKCS1v15(nil, otherRSA(), crypto.SHA256, hash[:]))
		}
		return pss(otherRSA(), 32)
	case "empty key":
		return mac(nil)
	case "attacker":
		return ed25519.Sign(ed25519.NewKeyFromSeed(testKey('a')), []byte(text))
	case "HS384":
		return sha512mac(crypto.SHA384)
	case "HS512":
		return sha512mac(crypto.SHA512)
	case "PS256":
		return pss(privateRSA, 32)
	case "PS256 short salt":
		return pss(privateRSA, 20)
	case "RS256":
		return must(rsa.SignPKCS1v15(nil, privateRSA, crypto.SHA256, hash[:]))
	case "ASN.1":
		return must(ecdsa.SignASN1(rand.Reader, privateES256, hash[:]))
	case "S+L":
		return plusL(ed25519.Sign(privateEd25519, []byte(text)))
	default:
		if kind != "HS256" {
			t.Fatalf("sign %q", v.Sign)
		}
		return mac(publicBytes(t, asymmetric[v.Store].Public(), form))
	}
}

var _ = sha512.New // registers SHA-384 and SHA-512

func ecdsaSignature(t *testing.T, key *ecdsa.PrivateKey, hash []byte) []byte {
	t.Helper()
	der, err := ecdsa.SignASN1(rand.Reader, key, hash)
	var sig struct{ R, S *big.Int }
	if _, err2 := asn1.Unmarshal(der, &sig); err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	return append(sig.R.FillBytes(make([]byte, 32)), sig.S.FillBytes(make([]byte, 32))...)
}

// plusL adds the order of the group to a signature's S.
func plusL(sig []byte) []byte {
	l, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	s := bytes.Clone(sig[32:])
	slices.Reverse(s)
	out := new(big.Int).Add(new(big.Int).SetBytes(s), l).FillBytes(make([]byte, 32))
	slices.Reverse(out)
	return append(bytes.Clone(sig[:32]), out...)
}

// publicBytes is what somebody who confuses algorithms takes for an HMAC key.
func publicBytes(t testing.TB, public crypto.PublicKey, form string) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	switch form {
	case "PEM":
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	case "DER":
		return der
	}
	switch public := public.(type) {
	case ed25519.PublicKey:
		return public
	case *ecdsa.PublicKey:
		point, _ := public.Bytes()
		return point
	case *rsa.PublicKey:
		return public.N.Bytes()
	}
	t.Fatalf("%T", public)
	return nil
}

// Whatever single character of a token is another one, or wherever it ends, it
// is no session.
func TestJWTEveryMutation(t *testing.T) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ \n\r\x00\xff"
	s := newJWTStore(t, keyHS256, &session.JWTOptions{Irrevocable: true})
	everyMutation(t, s, mustSave(t, s, testRecord(&testClock{now: time.Now()}, "ada")), alphabet)
	for _, key := range jwtKeys[1:] { // verifying is slow: the ends, and every bit of the signature
		s := newJWTStore(t, key, &session.JWTOptions{Irrevocable: true})
		token := mustSave(t, s, testRecord(&testClock{now: time.Now()}, "ada"))
		at := strings.LastIndexByte(token, '.') + 1
		sig, err := base64.RawURLEncoding.DecodeString(token[at:])
		if err != nil {
			t.Fatal(err)
		}
		for bit := range len(sig) * 8 {
			sig[bit/8] ^= 1 << (bit % 8)
			mustNot(t, s, token[:at]+base64.RawURLEncoding.EncodeToString(sig), fmt.Sprintf("%s: bit %d of the signature", key.Alg, bit))
			sig[bit/8] ^= 1 << (bit % 8)
		}
		for _, c := range []byte(alphabet) {
			if last := len(token) - 1; token[last] != c {
				mustNot(t, s, token[:last]+string([]byte{c}), fmt.Sprintf("%s: %q at the end", key.Alg, c))
			}
		}
	}
}

func everyMutation(t *testing.T, s session.Store, token, alphabet string) {
	t.Helper()
	mustLoad(t, s, token)
	b := []byte(token)
	for i := range b {
		mustNot(t, s, token[:i], fmt.Sprintf("cut to %d", i))
		mustNot(t, s, token[i+1:], fmt.Sprintf("without the first %d", i+1))
		mustNot(t, s, token[:i]+token[i+1:], fmt.Sprintf("without character %d", i))
		kept := b[i]
		for _, c := range []byte(alphabet) {
			if b[i] = c; c != kept {
				mustNot(t, s, string(b), fmt.Sprintf("%q at %d", c, i))
			}
		}
		for bit := range 8 {
			b[i] = kept ^ 1<<bit
			mustNot(t, s, string(b), fmt.Sprintf("bit %d of character %d", bit, i))
		}
		b[i] = kept
		if t.Failed() {
			return
		}
	}
	for n := range 64 {
		for _, c := range []byte(alphabet) {
			mustNot(t, s, token+strings.Repeat(string([]byte{c}), n+1), fmt.Sprintf("%d times %q behind", n+1, c))
		}
	}
}
