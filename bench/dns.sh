#!/usr/bin/env bash
# Measures the gateway beside other DNS servers, all in one run on one machine:
#
#   bench/dns.sh            all rows; writes the table of docs/performance.md
#   bench/dns.sh --quick    the same with fewer and shorter runs, within 20 minutes
#   bench/dns.sh --smoke    a second of everything, to see that it works; installs,
#                           builds and writes nothing but the gateway itself
#   --only WORK[,WORK]      some rows: cached blocklist miss_saturated miss_5k
#                           p99_20k dot doh memory
#   --peers PEER[,PEER]     some servers: echo dnsdist dnsdist-batch unbound
#                           pdns-recursor named knot-resolver dnsmasq coredns
#
# As root it installs peers that are missing by apt-get; CoreDNS is built by Go
# and kept in ${XDG_CACHE_HOME:-~/.cache}/starferry-bench. Everything listens on
# loopback, at ports from BENCH_PORT (21300) up.
#
# A row starts all its servers, checks that each answers rightly, fills their
# caches, and lets dnsperf ask one after the other, again and again: so what
# disturbs the machine for a while disturbs all of them. The first round is
# thrown away; of the others the median counts, of values and of the ratios
# within a round. The server has one core, dnsperf
# and the upstream the other; its price is the CPU time of its process by
# answer. In p99_20k both cores are free for all, and bench/pace asks.
#
# For programs it prints "ratio WORK PEER VALUE", ours over theirs; "figure NAME
# VALUE UNIT" of memory and start; "skip WORK PEER WHY" where there is nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin
# shellcheck source-path=SCRIPTDIR source=names.sh disable=SC1091
. bench/names.sh
# shellcheck source-path=SCRIPTDIR source=peers.sh disable=SC1091
. bench/peers.sh

COREDNS=v1.14.7
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/starferry-bench
ROWS="cached blocklist miss_saturated miss_5k p99_20k dot doh memory"
PEERS="echo dnsdist dnsdist-batch unbound pdns-recursor named knot-resolver dnsmasq coredns"
NAMES=10000 LISTED=1000000
seconds=5 rounds=5 warmups=1 mode=full rows=$ROWS peers=$PEERS partly=""
next_port=${BENCH_PORT:-21300}

die() { echo "bench/dns.sh: $*" >&2; exit 1; }
note() { echo "# $*"; }

options() {
  while [ $# -gt 0 ]; do
    case $1 in
      --quick) mode=quick seconds=2 rounds=3 ;;
      --smoke) mode=smoke seconds=1 rounds=1 warmups=0 LISTED=100000 ;;
      --only) rows=$(known "${2-}" "$ROWS") partly=yes; shift ;;
      --peers) peers=$(known "${2-}" "$PEERS") partly=yes; shift ;;
      *) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift
  done
}

# known WORDS ALL prints the words, separated by commas, that ALL has.
known() {
  local word out=""
  for word in ${1//,/ }; do
    [[ " $2 " == *" $word "* ]] || die "\"$word\" is none of: $2"
    out+="$word "
  done
  [ -n "$out" ] || die "name at least one of: $2"
  echo "$out"
}

# --- What it starts, it ends.

pids=()
tmp=$(mktemp -d)

stop() { # PID...
  local pid
  for pid in "$@"; do kill -KILL "$pid" 2>/dev/null || true; done
  for pid in "$@"; do wait "$pid" 2>/dev/null || true; done
}

leave() {
  local status=$?
  trap '' INT TERM HUP
  [ ${#pids[@]} -eq 0 ] || stop "${pids[@]}"
  rm -rf "$tmp"
  exit "$status"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# spawn LOG COMMAND... starts a server; its pid is then in $pid.
spawn() {
  local log=$1
  shift
  "$@" >"$log" 2>&1 </dev/null &
  pid=$!
  pids+=("$pid")
}

# attend COMMAND... runs it so that a signal ends this script at once, and the
# command with it.
attend() {
  "$@" &
  local child=$! status=0
  pids+=("$child")
  wait "$child" || status=$?
  unset 'pids[-1]'
  return "$status"
}

# --- What it needs.

have() { command -v "$1" >/dev/null 2>&1; }

# program PEER prints the program that the peer is, as its package calls it.
program() {
  case $1 in
    pdns-recursor) echo pdns_recursor ;;
    knot-resolver) echo kresd ;;
    coredns) echo "$CACHE/coredns" ;;
    dnsdist-batch) echo dnsdist ;;
    echo | starferry) echo "$tmp/bin/$1" ;;
    *) echo "$1" ;;
  esac
}

