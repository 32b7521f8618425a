package ignitestore

import (
	"net/url"

	"github.com/distsession/session/ignitestore/internal/wire"
)

// What the tests look at from inside.

const Slack = slack

func ParseURL(u *url.URL) ([]string, *Options, error) { return parseURL(u) }
func CacheID(name string) int32                       { return wire.CacheID(name) }
