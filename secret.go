package session

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
)

// readSecret returns what "env:NAME" or "file:PATH" names, without the white
// space around it. Its errors name the place, never what is there.
func readSecret(ref string) ([]byte, error) {
	kind, name, _ := strings.Cut(ref, ":")
	var b []byte
	switch {
	case kind == "env" && name != "":
		v, ok := os.LookupEnv(name)
		if !ok {
			return nil, fmt.Errorf("the environment variable %s is not set", name)
		}
		b = []byte(v)
	case kind == "file" && name != "":
		v, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("the file cannot be read: %w", err)
		}
		if fi, err := os.Stat(name); err == nil && exposed(fi.Mode(), v) {
			return nil, fmt.Errorf("everybody can read or write the file %s; chmod it to 600 (in Kubernetes: defaultMode: 0400)", name)
		}
		b = v
	default:
		// The text may be the secret itself: do not repeat it.
		return nil, errors.New("write env:NAME or file:PATH, not the secret itself")
	}
	if b = bytes.TrimSpace(b); len(b) == 0 {
		return nil, fmt.Errorf("%s is empty", ref)
	}
	return b, nil
}

// exposed tells whether everybody on the machine can read a secret, or write
// what is trusted. Public keys may be read.
func exposed(mode os.FileMode, text []byte) bool {
	public := bytes.Contains(text, []byte("PUBLIC KEY-----")) && !bytes.Contains(text, []byte("PRIVATE KEY-----"))
	return mode.Perm()&0o002 != 0 || mode.Perm()&0o004 != 0 && !public
}

// parseKeys reads symmetric keys: base64 of either alphabet, with or without
// padding, separated by commas, spaces or lines.
func parseKeys(text []byte) ([][]byte, error) {
	fields := strings.FieldsFunc(string(text), func(c rune) bool { return strings.ContainsRune(", \t\r\n", c) })
	keys := make([][]byte, 0, len(fields))
	for i, f := range fields {
		f = strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(f), "=")
		key, err := base64.RawStdEncoding.DecodeString(f)
		if err != nil {
			return nil, fmt.Errorf("key %d is not base64; make one with: openssl rand -base64 32", i+1)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

const (
	minKey  = 32 // bytes; ASVS 5.0, 11.2.3 asks for 128 bits of security, HMAC-SHA256 keys for its size (RFC 7518, 3.2)
	maxKeys = 8  // a forged token costs one try each
)

// checkKeys tells what is wrong with symmetric keys.
func checkKeys(keys [][]byte) error {
	if len(keys) == 0 || len(keys) > maxKeys {
		return fmt.Errorf("there are %d keys; give 1 to %d, the newest first", len(keys), maxKeys)
	}
	for i, key := range keys {
		if len(key) < minKey {
			return fmt.Errorf("key %d has %d bytes; it takes at least %d random ones: openssl rand -base64 32", i+1, len(key), minKey)
		}
		var seen [256]bool
		distinct := 0
		for _, c := range key {
			if !seen[c] {
				seen[c] = true
				distinct++
			}
		}
		// 32 random bytes have fewer than 16 different values once in 10^14.
		if distinct < 12 {
			return fmt.Errorf("key %d has only %d different bytes, so it is not random; make one with: openssl rand -base64 32", i+1, distinct)
		}
		if isText(key) {
			return fmt.Errorf("key %d is text (hex, base64, a password?); decode it to bytes first, or make one with: openssl rand -base64 32", i+1)
		}
		for _, other := range keys[:i] {
			if bytes.Equal(key, other) {
				return fmt.Errorf("key %d is given twice; remove one", i+1)
			}
		}
	}
	return nil
}

// isText tells whether every byte is printable ASCII or white space. Of 32
// random bytes that is true once in 10^13; of "changeme" and of hexadecimal
// digits that nobody decoded, always.
func isText(key []byte) bool {
	for _, c := range key {
		if (c < ' ' || c > '~') && c != '\n' && c != '\r' && c != '\t' {
			return false
		}
	}
	return true
}
