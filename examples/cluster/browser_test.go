package main

import (
	"context"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/distsession/session/internal/servers"
)

// TestBrowser plays with the page as its visitor does, in headless Chromium.
// With SCREENSHOT=FILE.png it keeps a picture.
func TestBrowser(t *testing.T) {
	chromium := servers.Require(t, "chromium", "apt-get install chromium")
	c := startCluster(t)
	b := openBrowser(t, chromium, c.url+"/cluster")

	b.wait("three nodes are ready", `document.querySelectorAll('tr[data-state="running"][data-ready="yes"]').length === 3`)
	b.wait("one of them leads", `[...document.querySelectorAll('.role')].filter((td) => td.textContent === 'leader').length === 1`)
	b.wait("their copies have an age", `[...document.querySelectorAll('.copy')].every((td) => /^\d+ ms old$/.test(td.textContent))`)

	b.click("#click")
	b.wait("the click is acknowledged", `document.querySelector('#acknowledged').textContent === '1'`)
	b.wait("by one of the nodes", `/^node [abc]$/.test(document.querySelector('#answered').textContent)`)
	b.wait("every node has it", `[...document.querySelectorAll('.held')].every((td) => td.textContent === '1')`)

	b.click("#auto")
	b.wait("clicks go on by themselves", `Number(document.querySelector('#acknowledged').textContent) > 20`)
	b.click(`tr[data-node="b"] button[data-action="kill"]`)
	b.wait("a node is killed", `document.querySelector('tr[data-node="b"]').dataset.state === 'killed'`)
	b.wait("clicks are answered all the same", `Number(document.querySelector('#acknowledged').textContent) > `+strconv.Itoa(b.number("#acknowledged")+30))
	b.wait("the shop in the page serves", `document.querySelector('iframe').contentDocument?.querySelector('.where strong') != null`)
	if name := os.Getenv("SCREENSHOT"); name != "" {
		if err := os.WriteFile(name, result(b, chromedp.FullScreenshot(100)), 0o644); err != nil {
			t.Fatal(err)
		}
	}

	b.click(`tr[data-node="b"] button[data-action="start"]`)
	b.wait("the node is back", `document.querySelector('tr[data-node="b"]').dataset.ready === 'yes'`)
	b.click("#auto")
	b.wait("and has the session", `[...document.querySelectorAll('.held')].every((td) => td.textContent === document.querySelector('#counter').textContent)`)
	if lost := b.number("#lost"); lost != 0 {
		t.Errorf("%d clicks are lost", lost)
	}
	acknowledged, unanswered, counter := b.number("#acknowledged"), b.number("#unanswered"), b.number("#counter")
	if acknowledged > counter || counter > acknowledged+unanswered {
		t.Errorf("%d were acknowledged, %d not answered, and the counter is %d", acknowledged, unanswered, counter)
	}
}

// browser is a page in headless Chromium.
type browser struct {
	t   *testing.T
	ctx context.Context
}

func openBrowser(t *testing.T, chromium, url string) *browser {
	t.Helper()
	alloc, cancel := chromedp.NewExecAllocator(t.Context(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(chromium), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.WindowSize(1200, 1300))...)
	t.Cleanup(cancel)
	ctx, cancel := chromedp.NewContext(alloc)
	t.Cleanup(cancel)
	err := chromedp.Listen(ctx, func(ev any) {
		if e, ok := ev.(*runtime.EventExceptionThrown); ok {
			t.Errorf("the page's script fails: %+v", e.ExceptionDetails)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{t, ctx}
	result(b, chromedp.Navigate(url))
	return b
}

func result[T any](b *browser, a chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 30*time.Second)
	defer cancel()
	v, err := chromedp.Run(ctx, a)
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

func (b *browser) click(selector string) {
	b.t.Helper()
	result(b, chromedp.Click(selector))
}

func (b *browser) number(selector string) int {
	b.t.Helper()
	n, err := strconv.Atoi(result(b, chromedp.TextContent(selector)))
	if err != nil {
		b.t.Fatalf("%s: %v", selector, err)
	}
	return n
}

// wait waits until an expression is true. chromedp.Poll makes a function of a
// text, which the page's policy forbids.
func (b *browser) wait(what, expression string) {
	b.t.Helper()
	for end := time.Now().Add(time.Minute); !result(b, chromedp.Evaluate[bool](expression)); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("after a minute still not: %s\n%s", what, result(b, chromedp.Text("main")))
		}
	}
}
