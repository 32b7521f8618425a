package wire

import (
	"encoding/binary"
	"math/bits"
	"time"
)

// Data is a key or a value as a member keeps it: big-endian
//
//	int32  a hash that somebody else chose, 0 for none
//	int32  type
//	payload
type Data []byte

// The types of Data. A negative one is built in.
const (
	typeBoolean = -4   // one byte
	typeString  = -11  // int32 bytes, UTF-8
	typeBytes   = -12  // int32 bytes, the bytes
	typeJava    = -100 // the stream of an ObjectOutputStream
)

const dataHeader = 8

func newData(kind int32, size int) Data {
	b := make(Data, 4, dataHeader+size)
	return binary.BigEndian.AppendUint32(b, uint32(kind))
}

// Key is a cache's key.
func Key(text string) Data {
	b := newData(typeString, 4+len(text))
	b = binary.BigEndian.AppendUint32(b, uint32(len(text)))
	return append(b, text...)
}

// Bytes is a value.
func Bytes(value []byte) Data {
	b := newData(typeBytes, 4+len(value))
	b = binary.BigEndian.AppendUint32(b, uint32(len(value)))
	return append(b, value...)
}

func (d Data) kind() int32 { return int32(binary.BigEndian.Uint32(d[4:])) }

// counted returns the bytes of a value of this type; ok is false if it is of
// another.
func (d Data) counted(kind int32) (value []byte, ok bool) {
	if len(d) < dataHeader+4 || d.kind() != kind {
		return nil, false
	}
	value = d[dataHeader+4:]
	return value, uint64(binary.BigEndian.Uint32(d[dataHeader:])) == uint64(len(value))
}

// boolean returns what a Boolean says.
func (d Data) boolean() (value, ok bool) {
	if len(d) != dataHeader+1 || d.kind() != typeBoolean {
		return false, false
	}
	return d[dataHeader] != 0, true
}

// Partition is where a key lies. The member believes what it is told, so a wrong
// one would hide the entry from everybody else.
func (d Data) Partition(count int32) int32 {
	hash := int32(murmur3(d[dataHeader:]))
	if hash == -1<<31 {
		return 0 // it has no absolute value
	}
	return max(hash, -hash) % count
}

// murmur3 is MurmurHash3_x86_32 with Hazelcast's seed. (Austin Appleby placed it
// in the public domain.)
func murmur3(b []byte) uint32 {
	const c1, c2 = 0xcc9e2d51, 0x1b873593
	h, n := uint32(0x01000193), len(b)
	for ; len(b) >= 4; b = b[4:] {
		h ^= bits.RotateLeft32(binary.LittleEndian.Uint32(b)*c1, 15) * c2
		h = bits.RotateLeft32(h, 13)*5 + 0xe6546b64
	}
	if len(b) > 0 {
		var tail [4]byte
		copy(tail[:], b)
		h ^= bits.RotateLeft32(binary.LittleEndian.Uint32(tail[:])*c1, 15) * c2
	}
	h ^= uint32(n)
	h = (h ^ h>>16) * 0x85ebca6b
	h = (h ^ h>>13) * 0xc2b2ae35
	return h ^ h>>16
}

// modifiedExpiryPolicy is what Java 17 writes for
//
//	new ObjectOutputStream(out).writeObject(
//		new ModifiedExpiryPolicy(new Duration(TimeUnit.MILLISECONDS, 0)))
//
// with javax.cache:cache-api:1.1.1: the time to live begins anew when the value
// is written, and a compare that fails leaves it alone. Hazelcast's own
// HazelcastExpiryPolicy is shorter, but a compare that fails counts as an access
// there, and may end the entry of the writer who won.
const modifiedExpiryPolicy = "\xac\xed\x00\x05" +
	"sr\x00\x27javax.cache.expiry.ModifiedExpiryPolicy\x00\x00\x00\x2e\xde\xb8\x15\x22\x02\x00\x01" +
	"L\x00\x0eexpiryDurationt\x00\x1dLjavax/cache/expiry/Duration;xp" +
	"sr\x00\x1bjavax.cache.expiry.Duration\x00\x00\x00\x2e\xde\xb8\x14\x82\x02\x00\x02" +
	"J\x00\x0edurationAmount" + "L\x00\x08timeUnitt\x00\x1fLjava/util/concurrent/TimeUnit;xp" +
	"\x00\x00\x00\x00\x00\x00\x00\x00" + // the milliseconds, at millisAt
	"~r\x00\x1djava.util.concurrent.TimeUnit\x00\x00\x00\x00\x00\x00\x00\x00\x12\x00\x00x" +
	"r\x00\x0ejava.lang.Enum\x00\x00\x00\x00\x00\x00\x00\x00\x12\x00\x00xpt\x00\x0cMILLISECONDS"

const millisAt = 215

// expiry is the policy that an entry ends after ttl, in whole milliseconds,
// rounded up.
func expiry(ttl time.Duration) Data {
	b := append(newData(typeJava, len(modifiedExpiryPolicy)), modifiedExpiryPolicy...)
	ms := ttl.Milliseconds()
	if ttl%time.Millisecond > 0 {
		ms++
	}
	binary.BigEndian.PutUint64(b[dataHeader+millisAt:], uint64(ms))
	return b
}
