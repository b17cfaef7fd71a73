#!/usr/bin/env bash
# Measures what decisions and lists of names cost, and other structures that
# hold names beside the list, in one run on one machine:
#
#   bench/policy.sh           a minute; writes the table of docs/performance.md
#   bench/policy.sh --smoke   some seconds with short lists, to see that it
#                             works; writes nothing
#
# It measures on one core, by the time that the processor gives it. For programs
# it prints "figure NAME VALUE UNIT": decision_hit and decision_hit_allocs of a
# question that was decided before in the scope of its asker, decision_first of
# one by 50 policies and ten lists, policies_10000 of one by 10,000 policies over
# that by 50 (about the same number of names; _cold: about all), and of a list
# list_bytes_per_name, list_lookup_hit, list_lookup_miss and list_build_peak.
set -euo pipefail
cd "$(dirname "$0")/.."

mode=full
how=(-names 1000000)
case ${1-} in
  "") ;;
  --smoke) mode=smoke how=(-names 20000 -rounds 1 -for 20ms) ;;
  *) sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
pin=()
! command -v taskset >/dev/null || pin=(taskset -c 0)

go build -o "$tmp/policy" ./bench/policy
"${pin[@]}" "$tmp/policy" "${how[@]}" -table "$tmp/table" | tee "$tmp/figures"

value() { awk -v name="$1" '$2 == name { print $3, $4 }' "$tmp/figures"; }

section() {
  echo "| what | figure | |"
  echo "|---|---|--:|"
  while read -r name what; do
    echo "| $what | \`$name\` | $(value "$name") |"
  done <<'END'
decision_hit a question that was decided before, of 10,000 pairs of scope and name
decision_hit_allocs … allocations
decision_first the first decision for a name, by 50 policies and ten lists of 1,000,000 names in all
policies_10000 a decision by 10,000 policies, over that by 50: about fifty names
policies_10000_cold … about all names, so that the processor's caches do not help
list_bytes_per_name a list of 1,000,000 names: memory a name
list_lookup_hit … a name of four labels that is in it
list_lookup_miss … one that is not
list_build_peak … memory while it is built, over that of the list
END
  echo
  cat "$tmp/table"
  echo
  echo "Measured by \`bench/policy.sh\` on one core, by the processor's time: medians of seven rounds. The other structures are written for the comparison; what names they are built of is counted with them."
  echo "$(awk -F': ' '/model name/ { print $2; exit }' /proc/cpuinfo), $(nproc) cores, Linux $(uname -r), $(go env GOVERSION)."
}

publish() {
  local doc=docs/performance.md begin='<!-- bench/policy.sh: begin -->' end='<!-- bench/policy.sh: end -->'
  { echo "$begin"; section; echo "$end"; } >"$tmp/section"
  grep -qF "$begin" "$doc" || printf '\n## Decisions and lists\n\n%s\n%s\n' "$begin" "$end" >>"$doc"
  awk -v begin="$begin" -v end="$end" -v section="$tmp/section" '
    $0 == begin { while ((getline line < section) > 0) print line; inside = 1 }
    !inside { print }
    $0 == end { inside = 0 }' "$doc" >"$tmp/doc"
  cat "$tmp/doc" >"$doc"
  echo "# written: $doc"
}

[ "$mode" = smoke ] || publish
