package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/mdp/qrterminal/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/tunnel/link"
)

func deviceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "device", Short: "List devices, and write the file that a device's WireGuard client needs",
		Args: noSuchCommand,
		RunE: func(*cobra.Command, []string) error { return usageError{errors.New("which command: list or config?")} },
	}
	cmd.AddCommand(deviceListCommand(), deviceConfigCommand())
	return cmd
}

func deviceListCommand() *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use: "list [-c gateway.yaml]", Short: "List the devices and networks of a gateway", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			set, err := loadGateway(config)
			if err != nil {
				return err
			}
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "NAME\tKNOWN BY\tGROUPS\tADDRESSES")
			for _, d := range set.Devices {
				fmt.Fprintf(t, "%s\t%v\t%s\t%s\n", d.ID, d.Kind, orDash(d.Groups), orDash(plainAddrs(d.Overlay)))
			}
			return t.Flush()
		},
	}
	configFlag(cmd, &config, "the gateway's file")
	return cmd
}

func orDash(words []string) string { return cmp.Or(strings.Join(words, ", "), "-") }

// plainAddrs writes prefixes of one address without their length.
func plainAddrs(prefixes []netip.Prefix) (out []string) {
	for _, p := range prefixes {
		if p.IsSingleIP() {
			out = append(out, p.Addr().String())
			continue
		}
		out = append(out, p.String())
	}
	return out
}

// loadGateway reads a gateway's file, by default the one in the usual folder.
func loadGateway(config string) (*configs.Set, error) {
	path := cmp.Or(config, gatewayFile())
	set, err := configs.LoadLenient(configs.OS, path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s cannot be used:\n%w", path, err)
	case set.Gateway == nil:
		return nil, fmt.Errorf("%s has role %s: want that of a gateway", path, set.Role())
	}
	return set, nil
}

// findDevice returns the device of this name.
func findDevice(set *configs.Set, name string) (*device.Device, error) {
	for _, d := range set.Devices {
		if string(d.ID) == name {
			return d, nil
		}
	}
	return nil, fmt.Errorf("%s knows no device %q; see starferry device list", set.Gateway.Devices, name)
}

// completeDevice offers the names of devices to the shell as the only argument.
func completeDevice(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return deviceNames(cmd, args, word)
}