wanted() { [[ " $peers " == *" $1 "* ]]; }

install_missing() {
  local need=() peer
  have dnsperf || need+=(dnsperf)
  have dig || need+=(bind9-dnsutils)
  have openssl || need+=(openssl)
  for peer in dnsdist unbound pdns-recursor named knot-resolver dnsmasq; do
    ! wanted "$peer" || have "$(program "$peer")" || need+=("${peer/#named/bind9}")
  done
  [ ${#need[@]} -gt 0 ] || return 0
  if [ "$(id -u)" -ne 0 ] || ! have apt-get; then
    note "not installed: ${need[*]}"
    return 0
  fi
  note "installing ${need[*]}"
  without_services apt_install "${need[@]/#dnsmasq/dnsmasq-base}"
}

apt_install() {
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  # One by one: a package that is not to be had keeps out no other.
  local p
  for p in "$@"; do apt-get install -y -qq --no-install-recommends "$p" >/dev/null || note "apt-get cannot install $p"; done
}

# without_services COMMAND... runs it so that packages do not start what they
# bring: servers on port 53 of this machine.
without_services() {
  local policy=/usr/sbin/policy-rc.d
  if [ -e "$policy" ]; then "$@"; return; fi
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod +x "$policy"
  "$@" || true
  rm -f "$policy"
}

# CoreDNS with the plugins that are measured: its others cost minutes to build
# and nothing to run.
build_coredns() {
  local src=$CACHE/coredns-$COREDNS
  if [ -x "$CACHE/coredns" ] && [ "$(cat "$src/built" 2>/dev/null)" = "$COREDNS" ]; then return; fi
  note "building CoreDNS $COREDNS"
  mkdir -p "$src"
  printf 'module coredns\n\ngo 1.26\n\nrequire github.com/coredns/coredns %s\n' "$COREDNS" >"$src/go.mod"
  cat >"$src/main.go" <<'GO'
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/multisocket"
	_ "github.com/coredns/coredns/plugin/tls"
)

func main() {
	dnsserver.Directives = []string{"tls", "multisocket", "bind", "cache", "hosts", "forward"}
	coremain.Run()
}
GO
  (cd "$src" && GOTOOLCHAIN=local GOFLAGS=-mod=mod GOWORK=off go build -o "$CACHE/coredns" . >"$src/log" 2>&1) ||
    { note "CoreDNS: $(tail -n 1 "$src/log")"; return 0; }
  echo "$COREDNS" >"$src/built"
}

prepare() {
  [ "$(nproc)" -ge 2 ] || die "two cores are needed: one for the server, one for who asks"
  if [ "$mode" != smoke ]; then
    install_missing
    ! wanted coredns || build_coredns
  fi
  note "building the gateway"
  mkdir -p "$tmp/bin"
  go build -o "$tmp/bin/" ./cmd/starferry ./bench/echo ./bench/upstream ./bench/pace ./bench/first
  ! have openssl || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
    -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$tmp/key.pem" -out "$tmp/cert.pem" 2>/dev/null
  make_names "$tmp/names" "$NAMES"
  make_blocklist "$tmp/list.txt" "$LISTED"
  mix_names "$tmp/mixed" "$tmp/names" "$tmp/list.txt"
  questions "$tmp/names.q" "$tmp/names"
  questions "$tmp/mixed.q" "$tmp/mixed"
  list_files "$tmp"
  up=$next_port
  next_port=$((next_port + 1))
  spawn "$tmp/upstream.log" taskset -c 1 "$tmp/bin/upstream" -listen "127.0.0.2:$up" -address "$ANSWER"
}

# --- A row.

declare -A samples=() server=() at=() unmeasured=()
work="" runs=1 proto=udp block=no threads=1 pin="taskset -c 0" ask=names.q rate="" alive=()
dir="" port=0 pid=0 value="" rps="" # of what was started, and measured, last

# describe WORK sets what is different in a row.
describe() {
  work=$1 runs=$rounds proto=udp block=no threads=1 pin="taskset -c 0" ask=names.q rate="" alive=()
  [[ $work != p99_20k && $work != miss_saturated ]] || [ "$mode" = smoke ] || runs=5
  case $work in
    blocklist) block=yes ask=mixed.q ;;
    miss_saturated) ask=unique ;;
    miss_5k) ask=unique rate=5000 ;;
    p99_20k) threads=2 pin="" ;;
    dot | doh) proto=$work ;;
  esac
}

