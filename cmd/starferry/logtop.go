package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry/resolver/querylog"
)

// topKeys are what records can be counted by.
var topKeys = map[string]func(*querylog.Record) string{
	"name":   func(r *querylog.Record) string { return r.Name },
	"device": func(r *querylog.Record) string { return r.Device },
	"policy": func(r *querylog.Record) string { return r.Policy },
	"action": func(r *querylog.Record) string { return r.Action },
	"client": func(r *querylog.Record) string {
		if !r.Client.Addr.IsValid() {
			return ""
		}
		return r.Client.Addr.String()
	},
	"type": func(r *querylog.Record) string { return r.Type.String() },
}

func logTopCommand() *cobra.Command {
	var s selection
	var by string
	var n int
	known := slices.Sorted(maps.Keys(topKeys))
	cmd := &cobra.Command{
		Use:     "top [--by WHAT] [-n COUNT] [FILE]...",
		Short:   "Count records, and print what there is most of",
		Example: "  starferry log top --by name --action block --since 1h queries.jsonl",
		RunE: func(cmd *cobra.Command, args []string) error {
			key, ok := topKeys[by]
			if !ok {
				return usageError{fmt.Errorf("--by: %q is none of %s", by, strings.Join(known, ", "))}
			}
			return logTop(cmd, &s, key, n, args)
		},
	}
	s.add(cmd)
	cmd.Flags().StringVar(&by, "by", "name", "what to count by: "+strings.Join(known, ", "))
	cmd.Flags().IntVarP(&n, "lines", "n", 20, "how many to print; 0 for all")
	return cmd
}

func logTop(cmd *cobra.Command, s *selection, key func(*querylog.Record) string, n int, args []string) error {
	counts, total := map[string]int{}, 0
	sc := &scan{selection: s, in: cmd.InOrStdin()}
	err := sc.each(cmd.Context(), args, func(r *querylog.Record, _ []byte) {
		counts[key(r)]++
		total++
	})
	if err != nil {
		return err
	}
	return errors.Join(printTop(cmd.OutOrStdout(), counts, total, n), sc.end(cmd))
}

func printTop(to io.Writer, counts map[string]int, total, n int) error {
	keys := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), strings.Compare(a, b))
	})
	shown := keys
	if n > 0 {
		shown = keys[:min(n, len(keys))]
	}
	width := len(fmt.Sprint(total))
	for _, k := range shown {
		share := 100 * float64(counts[k]) / float64(total)
		if _, err := fmt.Fprintf(to, "%*d  %5.1f%%  %s\n", width, counts[k], share, plain(cmp.Or(k, "-"))); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(to, "%*d  of all, %d different\n", width, total, len(keys))
	return err
}
