package sticky

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"time"
)

// Config is what may change while the proxy runs, as a file in JSON:
//
//	{
//	  "nodes": [
//	    {"id": "a", "url": "http://10.0.0.1:8080"},
//	    {"id": "b", "url": "http://10.0.0.2:8080", "weight": 2, "max_in_flight": 500},
//	    {"id": "c", "url": "http://10.0.0.3:8080", "drain": "move"},
//	    {"id": "d", "url": "http://10.0.0.4:8080", "drain": "keep 10m"}
//	  ],
//	  "rebalance": 5
//	}
type Config struct {
	Nodes     []NodeConfig `json:"nodes"`
	Rebalance *float64     `json:"rebalance,omitempty"` // as Options.Rebalance, which it takes the place of until a later Config has none

	// Settings are the affair of the program around the proxy.
	Settings json.RawMessage `json:"settings,omitempty"`
}

// NodeConfig is a Node in a file.
type NodeConfig struct {
	ID          string  `json:"id"`
	URL         string  `json:"url"`
	Weight      float64 `json:"weight,omitempty"`
	MaxInFlight int     `json:"max_in_flight,omitempty"`
	Drain       string  `json:"drain,omitempty"` // "", "move", or "keep" and a duration
}

// maxConfig is how long a file may be.
const maxConfig = 4 << 20

// ParseConfig reads a Config. A field that it does not know, a node that New
// would refuse, and anything after the object is ErrConfig.
func ParseConfig(text []byte) (*Config, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	var c Config
	if err := d.Decode(&c); err != nil {
		return nil, configErr("%v; the file is one object in JSON, of nodes, rebalance and settings", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, configErr("something follows the closing }; delete it, the file is one object")
	}
	nodes, err := c.nodes()
	if err != nil {
		return nil, err
	}
	if err := checkNodes(nodes); err != nil {
		return nil, err
	}
	for _, n := range c.Nodes {
		if _, _, err := parseDrain(n.Drain); err != nil {
			return nil, configErr("node %q: %v", n.ID, err)
		}
	}
	if r := c.Rebalance; r != nil && !(*r >= 0 && *r <= maxRate) {
		return nil, configErr("rebalance is %v; give users per second, 0 for none", *r)
	}
	return &c, nil
}

// NodeList returns the nodes as New takes them.
func (c *Config) NodeList() ([]Node, error) {
	nodes, err := c.nodes()
	if err != nil {
		return nil, err
	}
	return nodes, checkNodes(nodes)
}

func (c *Config) nodes() ([]Node, error) {
	nodes := make([]Node, 0, len(c.Nodes))
	for _, n := range c.Nodes {
		u, err := url.Parse(n.URL)
		if err != nil {
			return nil, configErr("node %q: the URL cannot be read; write http://10.0.0.1:8080", n.ID) // err shows a password
		}
		nodes = append(nodes, Node{ID: n.ID, URL: u, Weight: n.Weight, MaxInFlight: n.MaxInFlight})
	}
	return nodes, nil
}

// parseDrain reads "", "move", "keep 10m".
func parseDrain(s string) (mode DrainMode, on bool, err error) {
	var span string
	switch n, _ := fmt.Sscanf(s, "keep %s", &span); {
	case s == "":
		return 0, false, nil
	case s == "move":
		return Move, true, nil
	case n == 1 && s == "keep "+span:
		d, err := time.ParseDuration(span)
		if err == nil && d > 0 {
			return Keep(d), true, nil
		}
	}
	return 0, false, fmt.Errorf("drain is %q; write move, or keep and a duration: keep 10m", s)
}

// Apply makes the nodes those of c, as SetNodes does, and drains and resumes
// them as c says. A drain begins, or ends, when what c says of that node has
// changed since the last Apply: so a change to something else neither starts
// Keep's time anew nor resumes a node that Drain was called for. Nor does a
// Config without a rate change one that Rebalance has set.
func (p *Proxy) Apply(c *Config) error {
	nodes, err := c.NodeList()
	if err != nil {
		return err
	}
	for _, n := range c.Nodes {
		if _, _, err := parseDrain(n.Drain); err != nil {
			return configErr("node %q: %v", n.ID, err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.setNodes(nodes, healthNew)
	for _, nc := range c.Nodes {
		n := p.nodes[nc.ID]
		if n.filed == nc.Drain {
			continue
		}
		n.filed = nc.Drain
		if mode, on, _ := parseDrain(nc.Drain); on {
			p.drainNode(n, mode)
		} else {
			p.resumeNode(n)
		}
	}
	switch r := c.Rebalance; {
	case r != nil:
		p.setRebalance(*r)
	case p.filedRate:
		p.setRebalance(p.o.Rebalance)
	}
	p.filedRate = c.Rebalance != nil
	return nil
}

// WatchConfig reads the file now and again every so often, and calls apply with
// what it says when its text has changed, until ctx ends. If every is 0, it is a
// second. The first reading happens before it returns, and its error, or
// apply's, is returned. After that a file that is missing, cannot be parsed or
// is refused by apply changes nothing; each such text is logged once.
//
// The text itself is compared, so neither a coarse clock nor a link that is
// replaced, as Kubernetes does, hides a change.
func WatchConfig(ctx context.Context, path string, every time.Duration, logger *slog.Logger, apply func(*Config) error) error {
	if logger == nil {
		logger = slog.Default()
	}
	if every <= 0 {
		every = time.Second
	}
	last, err := readConfig(path)
	if err == nil {
		err = applyText(last, apply)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	go func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		missing := ""
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			text, err := readConfig(path)
			switch {
			case err != nil && err.Error() != missing:
				missing = err.Error()
				logger.Error("sticky: the configuration cannot be read; the old one stays", "file", path, "error", err)
			case err != nil:
			case bytes.Equal(text, last):
				missing = ""
			default:
				missing, last = "", text
				if err := applyText(text, apply); err != nil {
					logger.Error("sticky: the configuration is bad; the old one stays", "file", path, "error", err)
					continue
				}
				logger.Info("sticky: the configuration has changed", "file", path)
			}
		}
	}()
	return nil
}

func applyText(text []byte, apply func(*Config) error) error {
	c, err := ParseConfig(text)
	if err != nil {
		return err
	}
	return apply(c)
}

func readConfig(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(text) > maxConfig {
		err = errors.New("the file is longer than 4 MiB")
	}
	return text, err
}
