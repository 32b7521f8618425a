package session

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
)

func init() { Register("jwt", openJWTStore) }

// openJWTStore opens jwt:?keys=file:keys.pem&iss=…&aud=…&revoked=…
func openJWTStore(ctx context.Context, u *url.URL) (Store, error) {
	if err := onlyParams(u, "revoked"); err != nil {
		return nil, err
	}
	p := NewParams(u)
	opts := &JWTOptions{
		Issuer:      p.String("iss", ""),
		Audience:    p.String("aud", ""),
		Lifetime:    p.Duration("lifetime", 0),
		Irrevocable: p.Bool("irrevocable"),
	}
	alg := p.String("alg", "")
	text, seal := p.Secret("keys"), p.Secret("seal")
	kids := p.All("kid")
	revoked := p.String("revoked", "")
	if err := p.Err(); err != nil {
		return nil, err
	}
	if text == nil {
		return nil, configError("jwt: keys is missing; write keys=env:NAME or keys=file:PATH, with PEM keys there, the one that signs first, or for HS256 base64 of 32 random bytes")
	}
	keys, err := parseJWTKeys(text, alg)
	if err != nil {
		return nil, configError("jwt: keys: %w", err)
	}
	if len(kids) > 0 && len(kids) != len(keys) {
		return nil, configError("jwt: there are %d keys and %d kid; repeat kid for each key in order, or leave it out", len(keys), len(kids))
	}
	for i, kid := range kids {
		keys[i].ID = kid
	}
	if seal != nil {
		if opts.Seal, err = parseKeys(seal); err != nil {
			return nil, configError("jwt: seal: %w", err)
		}
	}
	if opts.Revoked, err = openInner(ctx, "jwt", "revoked", revoked); err != nil {
		return nil, err
	}
	s, err := NewJWTStore(keys, opts)
	if err != nil {
		_ = Close(opts.Revoked)
		return nil, err
	}
	s.revoked.owned = opts.Revoked != nil
	return s, nil
}

// parseJWTKeys reads PEM blocks, one a key, or else symmetric keys in base64.
// Without alg, a key has the one algorithm that fits it.
func parseJWTKeys(text []byte, alg string) ([]JWTKey, error) {
	var keys []JWTKey
	if !bytes.Contains(text, []byte("-----BEGIN")) {
		secrets, err := parseKeys(text)
		if err != nil {
			return nil, err
		}
		for _, secret := range secrets {
			keys = append(keys, JWTKey{Alg: fittingAlg(secret, alg), Key: secret})
		}
		return keys, nil
	}
	begun, read := bytes.Count(text, []byte("-----BEGIN")), 0
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		read++
		if block.Type == "EC PARAMETERS" { // openssl ecparam writes it before the key
			continue
		}
		key, err := parsePEMKey(block)
		if err != nil {
			return nil, fmt.Errorf("PEM block %d: %w", len(keys)+1, err)
		}
		if alg == "" && fittingAlg(key, "") == "" {
			return nil, fmt.Errorf("PEM block %d is an RSA key, which fits RS256 and PS256; add the parameter alg", len(keys)+1)
		}
		keys = append(keys, JWTKey{Alg: fittingAlg(key, alg), Key: key})
	}
	// pem.Decode passes over what it cannot read, wherever it stands.
	if read != begun {
		return nil, fmt.Errorf("of %d PEM blocks, %d can be read; the others are damaged", begun, read)
	}
	return keys, nil
}

// fittingAlg is alg, or if that is "" the one algorithm for the key.
func fittingAlg(key any, alg string) string {
	if alg != "" {
		return alg
	}
	switch key.(type) {
	case []byte:
		return "HS256"
	case *ecdsa.PrivateKey, *ecdsa.PublicKey:
		return "ES256"
	case ed25519.PrivateKey, ed25519.PublicKey:
		return "EdDSA"
	}
	return ""
}

func parsePEMKey(block *pem.Block) (any, error) {
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "PUBLIC KEY":
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	default:
		return nil, fmt.Errorf("a %q is not read; give a PRIVATE KEY (not encrypted) or a PUBLIC KEY: openssl genpkey -algorithm ed25519", block.Type)
	}
	switch key.(type) {
	case *rsa.PrivateKey, *rsa.PublicKey, *ecdsa.PrivateKey, *ecdsa.PublicKey, ed25519.PrivateKey, ed25519.PublicKey:
		if err == nil {
			return key, nil
		}
	}
	// The parser's own message may quote what it read.
	return nil, errors.New("it cannot be read as an RSA, ECDSA or Ed25519 key")
}