skip() { echo "skip $work $1 $2"; } # PEER WHY

# takes_part PEER: the echo is a measure for what is answered from a cache.
takes_part() {
  if [ "$1" = echo ]; then [[ $work == cached || $work == p99_20k ]]; return; fi
  [ "$mode" != smoke ] || [ "$1" = starferry ] || [ "$work" = cached ] || [ -n "$partly" ]
}

# start PEER starts it and waits for its first right answer.
start() {
  local peer=$1 cmd=() why=""
  dir=$tmp/$work.$peer port=$next_port
  next_port=$((next_port + 5))
  mkdir -p "$dir"
  have "$(program "$peer")" || { skip "$peer" "is not installed"; return 1; }
  "run_$peer" || { skip "$peer" "$why"; return 1; }
  # shellcheck disable=SC2086
  spawn "$dir/log" $pin "${cmd[@]}"
  server[$peer]=$pid at[$peer]=$port
  [ "$peer" != echo ] || return 0
  if ! attend "$tmp/bin/first" -to "127.0.0.1:$port" -name "$(head -n 1 "$tmp/names")" -want "$ANSWER" -within 90s >"$dir/first" 2>&1; then
    skip "$peer" "does not answer: $(tail -n 1 "$dir/log" | cut -c 1-200)"
    return 1
  fi
}

# halt PEER ends it. Some would take minutes to free what they hold.
halt() {
  [ -n "${server[$1]:-}" ] || return 0
  local kept=() p
  stop "${server[$1]}"
  for p in "${pids[@]}"; do [ "$p" = "${server[$1]}" ] || kept+=("$p"); done
  pids=("${kept[@]}")
  unset "server[$1]"
}

# look PEER NAME asks by dig as the row does.
look() {
  local p=${at[$1]} how=()
  case $proto in
    dot) p=$((p + 1)) how=(+tls) ;;
    doh) p=$((p + 2)) how=(+https=/dns-query) ;;
  esac
  dig "@127.0.0.1" -p "$p" "${how[@]}" +time=2 +tries=2 "$2" A 2>&1
}

# right PEER checks that what is allowed is answered, and what is blocked not.
right() {
  local peer=$1 name got
  [ "$peer" != echo ] && have dig || return 0
  name=$(sed -n 7p "$tmp/names")
  got=$(look "$peer" "$name") || true
  grep -q "IN[[:space:]]A[[:space:]]$ANSWER" <<<"$got" || { skip "$peer" "answers $name wrongly: $(status_of "$got")"; return 1; }
  [ "$block" = yes ] || return 0
  while read -r name; do
    blocks "$peer" "$name" || { skip "$peer" "does not block $name: $(status_of "$got")"; return 1; }
  done < <(sed -n '5p;5000p;10000p' "$tmp/mixed")
}

# blocks PEER NAME waits for the name to be blocked: named answers while it still
# reads the list.
blocks() {
  local i
  for ((i = 0; i < 120; i++)); do
    got=$(look "$1" "$2") || true
    ! grep -Eq 'status: NXDOMAIN|IN[[:space:]]A[[:space:]]0\.0\.0\.0' <<<"$got" || return 0
    attend sleep 0.5
  done
  return 1
}

status_of() { grep -Eo 'status: [A-Z]+|;; .*(refused|timed out|failed|error).*' <<<"$1" | head -n 1 || true; }

