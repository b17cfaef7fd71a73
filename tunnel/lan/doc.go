// Package lan is the kernel's side of a tunnel: a TUN device, its addresses
// and routes, and the masquerade of what leaves a connector by the kernel.
//
// It needs root (CAP_NET_ADMIN) and Linux; on other systems each function
// returns an error that says so. What it changes in the kernel it changes for
// the network namespace it runs in, and every change comes with an undo that
// puts back what was found. A program that dies without its undo leaves a
// masquerade table and two sysctls behind: the next start replaces the table.
//
// Packets cross in batches, with the kernel's segmentation offload: the device
// splits on the way in and joins on the way out, so that neither side of this
// package sees a packet longer than the device's MTU.
package lan
