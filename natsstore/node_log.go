package natsstore

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
)

// serverLog passes on what the server logs. What it only notes is for those who
// debug.
type serverLog struct {
	log    *slog.Logger
	name   string
	secret string
	fatal  chan string // the first reason for which the server cannot start
}

func newServerLog(log *slog.Logger, name, secret string) *serverLog {
	return &serverLog{log: log, name: name, secret: secret, fatal: make(chan string, 1)}
}

func (l *serverLog) text(format string, v []any) string {
	text := fmt.Sprintf(format, v...)
	if l.secret != "" {
		text = strings.ReplaceAll(text, l.secret, "[secret]")
	}
	return text
}

func (l *serverLog) put(level slog.Level, text string) {
	switch {
	case strings.HasPrefix(text, "Plaintext passwords"):
		return // they are random
	case strings.HasPrefix(text, "Error trying to connect to route"):
		level = slog.LevelWarn // the other node is not up
	}
	l.log.Log(context.Background(), level, "session: nats: "+text, "node", l.name)
}

func (l *serverLog) Noticef(format string, v ...any) { l.put(slog.LevelDebug, l.text(format, v)) }
func (l *serverLog) Debugf(format string, v ...any)  { l.put(slog.LevelDebug, l.text(format, v)) }
func (l *serverLog) Tracef(format string, v ...any)  { l.put(slog.LevelDebug, l.text(format, v)) }
func (l *serverLog) Warnf(format string, v ...any)   { l.put(slog.LevelWarn, l.text(format, v)) }
func (l *serverLog) Errorf(format string, v ...any)  { l.put(slog.LevelError, l.text(format, v)) }

// Fatalf is what a server that is a program would end with.
func (l *serverLog) Fatalf(format string, v ...any) {
	text := l.text(format, v)
	l.put(slog.LevelError, text)
	select {
	case l.fatal <- text:
	default:
	}
}