# load PEER FILE ARGS... asks by dnsperf; what it says is in $dir/load.
load() {
  local p=${at[$1]} file=$2 how=(-m "$proto")
  shift 2
  case $proto in
    udp) how+=(-c 10 -q 200) ;;
    dot) p=$((p + 1)) how+=(-c 10 -q 100) ;;
    doh) p=$((p + 2)) how+=(-c 10 -q 100 -O "doh-uri=https://127.0.0.1:$p/dns-query") ;;
  esac
  attend taskset -c 1 dnsperf -s 127.0.0.1 -p "$p" "${how[@]}" -T 1 -t 2 -d "$file" "$@" >"$tmp/load" 2>&1
}

# fill PEER puts what is asked into its cache, in the row's own way: some keep
# answers for UDP and for streams apart. Each name is asked twice, as UDP may
# lose some.
fill() {
  if have dnsperf; then
    load "$1" "$tmp/$ask" -n 2 -l 10 || true
  else
    attend "$tmp/bin/pace" -to "127.0.0.1:${at[$1]}" -names "$tmp/${ask%.q}" -rate "$NAMES" -for 2s >"$tmp/load" 2>&1 || true
  fi
}

# cpu PID prints the ticks that all threads of the process have used.
cpu() { sed 's/.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 }'; }

# measure PEER ROUND SECONDS sets value and rps, or fails.
measure() {
  local file=$tmp/$ask before after more=()
  if [ "$ask" = unique ]; then
    file=$tmp/unique
    unique_questions "$file" $(($3 * ${rate:-120000} * 11 / 10)) "$1$2"
  fi
  [ -z "$rate" ] || more=(-Q "$rate")
  before=$(cpu "${server[$1]}") || return 1
  load "$1" "$file" -l "$3" "${more[@]}" || return 1
  after=$(cpu "${server[$1]}") || return 1
  read -r value rps < <(price $((after - before)) <"$tmp/load")
  [ -n "$value" ]
}

# price TICKS reads what dnsperf says and prints the CPU seconds of a million
# answers, and answers a second. Where more than one answer in a hundred is a
# failure, or more than one question in twenty got none, it prints nothing.
price() {
  awk -v ticks="$1" -v hz="$(getconf CLK_TCK)" '
    /Response codes:/ { for (i = 3; i < NF; i++) if ($i == "NOERROR" || $i == "NXDOMAIN") good += $(i + 1) }
    /Queries sent:/ { sent = $3 }
    /Queries completed:/ { all = $3 }
    /Queries per second:/ { rps = $4 }
    END { if (all > 0.95 * sent && good > 0.99 * all) printf "%.3f %.0f\n", ticks / hz / all * 1e6, rps }' || true
}

# pace PEER SECONDS sets value to the p99 of a steady 20,000 q/s. A question without an
# answer counts as a second.
pace() {
  attend "$tmp/bin/pace" -to "127.0.0.1:${at[$1]}" -names "$tmp/names" -rate 20000 -for "$2s" >"$tmp/load" 2>&1 || return 1
  read -r value rps < <(awk -v s="$2" '/^window/ && $6 > 0 { print $10, $6 / s }' "$tmp/load") && [ -n "$value" ]
}

# once PEER ROUND measures, and keeps the value but for that of the first round,
# which is short.
once() {
  local span=$seconds
  value="" rps=""
  [ "$2" -ge "$warmups" ] || span=1
  if [ "$work" = p99_20k ]; then pace "$1" "$span"; else measure "$@" "$span"; fi || {
    skip "$1" "fails under load: $(grep -E 'completed|lost|codes|rror' "$tmp/load" | tr -s '\n ' ' ')"
    return 1
  }
  note "$work $1 round $2: $value ($rps q/s)"
  [ "$2" -lt "$warmups" ] || samples["$work $1"]+="$value "
}

# clock prints the processors' time since the machine started, and how much of it the machine's host has taken.
clock() { awk '$1 == "cpu" { for (i = 2; i <= 9; i++) all += $i; print all, $9 }' /proc/stat; }

declare -A taken=() # by work: percent of the processors' time

