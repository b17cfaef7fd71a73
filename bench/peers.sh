# shellcheck shell=bash disable=SC2034,SC2154
# How bench/dns.sh runs each server. A function run_PEER writes what the peer
# needs into $dir and sets cmd to the command that serves plain DNS at $port of
# 127.0.0.1, and in the rows on them DoT at $port+1 and DoH at $port+2. It reads
#
#   proto    udp, dot or doh: what is asked
#   block    yes: the names of the blocklist are blocked
#   threads  as many as it may use cores
#   up       the port of the upstream at 127.0.0.2
#   tmp      holds list.* and cert.pem, key.pem
#
# Each peer is set as its documentation advises for speed: caches that hold all
# that is asked, no log, no validation, a socket for each thread.

ANSWER=93.184.216.34 # of the upstream; public, so that no peer takes it for rebinding

run_echo() { cmd=("$tmp/bin/echo" -listen "127.0.0.1:$port"); }

run_dnsdist() {
  local i
  {
    for ((i = 0; i < threads; i++)); do
      echo "addLocal('127.0.0.1:$port', {reusePort=true})"
    done
    cat <<LUA
setACL({'127.0.0.0/8'})
setSecurityPollSuffix('')
setMaxUDPOutstanding(65535)
newServer({address='127.0.0.2:$up', sockets=8, checkInterval=5})
pc = newPacketCache(400000, {maxTTL=86400, numberOfShards=20})
getPool(''):setCache(pc)
LUA
    [ -z "${vector:-}" ] || echo "setUDPMultipleMessagesVectorSize($vector)"
    if [ "$proto" = dot ]; then
      echo "addTLSLocal('127.0.0.1:$((port + 1))', '$tmp/cert.pem', '$tmp/key.pem', {provider='openssl', reusePort=true})"
    elif [ "$proto" = doh ]; then
      echo "addDOHLocal('127.0.0.1:$((port + 2))', '$tmp/cert.pem', '$tmp/key.pem', '/dns-query', {reusePort=true})"
    fi
    if [ "$block" = yes ]; then
      cat <<LUA
smn = newSuffixMatchNode()
for line in io.lines('$tmp/list.txt') do smn:add(newDNSName(line)) end
addAction(SuffixMatchNodeRule(smn), RCodeAction(DNSRCode.NXDOMAIN))
LUA
    fi
  } >"$dir/dnsdist.conf"
  cmd=(dnsdist --supervised --disable-syslog -C "$dir/dnsdist.conf")
}

# dnsdist reads and writes datagrams one by one unless it is told to take many at
# once, which halves its price on hits.
run_dnsdist-batch() {
  [ "$proto" = udp ] || { why="is dnsdist but for UDP"; return 1; }
  local vector=64
  run_dnsdist
}

run_unbound() {
  {
    cat <<CONF
server:
  interface: 127.0.0.1@$port
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "$dir"
  pidfile: ""
  use-syslog: no
  logfile: ""
  verbosity: 0
  num-threads: $threads
  so-reuseport: yes
  msg-cache-size: 128m
  rrset-cache-size: 256m
  outgoing-range: 4096
  num-queries-per-thread: 2048
  access-control: 127.0.0.0/8 allow
  do-not-query-localhost: no
  module-config: "iterator"
  qname-minimisation: no
  tls-service-pem: "$tmp/cert.pem"
  tls-service-key: "$tmp/key.pem"
CONF
    [ "$proto" != dot ] || printf '  interface: 127.0.0.1@%d\n  tls-port: %d\n' $((port + 1)) $((port + 1))
    [ "$proto" != doh ] || printf '  interface: 127.0.0.1@%d\n  https-port: %d\n' $((port + 2)) $((port + 2))
    [ "$block" != yes ] || echo "  include: \"$tmp/list.unbound\""
    cat <<CONF
remote-control:
  control-enable: no
forward-zone:
  name: "."
  forward-addr: 127.0.0.2@$up
CONF
  } >"$dir/unbound.conf"
  cmd=(unbound -d -p -c "$dir/unbound.conf")
}

