package session

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"

	"github.com/golang-jwt/jwt/v5"
)

// JWTKey is a key of a JWTStore, for one algorithm only.
type JWTKey struct {
	// ID is the token's "kid": up to 64 letters, digits, - and _. If "", it is
	// the key's thumbprint (RFC 7638). Two keys of one ID are ErrConfig.
	ID string

	// Alg is HS256, ES256 (P-256), RS256 or PS256 (RSA of at least 2048 bits)
	// or EdDSA (Ed25519).
	Alg string

	// Key is a []byte of at least 32 random bytes for HS256; else a
	// crypto.Signer, which may live in a key service or hardware, or a
	// crypto.PublicKey (*ecdsa.PublicKey, *rsa.PublicKey, ed25519.PublicKey),
	// which only verifies.
	Key any
}

// jwtAlgs are the algorithms in the order in which messages name them.
var jwtAlgs = []string{"HS256", "ES256", "RS256", "PS256", "EdDSA"}

// jwtPS256 is golang-jwt's, but for the salt: that one takes any length where
// RFC 7518, 3.5 has only the hash's.
var jwtPS256 = &jwt.SigningMethodRSAPSS{
	SigningMethodRSA: &jwt.SigningMethodRSA{Name: "PS256", Hash: crypto.SHA256},
	Options:          &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256},
}

// jwtKey is a JWTKey that was checked.
type jwtKey struct {
	id, alg    string
	method     jwt.SigningMethod
	verify     any           // what method.Verify takes
	signer     crypto.Signer // nil if it only verifies, and for HS256
	thumbprint string
	header     string // the first part of a token that it signs
	jwk        []byte // nil for HS256
}

// signs tells whether the key can sign.
func (k *jwtKey) signs() bool { return k.signer != nil || k.alg == "HS256" }

// newJWTKeys checks the keys of a store and returns them with their IDs.
func newJWTKeys(keys []JWTKey) ([]*jwtKey, error) {
	if len(keys) == 0 || len(keys) > maxKeys {
		return nil, fmt.Errorf("there are %d keys; give 1 to %d, the one that signs first", len(keys), maxKeys)
	}
	checked := make([]*jwtKey, len(keys))
	for i, in := range keys {
		k, err := newJWTKey(in)
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i+1, err)
		}
		for j, other := range checked[:i] {
			switch {
			case k.thumbprint == other.thumbprint:
				return nil, fmt.Errorf("key %d is the same as key %d; a key has one ID and one algorithm", i+1, j+1)
			case k.id == other.id:
				return nil, fmt.Errorf("key %d has the ID of key %d; give each its own, or none", i+1, j+1)
			case (k.alg == "HS256") != (other.alg == "HS256"):
				// Who holds a public key must not get near one that signs
				// (ASVS 5.0, 9.1.2; RFC 8725, 3.1).
				return nil, fmt.Errorf("key %d is %s and key %d is %s; a store has either HS256 keys or public-key ones, so move with two stores", i+1, k.alg, j+1, other.alg)
			}
		}
		checked[i] = k
	}
	return checked, nil
}

func newJWTKey(in JWTKey) (*jwtKey, error) {
	k := &jwtKey{id: in.ID, alg: in.Alg}
	var err error
	switch in.Alg {
	case "HS256":
		err = k.useSecret(in.Key)
	case "ES256", "RS256", "PS256", "EdDSA":
		err = k.usePublicKey(in.Key)
	default:
		err = fmt.Errorf("field Alg is %q; it takes one of %q", in.Alg, jwtAlgs)
	}
	if err != nil {
		return nil, err
	}
	if k.id == "" {
		k.id = k.thumbprint
	}
	if !jwtIDFits(k.id) {
		return nil, fmt.Errorf("ID %q is not 1 to 64 letters, digits, - and _; leave it out for the key's thumbprint", k.id)
	}
	if k.jwk != nil {
		k.jwk = append(k.jwk[:len(k.jwk)-1], fmt.Sprintf(`,"use":"sig","alg":%q,"kid":%q}`, k.alg, k.id)...)
	}
	k.header = b64.EncodeToString(fmt.Appendf(nil, `{"alg":%q,"typ":%q,"kid":%q}`, k.alg, jwtType, k.id))
	return k, nil
}

