package natsstore

import (
	"fmt"
	"log/slog"
	"strings"
)

// serverLog passes on what the server logs. What it only notes is for those who
// debug.
type serverLog struct {
	log          *slog.Logger
	name, secret string
}

func (l *serverLog) put(level func(string, ...any), format string, v []any) {
	text := fmt.Sprintf(format, v...)
	if strings.HasPrefix(text, "Plaintext passwords") {
		return // they are random
	}
	if l.secret != "" {
		text = strings.ReplaceAll(text, l.secret, "[secret]")
	}
	level("session: nats: "+text, "node", l.name)
}

func (l *serverLog) Noticef(format string, v ...any) { l.put(l.log.Debug, format, v) }
func (l *serverLog) Debugf(format string, v ...any)  { l.put(l.log.Debug, format, v) }
func (l *serverLog) Tracef(format string, v ...any)  { l.put(l.log.Debug, format, v) }
func (l *serverLog) Warnf(format string, v ...any)   { l.put(l.log.Warn, format, v) }
func (l *serverLog) Errorf(format string, v ...any)  { l.put(l.log.Error, format, v) }
func (l *serverLog) Fatalf(format string, v ...any)  { l.put(l.log.Error, format, v) }