row() {
  local peer round still began
  describe "$1"
  [ "$work" = p99_20k ] || have dnsperf || unmeasured[$work]="dnsperf is not installed"
  [ "$proto" = udp ] || [ -s "$tmp/cert.pem" ] || unmeasured[$work]="openssl is not installed"
  [ -z "${unmeasured[$work]:-}" ] || { skip all "${unmeasured[$work]}"; return 0; }
  for peer in starferry $peers; do
    ! takes_part "$peer" || { start "$peer" && right "$peer" && alive+=("$peer"); } || halt "$peer"
  done
  [ "$ask" = unique ] || for peer in "${alive[@]}"; do fill "$peer"; done
  began=$(clock)
  for ((round = 0; round < runs + warmups; round++)); do
    still=()
    for peer in "${alive[@]}"; do
      if once "$peer" "$round"; then still+=("$peer"); else halt "$peer"; fi
    done
    alive=("${still[@]}")
  done
  taken[$work]=$(awk '{ printf "%.1f", ($1 > $3) ? 100 * ($2 - $4) / ($1 - $3) : 0 }' <<<"$(clock) $began")
  for peer in "${alive[@]}"; do halt "$peer"; done
  ratios
}

median() { tr ' ' '\n' | grep . | sort -g | awk '{ v[NR] = $1 } END { if (NR) print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

of() { median <<<"${samples["$1 $2"]:-}" || true; } # WORK PEER

over() { awk -v a="$1" -v b="$2" 'BEGIN { if (a != "" && b > 0) printf "%.3f", a / b }'; }

# ratio WORK PEER prints what ours is over theirs: the median of the rounds'
# ratios. A machine that is slower in one round than in another is so for both. But
# what a p99 meets with is over in milliseconds: there it is the ratio of the medians.
ratio() {
  if [ "$1" = p99_20k ]; then over "$(of "$1" starferry)" "$(of "$1" "$2")"; return; fi
  paste -d ' ' <(values "$1" starferry) <(values "$1" "$2") | awk 'NF == 2 && $2 > 0 { printf "%.4f ", $1 / $2 }' |
    median | awk '{ printf "%.3f", $1 }' || true
}

values() { tr ' ' '\n' <<<"${samples["$1 $2"]:-}" | grep . || true; } # WORK PEER

ratios() {
  local peer r
  for peer in $peers; do
    r=$(ratio "$work" "$peer")
    [ -z "$r" ] || echo "ratio $work $peer $r"
  done
}

# --- Memory and start.

declare -A figure=()

rss() { awk -v key="$2:" '$1 == key { print $2 / 1024 }' "/proc/$1/status"; } # PID VmRSS|VmHWM

# settled PID sets mb to the resident MB, as soon as they have stayed the same
# for three seconds, or at last.
settled() {
  local now same=0 i
  mb=0
  for ((i = 0; i < 40 && same < 6; i++)); do
    now=$(rss "$1" VmRSS)
    if awk -v a="$mb" -v b="$now" 'BEGIN { exit !(a - b < 0.3 && b - a < 0.3) }'; then same=$((same + 1)); else same=0; fi
    mb=$now
    [ "$mode" != smoke ] || break
    attend sleep 0.5
  done
}

# begin NAME starts the gateway in a folder of that name and sets seconds_to to
# how long its first right answer took.
begin() {
  local cmd=() why=""
  dir=$tmp/memory.$1 port=$next_port
  next_port=$((next_port + 5))
  mkdir -p "$dir"
  cp "$tmp/list.txt" "$dir/list.txt"
  # shellcheck disable=SC2034
  local list_file=list.txt # of its own, to change
  run_starferry || { skip starferry "$why"; return 1; }
  local now=$EPOCHREALTIME
  spawn "$dir/log" "${cmd[@]}"
  server[starferry]=$pid at[starferry]=$port
  attend "$tmp/bin/first" -to "127.0.0.1:$port" -name "$(head -n 1 "$tmp/names")" -want "$ANSWER" -since "$now" >"$dir/first" ||
    { skip starferry "does not answer: $(tail -n 1 "$dir/log")"; return 1; }
  seconds_to=$(cat "$dir/first")
}

# reload adds a name to the list, so that there is something to read, and waits
# until the new list is in force.
reload() {
  echo "one-more-$RANDOM.bench.info" >>"$dir/list.txt"
  "$tmp/bin/starferry" reload -c "$dir/gateway.yaml" >"$dir/reload" 2>&1
}

# peak PID BASE LIST sets value to how far above BASE a reload goes, in sizes of
# LIST.
peak() {
  echo 5 >"/proc/$1/clear_refs" || return 1 # VmHWM starts anew
  reload || return 1
  attend sleep 1
  value=$(awk -v top="$(rss "$1" VmHWM)" -v base="$2" -v list="$3" 'BEGIN { if (list > 0) printf "%.3f", (top - base) / list }')
}

# steady sets value to how much p99 of 10,000 q/s grows in the ten seconds that
# hold a reload.
steady() {
  local span=10 asking
  [ "$mode" != smoke ] || span=1
  fill starferry
  "$tmp/bin/pace" -to "127.0.0.1:$port" -names "$tmp/names" -rate 10000 -for $((2 * span))s -windows 2 >"$tmp/load" 2>&1 &
  asking=$!
  pids+=("$asking")
  attend sleep "$span.3"
  reload || return 1
  wait "$asking" || return 1
  unset 'pids[-1]'
  note "p99_reload: $(paste -sd, "$tmp/load")"
  value=$(over "$(awk '/^window 2/ { print $10 }' "$tmp/load")" "$(awk '/^window 1/ { print $10 }' "$tmp/load")")
}

memory_once() { # ROUND
  local without list
  block=no
  begin "$1.without" || return 1
  settled "$pid"
  without=$mb
  halt starferry
  block=yes
  begin "$1.with" || return 1
  samples["memory first_answer"]+="$seconds_to "
  settled "$pid"
  list=$(awk -v a="$mb" -v b="$without" 'BEGIN { printf "%.3f", a - b }')
  note "memory: $without MB without the list, $mb MB with it, first answer after $seconds_to s"
  samples["memory list_resident"]+="$list "
  peak "$pid" "$without" "$list" || return 1
  samples["memory list_reload_peak"]+="$value "
  steady || return 1
  samples["memory p99_reload"]+="$value "
  halt starferry
}

memory() {
  local i n=3 name
  describe memory
  [ "$mode" != smoke ] || n=1
  for ((i = 0; i < n; i++)); do
    memory_once "$i" || { skip starferry "memory and start could not be measured"; halt starferry; return 0; }
  done
  for name in list_resident:MB list_reload_peak:x first_answer:s p99_reload:x; do
    figure[${name%:*}]="$(of memory "${name%:*}" | awk '{ printf "%.3f", $1 }') ${name#*:}"
    echo "figure ${name%:*} ${figure[${name%:*}]}"
  done
}

# --- What came of it.

# cell WORK PEER prints the price, and ours over it.
cell() {
  local v r
  v=$(of "$1" "$2")
  [ -n "$v" ] || { printf ' |'; return; }
  r=$(ratio "$1" "$2")
  v=$(awk -v v="$v" 'BEGIN { printf v < 100 ? "%.3g" : "%.0f", v }')
  if [ "$2" = starferry ]; then printf ' **%s** |' "$v"; else printf ' %s%s |' "$v" "${r:+ ($(printf %.2f "$r"))}"; fi
}

title() {
  case $1 in
    cached) echo "10,000 cached names" ;;
    blocklist) echo "the same, 20 % of them in a blocklist of 1,000,000" ;;
    miss_saturated) echo "all cache misses, saturated" ;;
    miss_5k) echo "all cache misses, 5,000 q/s" ;;
    p99_20k) echo "steady 20,000 q/s, both cores: p99 in ms" ;;
    dot) echo "DNS over TLS, kept connections" ;;
    doh) echo "DNS over HTTPS, kept connections" ;;
  esac
}

