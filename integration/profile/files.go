package main

// gateway has limits above what the checks do at once.
const gateway = `
role: gateway
name: kit
state_dir: @DIR@/state
control: @DIR@/gateway.sock
policy: policy.yaml
devices: devices.yaml
address: 100.72.0.1
slice: 100.72.0.0/20
pool: 198.19.0.0/18
dns:
  listen: ["@LISTEN@:5300"]
  tls: {listen: ["@LISTEN@:8853"]}
  https: {listen: ["@LISTEN@:8443"], path: /dns-query}
  certificates: [{cert: dns.pem, key: dns.key}]
  limits: {in_work: 4096, in_work_per_client: 512, connections: 1024, connections_per_client: 512}
  rate_limit: off
  cache: {min_ttl: 0s}
  special_use: {except: [example]}
  rebinding: {protect: @PROTECT@, except: [lo.kit.example]}
upstreams: {default: {servers: ["@UPSTREAM@"]}}
wireguard: {private_key_file: gateway.key, listen: "@LISTEN@:51820"}
`

const devices = `
networks:
  - {name: clients, addresses: [127.0.0.0/8]}
`

const allowed = `
policies:
  - name: names-of-the-checks
    if: {name: {suffix: [kit.example, othr.example]}}
    then: allow
default: allow
`