run_pdns-recursor() {
  [ "$proto" = udp ] || { why="has no listener for $proto"; return 1; }
  cat >"$dir/recursor.conf" <<CONF
local-address=127.0.0.1
local-port=$port
threads=$threads
pdns-distributes-queries=no
reuseport=yes
forward-zones-recurse=.=127.0.0.2:$up
dont-query=
allow-from=127.0.0.0/8
dnssec=off
qname-minimization=no
max-cache-entries=1000000
max-packetcache-entries=500000
socket-dir=$dir
security-poll-suffix=
export-etc-hosts=off
serve-rfc1918=no
daemon=no
write-pid=no
disable-syslog=yes
loglevel=2
quiet=yes
CONF
  if [ "$block" = yes ]; then
    echo "rpzFile('$tmp/list.rpz', {policyName='list', defpol=Policy.NXDOMAIN})" >"$dir/rpz.lua"
    echo "lua-config-file=$dir/rpz.lua" >>"$dir/recursor.conf"
  fi
  cmd=(pdns_recursor --config-dir="$dir")
}

run_named() {
  local listen="" policy="" zone=""
  [ "$proto" != dot ] || listen="listen-on port $((port + 1)) tls bench { 127.0.0.1; };"
  [ "$proto" != doh ] || listen="listen-on port $((port + 2)) tls bench http bench { 127.0.0.1; };"
  if [ "$block" = yes ]; then
    policy='response-policy { zone "list"; } qname-wait-recurse no;'
    zone="zone \"list\" { type primary; file \"$tmp/list.rpz\"; allow-query { none; }; };"
  fi
  cat >"$dir/named.conf" <<CONF
tls bench { cert-file "$tmp/cert.pem"; key-file "$tmp/key.pem"; };
http bench { endpoints { "/dns-query"; }; };
options {
  directory "$dir";
  listen-on port $port { 127.0.0.1; };
  listen-on-v6 { none; };
  $listen
  pid-file none;
  session-keyfile "$dir/session.key";
  allow-query { 127.0.0.0/8; };
  forward only;
  forwarders port $up { 127.0.0.2; };
  dnssec-validation no;
  empty-zones-enable no;
  max-cache-size 256m;
  recursive-clients 10000;
  $policy
};
controls { };
logging { category default { null; }; };
$zone
CONF
  cmd=(named -f -4 -n "$threads" -c "$dir/named.conf")
}

run_knot-resolver() {
  local listen="" list=""
  [ "$proto" != dot ] || listen="net.listen('127.0.0.1', $((port + 1)), {kind='tls'})"
  [ "$proto" != doh ] || listen="net.listen('127.0.0.1', $((port + 2)), {kind='doh2'})"
  [ "$block" != yes ] || list="policy.add(policy.rpz(policy.DENY, '$tmp/list.rpz', false))"
  cat >"$dir/kresd.conf" <<LUA
net.ipv6 = false
net.listen('127.0.0.1', $port, {kind='dns'})
net.tls('$tmp/cert.pem', '$tmp/key.pem')
$listen
trust_anchors.remove('.')
modules.unload('ta_sentinel')
modules.unload('ta_signal_query')
modules.unload('detect_time_skew')
modules.unload('detect_time_jump')
cache.open(256 * MB, 'lmdb://$dir/cache')
modules.load('policy')
$list
policy.add(policy.all(policy.FORWARD({'127.0.0.2@$up'})))
LUA
  cmd=(kresd -n -q -c "$dir/kresd.conf" "$dir")
}

run_dnsmasq() {
  [ "$proto" = udp ] || { why="has no listener for $proto"; return 1; }
  cat >"$dir/dnsmasq.conf" <<CONF
port=$port
listen-address=127.0.0.1
bind-interfaces
no-resolv
no-hosts
no-poll
server=127.0.0.2#$up
cache-size=100000
dns-forward-max=10000
user=$(id -un)
group=$(id -gn)
pid-file=
CONF
  [ "$block" != yes ] || echo "conf-file=$tmp/list.dnsmasq" >>"$dir/dnsmasq.conf"
  cmd=(dnsmasq -k --log-facility=- -C "$dir/dnsmasq.conf")
}

