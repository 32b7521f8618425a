package sticky_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"

	"github.com/distsession/session/sticky"
)

// exampleNode is an application that says who it is.
func exampleNode(id string) (sticky.Node, func()) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, id) }))
	u, _ := url.Parse(s.URL)
	return sticky.Node{ID: id, URL: u}, s.Close
}

func ExampleNew() {
	a, stopA := exampleNode("a")
	defer stopA()
	b, stopB := exampleNode("b")
	defer stopB()

	proxy, err := sticky.New([]sticky.Node{a, b}, &sticky.Options{
		Keys:   [][]byte{[]byte("32 random bytes; read them from a file")},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer proxy.Shutdown(context.Background())
	front := httptest.NewServer(proxy) // http.ListenAndServe(":80", proxy)
	defer front.Close()

	jar, _ := cookiejar.New(nil)
	browser := &http.Client{Jar: jar}
	get := func() string {
		res, err := browser.Get(front.URL)
		if err != nil {
			return err.Error()
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		return string(body)
	}
	first := get()
	fmt.Println("stays:", get() == first)

	// Before the node is restarted its users go to the other one.
	if err := proxy.Drain(context.Background(), first, sticky.Move); err != nil {
		fmt.Println(err)
	}
	second := get()
	fmt.Println("moved:", second != first)
	fmt.Println("stays:", get() == second)
	// Output:
	// stays: true
	// moved: true
	// stays: true
}

func ExampleByKey() {
	a, stop := exampleNode("a")
	defer stop()
	proxy, err := sticky.New([]sticky.Node{a}, &sticky.Options{
		// Everybody in a room is on one node.
		By: sticky.ByKey(func(r *http.Request) string { return r.URL.Query().Get("room") }),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer proxy.Shutdown(context.Background())
	w := httptest.NewRecorder()
	proxy.ServeHTTP(w, httptest.NewRequest("GET", "/?room=blue", nil))
	fmt.Println(w.Body)
	// Output: a
}