// jwtIDFits tells whether s can be a kid or a jti: it goes into logs, and may
// be looked up elsewhere (RFC 8725, 3.10).
func jwtIDFits(s string) bool {
	for _, c := range []byte(s) {
		if base64Value(c) < 0 {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

func (k *jwtKey) useSecret(key any) error {
	secret, ok := key.([]byte)
	if !ok {
		return fmt.Errorf("HS256 takes a []byte of %d random bytes, not a %T", minKey, key)
	}
	if err := checkKeys([][]byte{secret}); err != nil {
		return err
	}
	secret = bytes.Clone(secret)
	k.method, k.verify = jwt.SigningMethodHS256, secret
	k.setJWK(struct {
		K   string `json:"k"`
		Kty string `json:"kty"`
	}{b64.EncodeToString(secret), "oct"})
	k.jwk = nil // a secret is never published
	return nil
}

func (k *jwtKey) usePublicKey(key any) error {
	public := key
	switch key := key.(type) {
	case ed25519.PrivateKey:
		if len(key) != ed25519.PrivateKeySize {
			return errors.New("the Ed25519 private key does not have 64 bytes")
		}
		k.signer, public = key, key.Public()
	case *ecdsa.PrivateKey, *rsa.PrivateKey, crypto.Signer:
		if key == (*ecdsa.PrivateKey)(nil) || key == (*rsa.PrivateKey)(nil) {
			return errors.New("Key is a nil pointer")
		}
		k.signer = key.(crypto.Signer)
		public = k.signer.Public()
	}
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		return k.useECDSA(public)
	case *rsa.PublicKey:
		return k.useRSA(public)
	case ed25519.PublicKey:
		return k.useEd25519(public)
	}
	return fmt.Errorf("%s does not take a %T; give a crypto.Signer, *ecdsa.PublicKey, *rsa.PublicKey or ed25519.PublicKey", k.alg, key)
}

func (k *jwtKey) useECDSA(public *ecdsa.PublicKey) error {
	if k.alg != "ES256" {
		return fmt.Errorf("an ECDSA key signs with ES256, not %s", k.alg)
	}
	if public == nil || public.Curve != elliptic.P256() {
		return errors.New("ES256 takes a key on the curve P-256")
	}
	point, err := public.Bytes()
	if err != nil {
		return errors.New("the ECDSA public key is no point of its curve")
	}
	k.method, k.verify = jwt.SigningMethodES256, public
	k.setJWK(struct {
		Crv string `json:"crv"`
		Kty string `json:"kty"`
		X   string `json:"x"`
		Y   string `json:"y"`
	}{"P-256", "EC", b64.EncodeToString(point[1:33]), b64.EncodeToString(point[33:])})
	return nil
}

func (k *jwtKey) useRSA(public *rsa.PublicKey) error {
	switch {
	case k.alg != "RS256" && k.alg != "PS256":
		return fmt.Errorf("an RSA key signs with RS256 or PS256, not %s", k.alg)
	case public == nil || public.N == nil || public.N.BitLen() < 2048:
		return errors.New("an RSA key takes at least 2048 bits (RFC 7518, 3.3)")
	case public.E < 3 || public.E&1 == 0:
		return errors.New("the RSA key's exponent is not an odd number of at least 3")
	}
	k.method, k.verify = jwt.SigningMethodRS256, public
	if k.alg == "PS256" {
		k.method = jwtPS256
	}
	k.setJWK(struct {
		E   string `json:"e"`
		Kty string `json:"kty"`
		N   string `json:"n"`
	}{b64.EncodeToString(big.NewInt(int64(public.E)).Bytes()), "RSA", b64.EncodeToString(public.N.Bytes())})
	return nil
}

func (k *jwtKey) useEd25519(public ed25519.PublicKey) error {
	switch {
	case k.alg != "EdDSA":
		return fmt.Errorf("an Ed25519 key signs with EdDSA, not %s", k.alg)
	case len(public) != ed25519.PublicKeySize:
		return errors.New("the Ed25519 public key does not have 32 bytes")
	case smallOrder(public):
		return errors.New("the Ed25519 public key is one under which anybody can sign")
	}
	k.method, k.verify = jwt.SigningMethodEdDSA, public
	k.setJWK(struct {
		Crv string `json:"crv"`
		Kty string `json:"kty"`
		X   string `json:"x"`
	}{"Ed25519", "OKP", b64.EncodeToString(public)})
	return nil
}

// setJWK takes the members that RFC 7638 hashes, in its order.
func (k *jwtKey) setJWK(members any) {
	k.jwk, _ = json.Marshal(members) // strings only
	sum := sha256.Sum256(k.jwk)
	k.thumbprint = b64.EncodeToString(sum[:])
}

// smallOrderY are the y coordinates, little endian, of the points of order 1,
// 2, 4 and 8, in every spelling that crypto/ed25519 takes. A forged signature
// verifies under such a key for one message in eight or more.
var smallOrderY = []string{
	"\x01" + zeros + "\x00",
	"\x00" + zeros + "\x00",
	"\xec" + ones + "\x7f", // p - 1
	"\xed" + ones + "\x7f", // p, that is 0
	"\xee" + ones + "\x7f", // p + 1, that is 1
	"\x26\xe8\x95\x8f\xc2\xb2\x27\xb0\x45\xc3\xf4\x89\xf2\xef\x98\xf0\xd5\xdf\xac\x05\xd3\xc6\x33\x39\xb1\x38\x02\x88\x6d\x53\xfc\x05",
	"\xc7\x17\x6a\x70\x3d\x4d\xd8\x4f\xba\x3c\x0b\x76\x0d\x10\x67\x0f\x2a\x20\x53\xfa\x2c\x39\xcc\xc6\x4e\xc7\xfd\x77\x92\xac\x03\x7a",
}

const (
	zeros = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	ones  = "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"
)

func smallOrder(public ed25519.PublicKey) bool {
	y := bytes.Clone(public)
	y[31] &= 0x7f // the sign of x
	for _, small := range smallOrderY {
		if string(y) == small {
			return true
		}
	}
	return false
}

// sign returns the signature of a token's first two parts.
func (k *jwtKey) sign(text string) ([]byte, error) {
	switch k.alg {
	case "HS256":
		return k.method.Sign(text, k.verify)
	case "EdDSA":
		return crypto.SignMessage(k.signer, rand.Reader, []byte(text), crypto.Hash(0))
	case "PS256":
		return crypto.SignMessage(k.signer, rand.Reader, []byte(text), jwtPS256.Options)
	case "RS256":
		return crypto.SignMessage(k.signer, rand.Reader, []byte(text), crypto.SHA256)
	}
	der, err := crypto.SignMessage(k.signer, rand.Reader, []byte(text), crypto.SHA256)
	if err != nil {
		return nil, err
	}
	// A crypto.Signer returns ASN.1, a JWT holds two numbers of 32 bytes
	// (RFC 7518, 3.4).
	var sig struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &sig); err != nil || len(rest) > 0 ||
		sig.R.Sign() <= 0 || sig.S.Sign() <= 0 || sig.R.BitLen() > 256 || sig.S.BitLen() > 256 {
		return nil, errors.New("the signer returned no ECDSA signature")
	}
	out := make([]byte, 64)
	sig.R.FillBytes(out[:32])
	sig.S.FillBytes(out[32:])
	return out, nil
}
