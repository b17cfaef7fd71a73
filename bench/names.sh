# shellcheck shell=bash
# What bench/dns.sh asks for: names, lists and rules, the same on each run.

WORDS="alpha beacon cedar delta ember falcon garnet harbor indigo juniper kestrel lumen maple nectar onyx prairie quartz raven saffron tundra umber violet willow xenon yonder zephyr"

# make_names FILE COUNT: names that are allowed.
make_names() {
  awk -v n="$2" -v words="$WORDS" 'BEGIN {
    m = split(words, w, " ")
    for (i = 1; i <= n; i++) printf "www.%s%05d.org\n", w[(i * 7919) % m + 1], i
  }' >"$1"
}

# make_blocklist FILE COUNT: names as trackers have them. None lies below another.
make_blocklist() {
  awk -v n="$2" -v words="$WORDS" 'BEGIN {
    m = split(words, w, " ")
    for (i = 1; i <= n; i++) {
      r = (i * 48271) % 2147483647
      a = w[r % m + 1]; b = w[int(r / m) % m + 1]
      if (i % 4 == 0) printf "ads%d.%s.com\n", i, a
      else if (i % 4 == 1) printf "%s-%s%d.net\n", a, b, i
      else if (i % 4 == 2) printf "t.%s%d.co.uk\n", a, i
      else printf "cdn.%s.%s%d.info\n", b, a, i
    }
  }' >"$1"
}

# mix_names FILE ALLOWED LIST: as many names as ALLOWED, each fifth of LIST.
mix_names() {
  local count each
  count=$(wc -l <"$2")
  each=$(($(wc -l <"$3") / (count / 5)))
  awk -v each="$each" 'NR == FNR { if (FNR % each == 0) bad[++n] = $0; next }
    FNR % 5 == 0 { print bad[FNR / 5]; next } { print }' "$3" "$2" >"$1"
}

# questions FILE NAMES: as dnsperf reads them.
questions() { sed 's/$/ A/' "$2" >"$1"; }

# unique_questions FILE COUNT TAG: names that nobody has asked before.
unique_questions() {
  awk -v n="$2" -v tag="$3" 'BEGIN { for (i = 0; i < n; i++) printf "%s-%07d.missing.org A\n", tag, i }' >"$1"
}

# list_files DIR: the blocklist in the words of each peer that reads one.
list_files() {
  local list=$1/list.txt
  sed 's/^/0.0.0.0 /' "$list" >"$1/list.hosts"
  sed 's|.*|local=/&/|' "$list" >"$1/list.dnsmasq"
  sed 's/.*/local-zone: "&" always_nxdomain/' "$list" >"$1/list.unbound"
  {
    # shellcheck disable=SC2016
    printf '$TTL 3600\n@ SOA localhost. root.localhost. 1 3600 600 86400 3600\n@ NS localhost.\n'
    sed 's/.*/& CNAME .\n*.& CNAME ./' "$list"
  } >"$1/list.rpz"
}

# fifty_rules DIR: fifty policies as a company of some size has, the last of
# which allows, and the lists that they name. No name that is asked is denied.
fifty_rules() {
  awk 'BEGIN { for (i = 1; i <= 1000; i++) printf "login%d.phish.info\n", i }' >"$1/phishing.txt"
  awk 'BEGIN { for (i = 1; i <= 2000; i++) printf "site%d.cn\n", i }' >"$1/china-sites.txt"
  awk 'BEGIN { for (i = 0; i < 4000; i++) printf "%d.%d.0.0/16\n", 101 + int(i / 250), i % 250 }' >"$1/china-networks.txt"
  cat <<'YAML'
  - {name: phishing, if: {name: {list: phishing}}, then: {block: nxdomain}}
YAML
  awk 'BEGIN { for (i = 0; i < 12; i++) {
    printf "  - {name: site-%d, if: {name: {suffix: [s%d.example.com, t%d.example.com]}}, then: {block: nxdomain}}\n", i, i, i
    printf "  - {name: team-%d, if: {group: team-%d, name: {exact: w%d.example.com}}, then: {override: {a: 10.0.0.%d}}}\n", i, i, i, i + 1
    printf "  - {name: guests-%d, if: {all: [name: {suffix: g%d.example.com}, not: {identity: medium}]}, then: {block: nodata}}\n", i, i
    if (i < 11) printf "  - {name: net-%d, if: {answer: {network: china-networks}, network: 192.168.%d.0/24}, then: {block: nodata}}\n", i, i
  } }'
  cat <<'YAML'
  - name: china
    if: {any: [name: {list: china-sites}, answer: {network: china-networks}]}
    require: {groups: [staff], identity: medium, posture: laptop}
    then: {steer: hong-kong, ports: [tcp/443]}
  - {name: rest, then: allow}
YAML
}
