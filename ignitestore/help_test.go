package ignitestore_test

import (
	"strings"

	"github.com/distsession/session/internal/check"
)

var (
	draft      = check.Draft
	save       = check.Save
	create     = check.Create
	load       = check.Load
	gone       = check.Gone
	failed     = check.Failed
	wantErr    = check.WantErr
	deleteUser = check.DeleteUser
)

func contains(err error, text string) bool { return strings.Contains(err.Error(), text) }
