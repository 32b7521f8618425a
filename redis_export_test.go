package session

import (
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
