package dirstore

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distsession/session"
)

const (
	recordsDir = "sessions"
	usersDir   = "users"

	// NewDir is where a Protocol makes what is not finished, under the names
	// that Unfinished returns.
	NewDir = "new"
	// OldDir is where what was ended is moved.
	OldDir = "old"

	nameLen = 40 // hexadecimal digits: 160 bits, so that nobody finds two IDs with one name
	userLen = 32 // two users with one hash would only share a part of the index

	timeDigits = 13
	maxMilli   = 9_999_999_999_999 // 13 digits: the year 2286
)

// The fan-out: 256 folders of 16, so that with a million sessions a folder has
// about 250, and with few there are not many folders.
const (
	fanOut1, fanOut2 = 2, 1 // digits
	folders          = 1 << (4 * (fanOut1 + fanOut2))
)

// folder is the n-th of the lowest folders of the fan-out, below kind.
func folder(kind string, n int) string {
	digits := strconv.FormatInt(int64(folders+n), 16)[1:]
	return kind + "/" + digits[:fanOut1] + "/" + digits[fanOut1:]
}

// foldersOf lists the lowest folders that are there, in order.
func (s *Store) foldersOf(ctx context.Context, kind string) ([]int, error) {
	var found []int
	high, err := s.hexNames(ctx, kind, fanOut1)
	if err != nil {
		return nil, err
	}
	for _, h := range high {
		low, err := s.hexNames(ctx, fmt.Sprintf("%s/%0*x", kind, fanOut1, h), fanOut2)
		if err != nil {
			return nil, err
		}
		for _, l := range low {
			found = append(found, h<<(4*fanOut2)+l)
		}
	}
	return found, nil
}

// hexNames lists the names in dir that are numbers of so many hexadecimal
// digits, in order.
func (s *Store) hexNames(ctx context.Context, dir string, digits int) ([]int, error) {
	var found []int
	err := s.tree.ReadDir(ctx, dir, func(name string) bool {
		if n, err := strconv.ParseUint(name, 16, 31); err == nil && isHash(name, digits) {
			found = append(found, int(n))
		}
		return true
	})
	slices.Sort(found)
	return found, missing(err)
}

func folderOf(kind, hash string) string {
	return kind + "/" + hash[:fanOut1] + "/" + hash[fanOut1:fanOut1+fanOut2]
}

// recordName is the name of the directory of the record with this ID, any text.
func recordName(id string) string { return hash(id, nameLen) }

// recordDir is the path of the directory of this name.
func recordDir(name string) string { return folderOf(recordsDir, name) + "/" + name }

// Dir is the path of the record of this ID: for tests, and for operators' tools.
func Dir(id string) string { return recordDir(recordName(id)) }

func userHash(user string) string { return hash("user\x00"+user, userLen) }

func hash(text string, digits int) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:digits/2])
}

func isHash(s string, digits int) bool {
	return len(s) == digits && strings.Trim(s, "0123456789abcdef") == ""
}

// Unfinished returns a path in NewDir that nobody else has.
func Unfinished() string { return NewDir + "/" + rand.Text() }

// An entry of the index of a user's sessions.
type entry struct {
	user, name string // hashes
	deadline   time.Time
}

func (e entry) path() string {
	return folderOf(usersDir, e.user) + "/" + e.user + "." + e.name + "." + Milli(e.deadline)
}

// parseEntry reads the name of an entry; false if it is none.
func parseEntry(file string) (entry, bool) {
	f := strings.Split(file, ".")
	if len(f) != 3 || !isHash(f[0], userLen) || !isHash(f[1], nameLen) {
		return entry{}, false
	}
	deadline, ok := ParseMilli(f[2])
	return entry{f[0], f[1], deadline}, ok
}

// Milli is a time in a name: milliseconds since 1970 in 13 digits, those of the
// zero time are 0.
func Milli(t time.Time) string { return session.FormatMilli(t) }

// ParseMilli reads what Milli wrote.
func ParseMilli(s string) (time.Time, bool) {
	if len(s) != timeDigits || strings.Trim(s, "0123456789") != "" {
		return time.Time{}, false
	}
	ms, err := strconv.ParseInt(s, 10, 64)
	if err != nil || ms == 0 {
		return time.Time{}, err == nil
	}
	return time.UnixMilli(ms).UTC(), true
}

// lasts tells whether Milli can write t.
func lasts(t time.Time) bool { return t.IsZero() || t.UnixMilli() >= 0 && t.UnixMilli() <= maxMilli }

// makeParents makes the folders above dir.
func (s *Store) makeParents(ctx context.Context, dir string) error {
	above := path.Dir(dir)
	if above == "." {
		return nil
	}
	err := s.tree.Mkdir(ctx, above)
	if errors.Is(err, fs.ErrNotExist) {
		if err = s.makeParents(ctx, above); err == nil {
			err = s.tree.Mkdir(ctx, above)
		}
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// Also where another made it: that it did not sync it yet cannot be seen.
	return s.tree.Sync(ctx, path.Dir(above))
}
