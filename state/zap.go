package state

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapInto returns a logger for etcd that writes to log. What etcd calls
// information is of interest to nobody but its developers, hence debug. While
// closing is set everything is: etcd reports each part of an orderly end as an
// error.
func zapInto(log *slog.Logger, closing *atomic.Bool) *zap.Logger {
	if closing == nil {
		closing = new(atomic.Bool)
	}
	return zap.New(&slogCore{log.With("component", "etcd"), closing})
}

// harmless is what etcd warns of, or calls an error, in each life of a member
// that is alone and has no listeners.
var harmless = map[string]bool{
	"Running http and grpc server on single port. This is not recommended for production.": true, // it runs neither
	"simple token is not cryptographically signed":                                         true, // users and roles are not in use
	"Failed to detect schema version":                                                      true, // before the first commit; it tries again
	"failed to update storage version":                                                     true, // likewise
	"failed to receive watch request from gRPC stream":                                     true, // the guard has refused and reported it
}

// A slogCore is a zapcore.Core over slog.
type slogCore struct {
	log     *slog.Logger
	closing *atomic.Bool
}

func (c *slogCore) level(l zapcore.Level) slog.Level {
	switch {
	case l > zapcore.ErrorLevel: // panics and exits, the reason of which must not be lost
		return slog.LevelError
	case c.closing.Load() || l <= zapcore.InfoLevel:
		return slog.LevelDebug
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	default:
		return slog.LevelError
	}
}

// Enabled implements zapcore.Core.
func (c *slogCore) Enabled(l zapcore.Level) bool {
	return c.log.Enabled(context.Background(), c.level(l))
}

// With implements zapcore.Core.
func (c *slogCore) With(fields []zapcore.Field) zapcore.Core {
	return &slogCore{c.log.With(attributes(fields)...), c.closing}
}

// Check implements zapcore.Core.
func (c *slogCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write implements zapcore.Core.
func (c *slogCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	level := c.level(e.Level)
	if harmless[e.Message] {
		level = slog.LevelDebug
	}
	c.log.Log(context.Background(), level, e.Message, attributes(fields)...)
	return nil
}

// Sync implements zapcore.Core.
func (c *slogCore) Sync() error { return nil }

func attributes(fields []zapcore.Field) (attrs []any) {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(enc)
	}
	for _, k := range slices.Sorted(maps.Keys(enc.Fields)) {
		attrs = append(attrs, slog.Any(k, enc.Fields[k]))
	}
	return attrs
}
