package natsstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// errUnfit: whatever answers, sessions must not be kept there.
var errUnfit = errors.New("the bucket is not fit for sessions")

// config is the stream that makes the bucket, as the key-value tools know it.
func (s *Store) config(replicas int) jetstream.StreamConfig {
	storage := jetstream.FileStorage
	if s.opts.memory {
		storage = jetstream.MemoryStorage
	}
	return jetstream.StreamConfig{
		Name:              s.link.stream,
		Description:       "HTTP sessions",
		Subjects:          []string{s.prefix + ">"},
		Storage:           storage,
		Replicas:          replicas,
		MaxMsgsPerSubject: 1,
		MaxMsgs:           -1,
		MaxBytes:          -1,
		MaxConsumers:      -1,
		Discard:           jetstream.DiscardNew,
		DenyDelete:        true,
		AllowRollup:       true,
		AllowMsgTTL:       true,
		AllowDirect:       false, // a follower would answer, with what it has
	}
}

// prepare makes the bucket, if it is not there and this node makes it, and
// checks it.
func (s *Store) prepare(ctx context.Context) error {
	info, err := s.link.info(ctx, "", 0)
	var api *apiError
	if errors.As(err, &api) && api.ErrCode == codeNoStream {
		if s.node != nil && s.node.opts.Role == Cacher {
			return errors.New("the voters have not made the bucket yet")
		}
		replicas := s.opts.Replicas
		if replicas == 0 && s.link.nc.ConnectedClusterName() != "" {
			replicas = 3
		}
		config := s.config(max(1, replicas))
		_, err = s.js.CreateStream(ctx, config)
		var refused *jetstream.APIError
		switch {
		case err == nil, errors.Is(err, jetstream.ErrStreamNameAlreadyInUse): // by another node
		case errors.As(err, &refused) && refused.ErrorCode == codeNoReplicas:
			return fmt.Errorf("%w: there is one server and %d replicas are asked for; ask for 1, or name a cluster", errUnfit, replicas)
		case errors.As(err, &refused) && refused.ErrorCode == codeNoPeers:
			return fmt.Errorf("make the bucket: the %d servers that are to hold it must all be up: %w", replicas, err)
		default:
			return fmt.Errorf("make the bucket: %w", err)
		}
		info, err = s.link.info(ctx, "", 0)
	}
	switch {
	case err != nil && s.node != nil && s.node.leaderless() == metaGroup:
		return fmt.Errorf("the voters have no leader; at a cluster's first start all %d must be up, and later a majority: %w", len(s.node.opts.Voters), err)
	case err != nil:
		return err
	}
	return s.verify(&info.Config)
}

// verify refuses a bucket that would break a promise. Every message names the
// mend.
func (s *Store) verify(c *jetstream.StreamConfig) error {
	var wrong []string
	bad := func(is bool, format string, args ...any) {
		if is {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	edit := "nats stream edit " + c.Name + " "
	bad(c.AllowDirect || c.MirrorDirect, "direct reads are on, so a follower would answer with ended sessions: %s--no-allow-direct --no-allow-mirror-direct", edit)
	bad(c.MaxMsgsPerSubject != 1, "it keeps a history of %d; it must be 1: %s--max-msgs-per-subject=1", c.MaxMsgsPerSubject, edit)
	bad(!c.AllowMsgTTL, "messages must have a TTL of their own, or nothing is ever removed: %s--allow-msg-ttl", edit)
	bad(c.MaxAge != 0, "a MaxAge of %v ends sessions before their time: %s--max-age=0", c.MaxAge, edit)
	bad(c.Discard != jetstream.DiscardNew && (c.MaxMsgs > 0 || c.MaxBytes > 0), "when it is full it drops live sessions: %s--discard=new", edit)
	bad(c.DiscardNewPerSubject, "discard per subject refuses every change: %s--no-discard-per-subject", edit)
	bad(c.Retention != jetstream.LimitsPolicy, "its retention is %v; make it anew with limits", c.Retention)
	bad(c.NoAck, "it acknowledges nothing: %s--ack", edit)
	bad(c.Mirror != nil || len(c.Sources) > 0, "it is fed by another stream; make one for the sessions alone")
	bad(c.SubjectTransform != nil, "it renames subjects; make one for the sessions alone")
	bad(c.PersistMode == jetstream.AsyncPersistMode, "it acknowledges what is not written yet: make it anew with the default persist mode")
	bad(c.DenyPurge, "it denies purge, which tidies the lists of users' sessions: make it anew")
	bad(c.Sealed, "it is sealed; make it anew")
	bad(!slices.Contains(c.Subjects, s.prefix+">"), "it does not take %s>: make it anew", s.prefix)
	switch want := s.opts.Replicas; {
	case want > 0:
		bad(c.Replicas != want, "it has %d replicas and %d are asked for: %s--replicas=%d", c.Replicas, want, edit, want)
	default:
		bad(c.Replicas == 2, "it has 2 replicas, and stops when either is down: %s--replicas=3", edit)
		bad(c.Replicas == 1 && s.link.nc.ConnectedClusterName() != "", "it has one replica in a cluster: %s--replicas=3, or say replicas=1", edit)
	}
	if s.node == nil || s.node.opts.Role == Voter {
		want := s.config(1).Storage
		bad(c.Storage != want, "its storage is %v and %v is asked for; make it anew, or ask for what it has", c.Storage, want)
	}
	if len(wrong) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s: %s", errUnfit, c.Name, strings.Join(wrong, "; "))
}

const (
	firstCheck = 2 * time.Second // that Open takes at most
	nextCheck  = 100 * time.Millisecond
	slowCheck  = 2 * time.Second
)
