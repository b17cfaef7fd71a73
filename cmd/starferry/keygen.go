package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry/tunnel/link"
)

func keygenCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "keygen [--out FILE]",
		Short: "Make a WireGuard key",
		Long: `Keygen makes a key for a node or a device. The private half goes to standard
output, or to a new file that only its owner can read; the public half, which the
others are told, goes to standard error.`,
		Example: "  starferry keygen --out gateway.key\n  starferry keygen pub gateway.key",
		Args:    noSuchCommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return keygen(cmd, out) },
	}
	cmd.Flags().StringVarP(&out, "out", "o", "", "file for the private key; it must not be there yet")
	cmd.AddCommand(&cobra.Command{
		Use:   "pub [FILE]",
		Short: "Print the public half of a private key, which is read from a file or standard input",
		Args:  args("at most one file", cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := privateKey(cmd.InOrStdin(), args)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), key.Public())
			return err
		},
	})
	return cmd
}

func keygen(cmd *cobra.Command, out string) error {
	key := link.NewPrivateKey()
	if out == "" {
		fmt.Fprintln(cmd.OutOrStdout(), key)
	} else if err := writeKey(out, key); err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "public key: %v\n", key.Public())
	return nil
}

// writeKey makes a file of mode 0600. One that is there is left alone: it may
// hold the key that all others know.
func writeKey(path string, key link.PrivateKey) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(f, key); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func privateKey(stdin io.Reader, args []string) (link.PrivateKey, error) {
	if len(args) == 1 {
		return link.ReadPrivateKey(args[0])
	}
	b, err := io.ReadAll(io.LimitReader(stdin, 1<<10))
	if err != nil {
		return link.PrivateKey{}, fmt.Errorf("reading standard input: %w", err)
	}
	return link.ParsePrivateKey(string(b))
}