table() {
  local work peer
  printf '| CPU seconds of a million answers | Starferry |'
  for peer in $peers; do printf ' %s |' "$peer"; done
  printf '\n|---|%s\n' "$(for peer in starferry $peers; do printf -- '--:|'; done)"
  for work in ${rows/memory/}; do
    printf '| %s |' "$(title "$work")"
    for peer in starferry $peers; do cell "$work" "$peer"; done
    echo
  done
  [ ${#figure[@]} -gt 0 ] || return 0
  printf '\n| the gateway with a blocklist of 1,000,000 names | |\n|---|--:|\n'
  printf '| what the list adds to resident memory | %s |\n' "${figure[list_resident]}"
  printf '| memory above that without a list, at the worst of a reload, in sizes of the list | %s |\n' "${figure[list_reload_peak]}"
  printf '| from the start to the first right answer | %s |\n' "${figure[first_answer]}"
  printf '| p99 of a steady 10,000 q/s in the 10 s that hold a reload, over that of the 10 s before | %s |\n' "${figure[p99_reload]}"
}

version() { # PEER
  case $1 in
    dnsdist) dnsdist --version | awk 'NR == 1 { print $2 }' ;;
    unbound) unbound -V | awk 'NR == 1 { print $2 }' ;;
    pdns-recursor) pdns_recursor --version 2>&1 | grep -Eo 'Recursor [0-9.]+' | awk '{ print $2 }' ;;
    named) named -v | awk '{ print $2 }' ;;
    knot-resolver) kresd --version | grep -Eo '[0-9][0-9.]+' | head -n 1 ;;
    dnsmasq) dnsmasq --version | awk 'NR == 1 { print $3 }' ;;
    coredns) echo "${COREDNS#v}" ;;
  esac
}

