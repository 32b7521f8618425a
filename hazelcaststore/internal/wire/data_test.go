package wire_test

import (
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session/hazelcaststore/internal/wire"
)

// What HashUtil.MurmurHash3_x86_32 of Hazelcast 5.7.0 gives.
func TestMurmur3(t *testing.T) {
	for text, want := range map[string]uint32{
		"":               0xa183f3bb,
		"a":              0x9b8024c0,
		"ab":             0x12a6b159,
		"abc":            0x84baf735,
		"abcd":           0xc5f7cfc7,
		"abcde":          0x0b7879d6,
		"session:user:x": 0x6f3d6f2e,
		"The quick brown fox jumps over the lazy dog": 0x9fcc56de,
	} {
		if got := wire.Murmur3([]byte(text)); got != want {
			t.Errorf("%q: %08x; want %08x", text, got, want)
		}
	}
}

// What the serialization service of Hazelcast 5.7.0 makes of a String, and where
// it puts it.
func TestKey(t *testing.T) {
	for text, want := range map[string]struct {
		data      string
		partition int32
	}{
		"":             {"00000000fffffff500000000", 11},
		"recorded:key": {"00000000fffffff50000000c7265636f726465643a6b6579", 105},
		"session:abc":  {"00000000fffffff50000000b73657373696f6e3a616263", 121},
		"schön":        {"00000000fffffff500000006736368c3b66e", 51},
	} {
		key := wire.Key(text)
		if got := hex.EncodeToString(key); got != want.data {
			t.Errorf("%q: %s; want %s", text, got, want.data)
		}
		if got := key.Partition(271); got != want.partition {
			t.Errorf("%q lies in partition %d; want %d", text, got, want.partition)
		}
	}
}

// The end of the stream that an ObjectOutputStream writes stands where the
// milliseconds are.
func TestExpiry(t *testing.T) {
	policy := wire.ModifiedExpiryPolicy
	if len(policy) != 313 || wire.MillisAt != 215 {
		t.Errorf("the policy has %d bytes, the milliseconds at %d; want 313 and 215", len(policy), wire.MillisAt)
	}
	if before, after := policy[:wire.MillisAt], policy[wire.MillisAt+8:]; !strings.HasSuffix(before, "TimeUnit;xp") || !strings.HasPrefix(after, "~r") ||
		policy[wire.MillisAt:wire.MillisAt+8] != strings.Repeat("\x00", 8) {
		t.Error("the milliseconds do not stand between the duration's class and its unit")
	}
	for ttl, want := range map[time.Duration]uint64{
		1500 * time.Millisecond:               1500,
		time.Millisecond + 1:                  2,
		1:                                     1,
		24 * time.Hour:                        86_400_000,
		time.Duration(1<<63 - 1 - 2000000000): 9223372034855, // 292 years
	} {
		data := wire.Expiry(ttl)
		at := wire.DataHeader + wire.MillisAt
		if got := binary.BigEndian.Uint64(data[at:]); got != want {
			t.Errorf("%v: %d ms; want %d", ttl, got, want)
		}
		rest := string(data[wire.DataHeader:at]) + strings.Repeat("\x00", 8) + string(data[at+8:])
		if rest != policy || string(data[:wire.DataHeader]) != "\x00\x00\x00\x00\xff\xff\xff\x9c" {
			t.Errorf("%v: it is no Java stream of the policy: %x", ttl, data)
		}
	}
}
