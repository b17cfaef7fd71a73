#!/usr/bin/env bash
# kit.sh: checks the built gateway from outside, by scripts that know nothing of it.
#
#   KIT=FOLDER [ORACLE="FOLDER ..."] [STARFERRY=PROGRAM] integration/kit.sh
#
# KIT holds the scripts: an upstream resolver of odd habits (upstream.py), and what asks a server in front
# of it: edns_compliance.sh, forwarder.py, malformed.py, dotdoh.py, clients.sh. Each folder of ORACLE holds a list
# of rules (rules.json), what the upstream serves (data.json), and questions with the answers that others agree
# on, which policy_oracle.py plays. Without STARFERRY the program is built. clients.sh needs root and the
# packages that .ci/run installs.
#
# The output of the scripts goes to standard output as it is, all that this one says to standard error. The
# exit status is 0 only if every MUST and SHOULD is met, no malformed message does harm, every client is
# answered, none is left out, and all questions are answered as expected.
set -uo pipefail
KIT=${KIT:+$(realpath -m "$KIT")} STARFERRY=${STARFERRY:+$(realpath -m "$STARFERRY")}
# shellcheck disable=SC2086
ORACLE=${ORACLE:+$(realpath -m $ORACLE)}
cd "$(dirname "$0")/.." || exit 2
go=$(command -v go)
# Debian's programs go first: a python3 that is a wrapper starts too late for scripts that wait half a second.
export PATH="/usr/bin:/bin:/usr/sbin:/sbin:$PATH"

say() { echo "kit.sh: $*" >&2; }
fail() { say "$*"; exit 2; }

host=127.9.0.2 upstream=127.9.0.1 oracle=127.9.6.1 clients=45
scripts="upstream.py dnswire.py rawcheck.py edns_compliance.sh forwarder.py malformed.py dotdoh.py clients.sh policy_oracle.py"
programs="dig host nslookup delv kdig drill getdns_query stubby unbound dnsmasq dnsdist kresd pdns_recursor curl h2load node socat
dnsperf chromium firefox-esr certutil unshare python3 /lib/systemd/systemd-resolved"

[ -n "$KIT" ] || fail "KIT is not set: it names the folder of check scripts"
[ "$(id -u)" = 0 ] || fail "needs root: clients.sh makes mount namespaces and listens on port 53"
missing=""
for s in $scripts; do [ -r "$KIT/$s" ] || missing="$missing $KIT/$s"; done
for p in $programs; do command -v "$p" >/dev/null || missing="$missing $p"; done
for m in dns.resolver h2 httpx; do /usr/bin/python3 -c "import $m" 2>/dev/null || missing="$missing python:$m"; done
for d in $ORACLE; do for f in rules.json data.json cases.jsonl; do [ -r "$d/$f" ] || missing="$missing $d/$f"; done; done
[ -z "$missing" ] || fail "missing:$missing"

work=$(mktemp -d) && chmod 755 "$work"
pids=() failed=()
cleanup() {
  for p in "${pids[@]}"; do kill "$p" 2>/dev/null; done
  for p in "${pids[@]}"; do wait "$p" 2>/dev/null; done
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

[ -n "$go" ] || fail "missing: go"
"$go" build -o "$work/profile" ./integration/profile || fail "the program that writes the profile cannot be built"
starferry=${STARFERRY:-$work/starferry}
[ -n "$STARFERRY" ] || "$go" build -o "$starferry" ./cmd/starferry || fail "the gateway cannot be built"

# background LOG COMMAND...: starts it; its process is $!.
background() {
  local log=$1
  shift
  "$@" >"$log" 2>&1 &
  pids+=($!)
}

# answers ADDRESS PORT NAME LOG: waits until a server answers. One that still
# loads says SERVFAIL.
answers() {
  for _ in $(seq 100); do
    dig "@$1" -p "$2" +tries=1 +time=1 "$3" A 2>/dev/null | grep -Eq "status: (NOERROR|NXDOMAIN)" && return
    sleep 0.1
  done
  tail -n 30 "$4" >&2
  fail "$1 port $2 does not answer; its log stands above"
}

# serve NAME UPSTREAM-ADDRESS UPSTREAM-OPTIONS -- PROFILE-OPTIONS: an upstream and a gateway of which it is the
# only one. The gateway's process is $gateway, its files are in $files.
serve() {
  local name=$1 at=$2 options=()
  shift 2
  while [ "$1" != -- ]; do options+=("$1"); shift; done
  shift
  files=$work/$name
  mkdir -p "$files" && chmod 755 "$files"
  background "$files/upstream.log" python3 "$KIT/upstream.py" "$at" 5353 "${options[@]}"
  behind=$!
  answers "$at" 5353 a.kit.example "$files/upstream.log"
  "$work/profile" -listen "$host" -upstream "$at:5353" "$@" "$files" || fail "the profile cannot be written"
  background "$files/gateway.log" "$starferry" gateway -c "$files/gateway.yaml"
  gateway=$!
  answers "$host" 5300 a.kit.example "$files/gateway.log"
}

# unserve ends what serve began.
unserve() {
  kill -0 "$gateway" 2>/dev/null || { tail -n 30 "$files/gateway.log" >&2; failed+=("the gateway ended by itself"); }
  kill "$gateway" "$behind" 2>/dev/null
  wait "$gateway" "$behind" 2>/dev/null
}

# check NAME JUDGE COMMAND...: runs a script, and has its last line judged too.
check() {
  local name=$1 judge=$2 status last
  shift 2
  say "$name"
  "$@" | tee "$work/out"
  status=${PIPESTATUS[0]}
  last=$(tail -n 1 "$work/out")
  [ "$status" = 0 ] && "$judge" "$last" || failed+=("$name (exit status $status): $last")
}

# all N/M: whether it is all of them, and any.
all() { [ -n "$1" ] && [ "${1%/*}" = "${1#*/}" ] && [ "${1%/*}" -gt 0 ]; }
score() { sed -nE "s,.*(^| )$2 ([0-9]+/[0-9]+).*,\2,p" <<<"$1"; }
scored() { all "$(score "$1" MUST)" && all "$(score "$1" SHOULD)"; }
clean() { [[ $1 == *" CLEAN "* ]]; }
served() {
  local s
  s=$(score "$1" SCORE)
  all "$s" && [ "${s#*/}" -ge "$clients" ] && [[ $1 != *skipped:* ]]
}
agreed() { all "$(sed -nE 's,.*:[0-9]+ ([0-9]+/[0-9]+).*,\1,p' <<<"$1")"; }

serve kit "$upstream" --
check edns_compliance scored bash "$KIT/edns_compliance.sh" "$host" 5300
check forwarder scored python3 "$KIT/forwarder.py" "$host" 5300
check malformed clean python3 "$KIT/malformed.py" "$host" 5300 --n 2000 --seed 1 --pid "$gateway" --rss 200
check dotdoh scored python3 "$KIT/dotdoh.py" "$host" 8853 8443
check clients served env CA="$files/ca.pem" SNI=dns.kit.example bash "$KIT/clients.sh" "$host" 5300 8853 8443
unserve

for d in $ORACLE; do
  serve "oracle-$(basename "$d")" "$oracle" --data "$d/data.json" -- -rules "$d/rules.json"
  check "policy_oracle $d" agreed python3 "$KIT/policy_oracle.py" play "$host" 5300 "$d"
  unserve
done

if [ ${#failed[@]} -gt 0 ]; then
  for f in "${failed[@]}"; do say "FAILED $f"; done
  exit 1
fi
say "all is well"
