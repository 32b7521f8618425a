package session

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"unicode/utf8"
)

// Key names a value of type T in sessions. Make it once, as a package
// variable. Values are kept as JSON, so T is what encoding/json can write and
// read; a value that changes through a pointer, map or slice after Set or Get
// is not saved until it is Set again.
//
// A value of another type than T, left there by an older program, reads as not
// there: it is logged once a key, and the page goes on. The zero Key names
// nothing, and a change through it sets Err; make keys with NewKey.
type Key[T any] struct{ name string }

// NewKey returns the key of this name. It panics if the name is empty or not
// UTF-8. Two keys of one name are one value.
func NewKey[T any](name string) Key[T] {
	if name == "" || !utf8.ValidString(name) {
		panic(fmt.Sprintf("session: NewKey(%q): a name is UTF-8 and not empty", name))
	}
	return Key[T]{name}
}

// Name returns the name that NewKey was given.
func (k Key[T]) Name() string { return k.name }

// Get returns the value; ok is false if it is not there.
func (k Key[T]) Get(s *Session) (v T, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	raw, ok := s.view.get(k.name)
	if !ok {
		return v, false
	}
	return k.read(s, raw)
}

// Set keeps v under the key. Of two requests that Set one key, the last one
// wins; other keys are not touched. A value that cannot be encoded, or text in
// it that is not UTF-8, sets Err and fails the commit, and nothing of the old
// record is lost.
func (k Key[T]) Set(s *Session, v T) {
	raw, err := encodeValue(v)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.fail(&valueError{k.name, err})
		return
	}
	if old, ok := s.view.get(k.name); ok && string(old) == string(raw) && !s.changed(k.name) {
		return
	}
	s.change(op{name: k.name, sets: true, apply: func(v *values) error {
		v.set(k.name, raw)
		return nil
	}})
}

// Update replaces the value by what f makes of it (of the zero value, if it is
// not there), atomically: if another request changes the session first, f runs
// again on what that one saved, maybe after the handler has returned. So f has
// no side effects, does not use the session, and returns a new value rather
// than changing the old one in place.
//
// Update returns what f gave on this request's view. To act on the value that
// was stored, call Save and then Get. If the stored value is of another type,
// Update stores nothing and sets Err.
func (k Key[T]) Update(s *Session, f func(T) T) T {
	var got T
	apply := func(v *values) error {
		var old T
		raw, had := v.get(k.name)
		if had {
			var err error
			if old, err = decodeValue[T](raw); err != nil {
				return &valueError{k.name, fmt.Errorf("the stored value is not a %v", reflect.TypeFor[T]())}
			}
		}
		got = f(old)
		now, err := encodeValue(got)
		if err != nil {
			return &valueError{k.name, err}
		}
		if !had || string(now) != string(raw) {
			v.set(k.name, now)
		}
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change(op{name: k.name, apply: apply})
	return got
}

// Pop returns the value and deletes it: for flash messages. Two requests at
// once may both Pop one value; what must be used once is for Take.
func (k Key[T]) Pop(s *Session) (v T, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	raw, ok := s.view.get(k.name)
	if !ok {
		return v, false
	}
	if v, ok = k.read(s, raw); ok {
		s.change(deleteOp(k.name))
	}
	return v, ok
}

// Take returns the value, deletes it and commits now, with all else that the
// request has changed: of several requests at once, one alone gets it. It is
// for what must be used once, such as a one-time token or an OAuth state. ok
// is false if it is not there or another request took it; err is the failure
// of the commit, and then the value must not be used.
//
// On a client-side store, which cannot order two responses, Take is no
// stronger than Pop.
func (k Key[T]) Take(ctx context.Context, s *Session) (v T, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	raw, ok := s.view.get(k.name)
	if !ok {
		return v, false, nil
	}
	if v, ok = k.read(s, raw); !ok {
		return v, false, nil
	}
	var taken []byte
	s.change(op{name: k.name, apply: func(v *values) error {
		taken, _ = v.get(k.name)
		v.delete(k.name)
		return nil
	}})
	if err := s.commitNow(ctx); err != nil {
		var none T
		return none, false, err
	}
	if taken == nil {
		var none T
		return none, false, nil
	}
	v, ok = k.read(s, taken)
	return v, ok, nil
}

// Delete removes the value.
func (k Key[T]) Delete(s *Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.view.get(k.name); ok {
		s.change(deleteOp(k.name))
	}
}

func deleteOp(name string) op {
	return op{name: name, sets: true, apply: func(v *values) error {
		v.delete(name)
		return nil
	}}
}

// read decodes a value and logs, once a key, that it is of another type.
func (k Key[T]) read(s *Session, raw []byte) (v T, ok bool) {
	v, err := decodeValue[T](raw)
	if err == nil {
		return v, true
	}
	s.m.logMismatch(k.name, reflect.TypeFor[T]()) // not err: it may show the value
	var none T
	return none, false
}

var (
	errNoUser  = errors.New("session: SetUser of nobody; to sign out, use Destroy")
	errZeroKey = errors.New("session: the zero Key names nothing; make keys with NewKey")
)
