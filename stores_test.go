package session_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/distsession/session"
	"github.com/redis/go-redis/v9"
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

// A key that cannot be read is an error wherever it stands: with the first one
// passed over, the second would sign.
func TestJWTDamagedKeyInFront(t *testing.T) {
	good := string(publicBytes(t, privateEd25519.Public(), "PEM"))
	for why, damaged := range map[string]string{
		"no base64":  "-----BEGIN PRIVATE KEY-----\n!!!!\n-----END PRIVATE KEY-----\n",
		"cut short":  "-----BEGIN PRIVATE KEY-----\nMC4CAQ\n",
		"other ends": "-----BEGIN PRIVATE KEY-----\nMC4CAQ==\n-----END PUBLIC KEY-----\n",
	} {
		for place, text := range map[string]string{"before": damaged + good, "after": good + damaged} {
			t.Run(why+", "+place, func(t *testing.T) {
				t.Setenv("JWT_KEYS", text)
				_, err := session.Open(t.Context(), "jwt:?keys=env:JWT_KEYS&iss=i&aud=a&irrevocable=true")
				if !errors.Is(err, session.ErrConfig) {
					t.Errorf("got %v, want ErrConfig", err)
				}
			})
		}
	}
}

// In a URL within a URL that nobody escaped, a password with & in it falls
// apart into parameters.
func TestOpenUnescapedRevokedShowsNoPassword(t *testing.T) {
	t.Setenv("SESSION_KEYS", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8")
	for _, raw := range []string{
		"cookie:?keys=env:SESSION_KEYS&revoked=redis://:one&hunter2@h/0",
		"cookie:?keys=env:SESSION_KEYS&revoked=redis://:one&hunter2&three@h/0",
		"cookie:?keys=env:SESSION_KEYS&revoked=redis://:one&hunter2=three@h/0",
		"cookie:?keys=env:SESSION_KEYS&revoked=redis://:one&hunter2=&name=three@h/0",
		"jwt:?iss=i&aud=a&keys=env:SESSION_KEYS&revoked=redis://:one&alg=hunter2@h/0",
		"jwt:?iss=i&aud=a&keys=env:SESSION_KEYS&revoked=redis://:one&lifetime=hunter2@h/0",
		"cookie:?keys=env:SESSION_KEYS&revoked=redis://:one&irrevocable=hunter2@h/0",
	} {
		_, err := session.Open(t.Context(), raw)
		if !errors.Is(err, session.ErrConfig) || strings.Contains(err.Error(), "hunter2") {
			u, _ := url.Parse(raw)
			t.Errorf("%s: %v", u.Scheme, err)
		}
	}
}

type countingHook struct{ n *int }

func (countingHook) DialHook(next redis.DialHook) redis.DialHook { return next }
func (countingHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (h countingHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "get" {
			*h.n++
		}
		return next(ctx, cmd)
	}
}

// The hooks of a client that is passed in (tracing, metrics) see its calls.
func TestRedisClientHooks(t *testing.T) {
	for _, honours := range []bool{true, false} {
		client := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr(), ContextTimeoutEnabled: honours})
		defer client.Close()
		n := 0
		client.AddHook(countingHook{&n})
		store := session.NewRedisStore(client, nil)
		_, err := store.Load(t.Context(), session.NewToken())
		wantErr(t, "load", err, session.ErrNotFound)
		if n != 1 {
			t.Errorf("ContextTimeoutEnabled %v: the hook saw %d calls", honours, n)
		}
	}
}

// A sign-in whose answer was lost is sent again. If DeleteUser ended the
// session in between, it is there again, and the next DeleteUser must find it.
func TestRedisCreateRetriedAfterDeleteUser(t *testing.T) {
	eachRedis(t, func(t *testing.T, e *redisEnv) {
		proxy := newLossyProxy(t, e.client.(*redis.Client).Options().Addr)
		o := redisOptions(proxy.Addr)
		o.MaxRetries, o.MinRetryBackoff = 3, -1
		client := redis.NewClient(o)
		defer client.Close()
		behind := session.NewRedisStore(client, &session.RedisOptions{Prefix: e.prefix, Now: e.clock.Now})
		client.AddHook(oneKeyOnly{})
		first, _ := e.record("ann") // loads the scripts
		if _, err := behind.Save(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		e.client.AddHook(oneKeyOnly{})
		ended := 0
		deleteUser := func() {
			n, err := e.store.DeleteUser(t.Context(), "ann", "")
			if err != nil {
				t.Error(err)
			}
			ended += n
		}
		rec, token := e.record("ann")
		client.AddHook(beforeKey{e.key(rec.ID), func() { proxy.loseNext(1, deleteUser) }})
		if _, err := behind.Save(t.Context(), rec); err != nil || proxy.Lost() != 1 || ended != 2 {
			t.Fatalf("%v, %d answers lost, %d ended", err, proxy.Lost(), ended)
		}
		e.load(t, token)
		deleteUser()
		_, err := e.store.Load(t.Context(), token)
		wantErr(t, "load after the second DeleteUser", err, session.ErrNotFound)
	})
}

// beforeKey calls f before the script that writes a key is sent.
type beforeKey struct {
	key string
	f   func()
}

func (beforeKey) DialHook(next redis.DialHook) redis.DialHook { return next }
func (beforeKey) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (h beforeKey) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if a := cmd.Args(); cmd.Name() == "evalsha" && a[3] == h.key {
			h.f()
		}
		return next(ctx, cmd)
	}
}
