package listen

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"time"
)

// handshakeTime is how long a client may take until it can ask.
const handshakeTime = 5 * time.Second

// ServeTLS answers the questions that come over TLS connections to l (RFC
// 7858), as [Server.ServeTCP] does for plain ones. A client that says no server
// name, or one that no certificate has, is served all the same, as is one that
// does not negotiate the protocol "dot"; one that wants another protocol is not,
// lest it be talked into taking answers for something else (RFC 9325 section 3.8).
func (s *Server) ServeTLS(ctx context.Context, l net.Listener, certs *Certificates, name string) error {
	config := certs.config("dot")
	config.DynamicRecordSizingDisabled = true // an answer goes out in one record
	return s.serveStreams(ctx, l, name, func(ctx context.Context, d *door, conn net.Conn, client *Client) {
		tc := tls.Server(conn, config)
		conn.SetDeadline(time.Now().Add(handshakeTime))
		if err := tc.HandshakeContext(ctx); err != nil {
			s.log().Debug("the handshake failed", "listener", name, "client", client.Addr, "err", err)
			conn.Close()
			return
		}
		client.Transport = DoT
		client.ServerName = strings.ToLower(tc.ConnectionState().ServerName)
		s.serveConn(ctx, d, tc, client)
	})
}
