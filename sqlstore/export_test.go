package sqlstore

import (
	"time"

	"github.com/distsession/session"
)

// SetClock gives a store that Open made another clock, before its first use.
func SetClock(s session.Store, now func() time.Time) { s.(*Store).now = now }

// Pages are how many rows a statement of List and of Clean takes.
const ListPage, CleanPage = listPage, cleanPage
