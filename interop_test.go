package session_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/distsession/session"
)

// python runs internal/interop/jwt_peer.py. Where Python or PyJWT is missing it skips
// the test, unless SESSION_SERVERS=required.
func python(t *testing.T, task map[string]any) map[string]json.RawMessage {
	t.Helper()
	missing := func(why string) {
		if os.Getenv("SESSION_SERVERS") == "required" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	name := os.Getenv("SESSION_PYTHON")
	if name == "" {
		name = "python3"
	}
	path, err := exec.LookPath(name)
	if err != nil {
		missing("python3 is not installed")
	}
	if err := exec.CommandContext(t.Context(), path, "-c", "import jwt, cryptography").Run(); err != nil {
		missing("PyJWT is not installed: pip install pyjwt cryptography, or name another Python in SESSION_PYTHON")
	}
	in, err := json.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), path, filepath.Join("internal", "interop", "jwt_peer.py"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	var out map[string]json.RawMessage
	if err := json.Unmarshal(stdout.Bytes(), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// What we issue, another language's library verifies through JWKS; what it
// issues, we take for a session.
func TestJWTInterop(t *testing.T) {
	clock := &testClock{now: time.Now()}
	for _, key := range jwtKeys {
		t.Run(key.Alg, func(t *testing.T) {
			s := newJWTStore(t, withID(key, "k1"), &session.JWTOptions{Irrevocable: true})
			task := map[string]any{"alg": key.Alg, "iss": testIssuer, "aud": testAudience, "kid": "k1"}
			secret, symmetric := key.Key.([]byte)
			if symmetric {
				task["secret"] = hex.EncodeToString(secret)
			} else {
				task["jwks"] = json.RawMessage(getJWKS(t, s).Body.Bytes())
			}
			rec := testRecord(clock, "ada")
			task["do"], task["token"] = "verify", mustSave(t, s, rec)
			var claims struct {
				Sub, Jti string
				Values   json.RawMessage
			}
			if err := json.Unmarshal(python(t, task)["claims"], &claims); err != nil || claims.Sub != "ada" || claims.Jti != rec.ID || !sameJSON(claims.Values, rec.Data) {
				t.Errorf("PyJWT reads %+v, %v", claims, err)
			}

			task["do"] = "issue"
			if !symmetric {
				task["pem"] = privatePEM(t, key.Key)
			}
			task["claims"] = map[string]any{
				"iss": testIssuer, "aud": testAudience, "sub": "grace", "jti": "0b8a2b4e-from-python",
				"iat": clock.Now().Unix(), "exp": clock.Now().Add(time.Hour).Unix(),
				"values": map[string]any{"name": "Grace Höpper", "n": 9007199254740993},
			}
			var token string
			if err := json.Unmarshal(python(t, task)["token"], &token); err != nil {
				t.Fatal(err)
			}
			got := mustLoad(t, s, token)
			if got.User != "grace" || got.ID != "0b8a2b4e-from-python" || !sameJSON(got.Data, []byte(`{"n":9007199254740993,"name":"Grace Höpper"}`)) {
				t.Errorf("loads %+v with %s", got, got.Data)
			}
			// And it goes on as one of ours.
			again := mustLoad(t, s, mustSave(t, s, got))
			if again.Version != 2 || string(again.Data) != string(got.Data) || !again.Deadline.Equal(got.Deadline) {
				t.Errorf("saved again, it loads %+v", again)
			}
		})
	}
}

func sameJSON(a, b []byte) bool {
	var values [2]any
	for i, text := range [][]byte{a, b} {
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		if d.Decode(&values[i]) != nil {
			return false
		}
	}
	return fmt.Sprint(values[0]) == fmt.Sprint(values[1])
}
