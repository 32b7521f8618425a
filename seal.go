package session

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
)

// newSeal derives from key a cipher that is good for one purpose alone:
// AES-256 in Galois counter mode, each message with a random nonce in front.
// Under one derived key 2^32 messages are safe (NIST SP 800-38D, 8.3).
func newSeal(key []byte, purpose string) (cipher.AEAD, error) {
	derived, err := hkdf.Key(sha256.New, key, nil, "distsession/session "+purpose, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// boundTo joins what a sealed text is bound to, each with its length, so that
// no two lists look alike.
func boundTo(parts ...string) []byte {
	var b []byte
	for _, part := range parts {
		b = binary.AppendUvarint(b, uint64(len(part)))
		b = append(b, part...)
	}
	return b
}