facts() {
  local peer versions=""
  for peer in $peers; do
    [[ $peer != echo && $peer != dnsdist-batch ]] || continue
    ! have "$(program "$peer")" || versions+=", $peer $(version "$peer" || true)"
  done
  echo "In parentheses: ours over theirs. Measured by \`bench/dns.sh$([ "$mode" = full ] || echo " --$mode")\`: medians of $rounds runs of $seconds s (p99, and misses at full load: of five), ratios by run (p99: of the medians)."
  host
  echo "$(awk -F': ' '/model name/ { print $2; exit }' /proc/cpuinfo), $(nproc) cores, Linux $(uname -r), $(go env GOVERSION)${versions}."
}

# host tells how much of its time the machine did not have. The tail of the answers' times grows with that.
host() {
  local one out=""
  for one in ${rows/memory/}; do [ -z "${taken[$one]:-}" ] || out+=", $one ${taken[$one]}"; done
  [ -z "$out" ] || echo "Percent of the processors' time that the machine's host took (steal) while a row was measured: ${out#, }."
}

publish() {
  local doc=docs/performance.md begin='<!-- bench/dns.sh: begin -->' end='<!-- bench/dns.sh: end -->'
  { echo "$begin"; table; echo; facts; echo "$end"; } >"$tmp/section"
  grep -qF "$begin" "$doc" || printf '\n## Beside other DNS servers\n\n%s\n%s\n' "$begin" "$end" >>"$doc"
  awk -v begin="$begin" -v end="$end" -v section="$tmp/section" '
    $0 == begin { while ((getline line < section) > 0) print line; inside = 1 }
    !inside { print }
    $0 == end { inside = 0 }' "$doc" >"$tmp/doc"
  cat "$tmp/doc" >"$doc"
  note "written: $doc"
}

# answered holds that the gateway answered in all rows that could be measured.
answered() {
  local one what=starferry
  for one in $rows; do
    [ "$one" != memory ] || what=first_answer
    [ -n "${samples["$one $what"]:-}" ] || [ -n "${unmeasured[$one]:-}" ] || die "the gateway answered nothing in $one"
  done
  [ -n "${samples[*]}" ] || die "nothing was answered"
}

main() {
  local one
  options "$@"
  prepare
  for one in $rows; do
    if [ "$one" = memory ]; then memory; else row "$one"; fi
  done
  [ "$mode" != smoke ] || note "a smoke: its list is of $LISTED names, and its figures say nothing"
  echo
  table
  echo
  facts
  [ "$mode" = smoke ] || [ -n "$partly" ] || publish
  answered
  note "took $SECONDS s"
}

main "$@"