func deviceNames(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	config, err := cmd.Flags().GetString("config")
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	set, err := loadGateway(config)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, d := range set.Devices {
		names = append(names, string(d.ID))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

type clientOptions struct{ config, key, qr string }

func deviceConfigCommand() *cobra.Command {
	var o clientOptions
	cmd := &cobra.Command{
		Use:   "config NAME [-c gateway.yaml] [--key FILE]",
		Short: "Write the file that a device's WireGuard client needs",
		Long: `Config writes what any WireGuard client takes as its file or, on a terminal, as a
QR code. The private key is the device's own: give it with --key if it was made
here, else write it into the file on the device. devices.yaml knows its public half.`,
		Example: "  starferry keygen --out alice.key\n  starferry device config alice-laptop --key alice.key > alice.conf",
		Args:    args("the name of a device", cobra.ExactArgs(1)), ValidArgsFunction: completeDevice,
		RunE: func(cmd *cobra.Command, args []string) error { return deviceConfig(cmd, args[0], &o) },
	}
	configFlag(cmd, &o.config, "the gateway's file")
	cmd.Flags().StringVar(&o.key, "key", "", "file of the device's private key")
	cmd.Flags().StringVar(&o.qr, "qr", "auto", "print a QR code: auto (on a terminal), always or never")
	return cmd
}

func deviceConfig(cmd *cobra.Command, name string, o *clientOptions) error {
	if !slices.Contains([]string{"auto", "always", "never"}, o.qr) {
		return usageError{fmt.Errorf("--qr %q is none of auto, always, never", o.qr)}
	}
	if o.qr == "always" && o.key == "" {
		return usageError{errors.New("--qr always needs --key: a code without the private key is of no use")}
	}
	set, err := loadGateway(o.config)
	if err != nil {
		return err
	}
	dev, err := findDevice(set, name)
	if err != nil {
		return err
	}
	text, err := clientFile(set.Gateway, dev, o.key)
	if err != nil {
		return err
	}
	if o.qr == "always" || o.qr == "auto" && o.key != "" && term.IsTerminal(int(os.Stdout.Fd())) {
		qrterminal.GenerateHalfBlock(text, qrterminal.L, cmd.OutOrStdout())
	}
	_, err = fmt.Fprint(cmd.OutOrStdout(), text)
	return err
}

// clientFile writes the settings of a device in the form of wg-quick(8).
func clientFile(g *configs.Gateway, d *device.Device, keyFile string) (string, error) {
	if d.Kind != device.ByWireGuard {
		return "", fmt.Errorf("%s is a network: only machines have a WireGuard client", d.ID)
	}
	if g.WireGuard.Endpoint == "" {
		return "", fmt.Errorf("%s does not say where devices reach the gateway: add wireguard: {endpoint: HOST:PORT}", g.File)
	}
	gateway, err := publicKey(g)
	if err != nil {
		return "", err
	}
	private, err := ownKey(d, keyFile)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# %s at gateway %s\n[Interface]\n%s\n", d.ID, g.Name, private)
	fmt.Fprintf(&b, "Address = %s\nDNS = %s\nMTU = %d\n", words(d.Overlay), words(ofFamilies(g.Address, d)), g.MTU)
	fmt.Fprintf(&b, "\n[Peer]\nPublicKey = %v\nEndpoint = %s\nAllowedIPs = %s\n", gateway, g.WireGuard.Endpoint, words(reachable(g, d)))
	return b.String(), nil
}

// publicKey returns the gateway's public key from its file of settings or, on
// the gateway itself, from its private one.
func publicKey(g *configs.Gateway) (device.Key, error) {
	if !g.WireGuard.PublicKey.IsZero() {
		return g.WireGuard.PublicKey, nil
	}
	key, err := link.ReadPrivateKey(g.WireGuard.PrivateKeyFile)
	if err != nil {
		return device.Key{}, fmt.Errorf("the gateway's public key is not known here: %w\n(or write it into %s: wireguard: {public_key: KEY})", err, g.File)
	}
	return key.Public(), nil
}

// ownKey returns the line of the device's private key, or one that says where
// it belongs.
func ownKey(d *device.Device, file string) (string, error) {
	if file == "" {
		return fmt.Sprintf("# PrivateKey = the device's own; its public half is %v", d.Key), nil
	}
	key, err := link.ReadPrivateKey(file)
	if err != nil {
		return "", err
	}
	if key.Public() != d.Key {
		return "", fmt.Errorf("%s is not the key of %s: its public half is %v, %s has %v", file, d.ID, key.Public(), d.At.File, d.Key)
	}
	return "PrivateKey = " + key.String(), nil
}

// reachable returns what a device sends to the gateway: packets to virtual
// addresses and to the gateway itself. The nodes behind are there because they
// send errors of the way, whose source the client checks.
func reachable(g *configs.Gateway, d *device.Device) (out []netip.Prefix) {
	out = append(out, g.Pool...)
	out = append(out, singles(g.Address)...)
	for _, e := range g.Egresses {
		out = append(out, singles(e.Address)...)
		out = append(out, e.Nodes...)
	}
	return slices.DeleteFunc(out, func(p netip.Prefix) bool { return !hasFamily(d, p.Addr()) })
}

func singles(addrs []netip.Addr) (out []netip.Prefix) {
	for _, a := range addrs {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out
}

// ofFamilies leaves the addresses of families that the device has: others it
// could not send to.
func ofFamilies(addrs []netip.Addr, d *device.Device) (out []netip.Addr) {
	for _, a := range addrs {
		if hasFamily(d, a) {
			out = append(out, a)
		}
	}
	return out
}

func hasFamily(d *device.Device, a netip.Addr) bool {
	return slices.ContainsFunc(d.Overlay, func(p netip.Prefix) bool { return p.Addr().Is4() == a.Is4() })
}

func words[T fmt.Stringer](vals []T) string {
	var out []string
	for _, v := range vals {
		out = append(out, v.String())
	}
	return strings.Join(out, ", ")
}
