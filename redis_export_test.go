package session

import (
	"bufio"
	"bytes"
	"net/url"

	"github.com/redis/go-redis/v9"
)

// ParseRedisURL shows the tests what Open makes of a URL, without a server.
func ParseRedisURL(u *url.URL) (kind string, o redis.UniversalOptions, store RedisOptions, err error) {
	cfg, err := parseRedisURL(u)
	if err != nil {
		return "", o, store, err
	}
	return cfg.kind, cfg.options, cfg.store, nil
}

// RedisTexts are the texts of one reply, and how many bytes it took.
func RedisTexts(said []byte) (texts []string, taken int, err error) {
	in := bytes.NewReader(said)
	r := bufio.NewReader(in)
	err = readReply(r, &texts, 0)
	return texts, len(said) - in.Len() - r.Buffered(), err
}
