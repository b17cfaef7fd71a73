#!/usr/bin/env bash
# Soaks the gateway: bench/soak.sh [TIME]
# TIME is five minutes unless given (30s, 1h; at least 10s). It measures what the gateway can answer, then asks four
# fifths of that, of names that are popular, new or blocked, over UDP and TCP, while policy and list are reloaded
# every ten seconds and two upstreams are killed and revived, both at once too. TIME below a minute presses the
# minute's schedule into itself.
#
# What it can answer is its throughput (RFC 1242, section 3.17): the highest rate at which nothing is lost, here that
# no question has to be asked a second time. It is searched as RFC 2544, section 26.1, has it, by bisection below 5/4
# of what a closed loop reaches: six steps of five seconds of the same questions, in an open loop, each with a reload
# and an upstream that dies and comes back. So it is what gateway, upstreams and this program together can do on this
# machine at this time; one whose speed changes by more than a fifth until the end is no place to run it.
#
# It prints a line for each minute, and last "soak: ok" or, with exit code 1, "soak: FAILED: " and why:
#   - a question without a reply after three tries, or a wrong reply;
#   - SERVFAIL, but for new names while both upstreams are dead and three seconds after;
#   - resident memory, open files or goroutines in the last whole minute above those in the second by more than 15 %
#     (in less than three minutes there is nothing to compare);
#   - a reload that was refused, or was not in force when it should be;
#   - "not valid": this program could not ask what it should when it should, or read the answers.
# "retried" are those whose first try was not answered within a second: where it is not 0, packets were lost. Where,
# it says below the table.
#
# Everything listens on loopback, at ports from SOAK_PORT (21900) up. SOAK_MOST is how many questions a second it
# asks at most (100000), SOAK_CACHE the size of the gateway's cache (16MiB).
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source-path=SCRIPTDIR source=names.sh disable=SC1091
. bench/names.sh
# shellcheck source-path=SCRIPTDIR source=peers.sh disable=SC1091
. bench/peers.sh

NAMES=10000 LISTED=100000
span=${1:-5m} port=${SOAK_PORT:-21900}
tmp=$(mktemp -d)
child=""

# The program ends what it has started, in all cases.
leave() {
  local status=$?
  trap '' INT TERM HUP
  if [ -n "$child" ]; then
    kill -TERM "$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
  fi
  rm -rf "$tmp"
  exit "$status"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# lists writes two versions of the list. Half of their names are in both.
lists() {
  local half=$((LISTED / 2))
  make_blocklist "$tmp/all" $((LISTED + half))
  head -n "$LISTED" "$tmp/all" >"$tmp/list.0.txt"
  tail -n "$LISTED" "$tmp/all" >"$tmp/list.1.txt"
  sed -n '1p' "$tmp/all" >"$tmp/marker.0"
  sed -n '$p' "$tmp/all" >"$tmp/marker.1"
  sed -n "$((half + 1)),${LISTED}p" "$tmp/all" | awk 'NR % 50 == 1' >"$tmp/blocked"
}

# policy VERSION prints a policy: the second version has a rule more.
policy() {
  cat <<'YAML'
lists:
  phishing: {file: phishing.txt, format: plain}
  china-sites: {file: china-sites.txt, format: plain}
  china-networks: {file: china-networks.txt, format: cidr}
  blocked: {file: list.txt, format: plain}
postures:
  laptop: {max_age: 15m, checks: [firewall: on]}
policies:
  - {name: blocked, if: {name: {list: blocked}}, then: {block: nxdomain}}
YAML
  [ "$1" = 0 ] || echo '  - {name: second, if: {name: {suffix: second.example.com}}, then: {block: nodata}}'
  fifty_rules "$tmp"
}

gateway() {
  cat <<YAML
role: gateway
name: soak
policy: policy.yaml
devices: devices.yaml
state_dir: $tmp/state
control: $tmp/control.sock
metrics: 127.0.0.1:$((port + 1))
address: [100.72.0.1]
slice: [100.72.0.0/20]
pool: [198.19.0.0/18]
wireguard: {private_key_file: gateway.key, listen: "127.0.0.1:$((port + 2))"}
egresses:
  - name: hk
    public_key: "e0xjY8u30nx2FU3HVd/t2vUfJq+Ad6jc2WGccRC/kTQ="
    endpoint: "127.0.0.3:9"
    address: [100.72.128.1]
    pool: [240.1.0.0/16]
routes:
  hong-kong: {egresses: [hk]}
upstreams:
  default: {servers: ["127.0.0.2:$((port + 3))", "127.0.0.3:$((port + 3))"]}
dns:
  listen: ["127.0.0.1:$port"]
  rate_limit: off
  cache: {size: ${SOAK_CACHE:-16MiB}} # full within seconds, so that it is not what grows
YAML
}

main() {
  [[ $# -le 1 && $span =~ ^[0-9]+[smh] ]] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
  mkdir "$tmp/bin"
  go build -o "$tmp/bin/" ./cmd/starferry ./bench/upstream ./bench/soak
  make_names "$tmp/names" "$NAMES"
  lists
  policy 0 >"$tmp/policy.0.yaml"
  policy 1 >"$tmp/policy.1.yaml"
  cp "$tmp/policy.0.yaml" "$tmp/policy.yaml"
  cp "$tmp/list.0.txt" "$tmp/list.txt"
  office_networks >"$tmp/devices.yaml"
  gateway >"$tmp/gateway.yaml"
  "$tmp/bin/starferry" keygen --out "$tmp/gateway.key" >/dev/null 2>&1
  "$tmp/bin/starferry" check -q "$tmp/gateway.yaml"
  "$tmp/bin/soak" -for "$span" -dir "$tmp" -bin "$tmp/bin" -answer "$ANSWER" -most "${SOAK_MOST:-100000}" \
    -gateway "127.0.0.1:$port" -metrics "127.0.0.1:$((port + 1))" -up0 "127.0.0.2:$((port + 3))" -up1 "127.0.0.3:$((port + 3))" &
  child=$!
  wait "$child"
}

main "$@"
