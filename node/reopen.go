package node

// reopen has the files of the query log opened anew by their names: who
// renames them, as logrotate does, asks for a reload after.
func (d *gatewayDNS) reopen() { d.queries.log.Reopen() }
