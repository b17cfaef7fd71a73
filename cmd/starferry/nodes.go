package main

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/node"
	"github.com/starferry/starferry/tunnel/link"
)

// A runner is a node that has been made.
type runner interface{ Run(context.Context) error }

// roles returns the roles that this program can run.
func roles() []role {
	return []role{
		{"gateway", "run the node that devices ask", true, running(newGateway)},
		{"egress", "run the node that decides again and hands on to connectors", false, running(newEgress)},
		{"connector", "run the node in the mainland, which dials out to egresses", false, running(newConnector)},
	}
}

type maker func(set *configs.Set, key link.PrivateKey, load func() (*node.Loaded, error), near node.Surroundings) (runner, error)

// running makes a node of a set with the machine's own key, and runs it.
func running(newNode maker) func(context.Context, *configs.Set, func() (*configs.Set, error), *node.Lists, *slog.Logger) error {
	return func(ctx context.Context, set *configs.Set, load func() (*configs.Set, error), lists *node.Lists, log *slog.Logger) error {
		key, err := link.ReadPrivateKey(set.Node().WireGuard.PrivateKeyFile)
		if err != nil {
			return err
		}
		reload := func() (*node.Loaded, error) {
			set, err := load()
			if err != nil {
				return nil, err
			}
			return &node.Loaded{Policy: set.Policy, Devices: set.Devices, Files: set.Files}, nil
		}
		metrics := prometheus.NewRegistry()
		metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
		n, err := newNode(set, key, reload, node.Surroundings{Log: log, Metrics: metrics, Version: version(), Lists: lists})
		if err != nil {
			return err
		}
		return n.Run(ctx)
	}
}

func newGateway(set *configs.Set, key link.PrivateKey, load func() (*node.Loaded, error), near node.Surroundings) (runner, error) {
	return node.NewGateway(set.Gateway, key, load, near)
}

func newEgress(set *configs.Set, key link.PrivateKey, load func() (*node.Loaded, error), near node.Surroundings) (runner, error) {
	return node.NewEgress(set.Egress, key, load, near)
}

func newConnector(set *configs.Set, key link.PrivateKey, _ func() (*node.Loaded, error), near node.Surroundings) (runner, error) {
	return node.NewConnector(set.Connector, key, near)
}
