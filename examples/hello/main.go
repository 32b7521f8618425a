// Hello is the program of the README.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"

	"github.com/distsession/session"
)

var visits = session.NewKey[int]("visits")

func main() {
	store, err := session.Open(context.Background(), "memory:") // or "redis://localhost:6379"
	if err != nil {
		log.Fatal(err)
	}
	sessions, err := session.New(store, &session.Options{Insecure: true}) // plain http, for localhost only
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) {
		s, err := session.From(r.Context())
		if err != nil {
			return // the store failed; the answer is 503
		}
		n := visits.Update(s, func(n int) int { return n + 1 })
		fmt.Fprintf(w, "You have been here %d times.\n", n)
	})
	log.Fatal(http.ListenAndServe("localhost:8080", sessions.Handler(http.DefaultServeMux)))
}
