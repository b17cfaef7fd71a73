package node

// reopen takes anew the files that are no part of the policy: those of the query
// log by their names (who renames them, as logrotate does, asks for a reload
// after), certificates, and the secrets of cookies. After a mistake what is in use
// stays.
func (d *gatewayDNS) reopen() {
	d.queries.log.Reopen()
	if d.certs != nil {
		d.certs.Reload() //nolint:errcheck // it has said so in the log, and status does
	}
	file, cookies := d.g.set.DNS.Cookies.SecretFile, d.server.Guard.Cookies
	if file == "" || cookies == nil {
		return
	}
	secrets, err := readSecrets(file)
	if err == nil {
		err = cookies.Set(secrets...)
	}
	if err != nil {
		d.g.log.Error("secrets of cookies were not read anew; those before stay", "err", err)
	}
}
