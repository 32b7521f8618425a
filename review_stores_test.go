package session_test

import (
	"testing"

	"github.com/distsession/session"
)

// A request that was under way when its session was ended may itself end all
// the others: the session that it wants to keep stays ended.
func TestDeleteUserKeepsNoEndedSession(t *testing.T) {
	eachClientStore(t, func(t *testing.T, n *clientNode) {
		mine, theirs := testRecord(n.clock, "ada"), testRecord(n.clock, "ada")
		myToken, theirToken := mustSave(t, n, mine), mustSave(t, n, theirs)
		slow := mustLoad(t, n, theirToken)

		n.deleteUser(t, "ada", mine.ID)
		mustNot(t, n, theirToken, "ended by the other session")
		n.deleteUser(t, "ada", theirs.ID)
		mustNot(t, n, theirToken, "ended already, and kept too late")
		mustNot(t, n, myToken, "ended by the second call")
		_, err := n.Save(t.Context(), slow)
		wantErr(t, "a save that comes after", err, session.ErrNotFound)
		_, err = n.Save(t.Context(), markerOf(slow, n.clock.Now()))
		wantErr(t, "a renewal that comes after", err, session.ErrNotFound)
	})
}

// Every token of the session that is kept again and again stays valid, of
// whichever generation it is.
func TestDeleteUserKeepsOneSessionAgain(t *testing.T) {
	eachClientStore(t, func(t *testing.T, n *clientNode) {
		for _, first := range []string{"nobody was signed out before", "somebody was"} {
			rec := testRecord(n.clock, "ada")
			tokens := []string{mustSave(t, n, rec)}
			for range 3 {
				n.deleteUser(t, "ada", rec.ID)
				for _, token := range tokens {
					mustLoad(t, n, token)
				}
				other := mustSave(t, n, testRecord(n.clock, "ada"))
				tokens = append(tokens, mustSave(t, n, mustLoad(t, n, tokens[0])))
				n.deleteUser(t, "ada", rec.ID)
				mustNot(t, n, other, first+": not the one that is kept")
			}
			n.deleteUser(t, "ada", "")
			for _, token := range tokens {
				mustNot(t, n, token, first+": kept no more")
			}
		}
	})
}