run_coredns() {
  local zone list="" sockets=""
  [ "$block" != yes ] || list="hosts $tmp/list.hosts {
    no_reverse
    reload 0
    fallthrough
  }"
  [ "$threads" = 1 ] || sockets="multisocket $threads"
  zone="bind 127.0.0.1
  $sockets
  cache 86400 {
    success 400000
    denial 400000
  }
  $list
  forward . 127.0.0.2:$up"
  {
    printf '.:%d {\n  %s\n}\n' "$port" "$zone"
    [ "$proto" != dot ] || printf 'tls://.:%d {\n  tls %s %s\n  %s\n}\n' $((port + 1)) "$tmp/cert.pem" "$tmp/key.pem" "$zone"
    [ "$proto" != doh ] || printf 'https://.:%d {\n  tls %s %s\n  %s\n}\n' $((port + 2)) "$tmp/cert.pem" "$tmp/key.pem" "$zone"
  } >"$dir/Corefile"
  cmd=("$CACHE/coredns" -quiet -conf "$dir/Corefile")
}

# How our gateway is set. Fifty rules are on in all rows; the blocklist goes
# before them. Its egress is not there: nothing that is asked is steered.
run_starferry() {
  gateway_yaml >"$dir/gateway.yaml"
  office_networks >"$dir/devices.yaml"
  {
    printf 'lists:\n'
    printf '  %s: {file: %s.txt, format: plain}\n' phishing phishing china-sites china-sites
    printf '  china-networks: {file: china-networks.txt, format: cidr}\n'
    [ "$block" != yes ] || printf '  blocked: {file: "%s", format: plain}\n' "${list_file:-$tmp/list.txt}"
    printf 'postures:\n  laptop: {max_age: 15m, checks: [firewall: on]}\npolicies:\n'
    [ "$block" != yes ] || printf '  - {name: blocked, if: {name: {list: blocked}}, then: {block: nxdomain}}\n'
    fifty_rules "$dir"
  } >"$dir/policy.yaml"
  "$tmp/bin/starferry" keygen --out "$dir/gateway.key" >/dev/null 2>&1
  "$tmp/bin/starferry" check -q "$dir/gateway.yaml" >"$dir/check" 2>&1 ||
    { why="check: $(head -n 1 "$dir/check")"; return 1; }
  cmd=("$tmp/bin/starferry" gateway -c "$dir/gateway.yaml")
}

# office_networks prints who is known: who asks here, and those whom rules name.
office_networks() {
  local i
  printf 'networks:\n  - {name: bench, addresses: [127.0.0.0/8], groups: [guests]}\n'
  for ((i = 0; i < 12; i++)); do
    printf '  - {name: team-%d, addresses: [192.168.%d.0/24], groups: [staff, team-%d]}\n' "$i" "$i" "$i"
  done
}

gateway_yaml() {
  cat <<YAML
role: gateway
name: bench
policy: policy.yaml
devices: devices.yaml
state_dir: $dir/state
control: $dir/control.sock
address: [100.72.0.1]
slice: [100.72.0.0/20]
pool: [198.19.0.0/18]
wireguard: {private_key_file: gateway.key, listen: "127.0.0.1:$((port + 3))"}
egresses:
  - name: hk
    public_key: "e0xjY8u30nx2FU3HVd/t2vUfJq+Ad6jc2WGccRC/kTQ="
    endpoint: "127.0.0.3:9"
    address: [100.72.128.1]
    pool: [240.1.0.0/16]
routes:
  hong-kong: {egresses: [hk]}
upstreams:
  default: {servers: ["127.0.0.2:$up"]}
YAML
  gateway_dns
}

gateway_dns() {
  cat <<YAML
dns:
  listen: ["127.0.0.1:$port"]
  rate_limit: off
  cache: {size: 256MiB}
YAML
  [ "$proto" != dot ] || echo "  tls: {listen: [\"127.0.0.1:$((port + 1))\"]}"
  [ "$proto" != doh ] || echo "  https: {listen: [\"127.0.0.1:$((port + 2))\"]}"
  [ "$proto" = udp ] || echo "  certificates: [{cert: \"$tmp/cert.pem\", key: \"$tmp/key.pem\"}]"
}
