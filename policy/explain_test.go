package policy_test

import "testing"

const company = head + `
policies:
  - name: phishing
    if: {name: {list: phishing}}
    then: {block: nxdomain, reason: Known phishing site}
  - name: china-origins
    if:
      any:
        - name: {list: china-sites}
        - answer: {country: CN}
    require: {groups: [staff], identity: medium, posture: laptop}
    then: {steer: hong-kong, ports: [tcp/443]}
  - name: guests
    if: {group: guests, not: {network: 192.168.0.0/16}}
    then: {block: nodata}
  - name: everything-else
    then: allow
`

// explanations are what an operator reads.
var explanations = []struct {
	q    question
	want string
}{
	{question{ask: "www.phish.example", by: "alice staff"}, `policy.yaml:13:5  phishing  yes: name in list phishing
decision: block nxdomain
text: policy phishing: Known phishing site
`},
	{question{ask: "www.taobao.com", by: "alice staff passing"}, `policy.yaml:13:5  phishing       no: name not in list phishing
policy.yaml:16:5  china-origins  yes: name in list china-sites; demands met: in group staff; identity strong (wireguard); posture laptop passed until 12:10:00
decision: steer hong-kong
text: policy china-origins
`},
	{question{ask: "www.taobao.com", by: "pc guests office failing"}, `policy.yaml:13:5  phishing       no: name not in list phishing
policy.yaml:16:5  china-origins  yes: name in list china-sites; demands not met: not in group staff; identity weak (network), want medium; posture laptop failed: firewall: want on, report says off
decision: deny refused
text: policy china-origins: not in group staff; identity weak (network), want medium; posture laptop failed: firewall: want on, report says off
`},
	{question{ask: "x.example", by: "alice staff passing"}, `policy.yaml:13:5  phishing       no: name not in list phishing
policy.yaml:16:5  china-origins  open: answer country not known yet
decision: ask upstream
`},
	{question{ask: "x.example", by: "bob guests", answer: "x.example cdn.example 192.0.2.1 192.0.2.2"}, `at x.example
policy.yaml:13:5  phishing       no: name not in list phishing
policy.yaml:16:5  china-origins  unknown: no address at x.example
policy.yaml:23:5  guests         yes: device bob in group guests; source 100.72.1.10 not in 192.168.0.0/16; ends the list
at cdn.example
policy.yaml:13:5  phishing       no: name not in list phishing
policy.yaml:16:5  china-origins  no: name not in list china-sites; answer 192.0.2.1 in US or 192.0.2.2 in US, not in CN
decision: block nodata
text: policy guests
`},
	{question{ask: "x.example", by: "alice", answer: "x.example 10.0.0.1"}, `policy.yaml:13:5  phishing         no: name not in list phishing
policy.yaml:16:5  china-origins    unknown: answer 10.0.0.1 in no known country
policy.yaml:23:5  guests           no: device alice not in group guests
policy.yaml:26:5  everything-else  yes: ends the list
decision: allow
`},
}

func TestExplain(t *testing.T) {
	p := parse(t, company)
	for _, tt := range explanations {
		if got := read(t, p, tt.q.query()); got != tt.want {
			t.Errorf("%s by %s\n%s\nwant\n%s", tt.q.ask, tt.q.by, got, tt.want)
		}
	}
	own := parse(t, "policies: [{name: own, if: {name: a.example}, then: block, cname: ignore}, {name: rest, then: {resolve: corp}}]\n")
	want := `policy.yaml:1:12  own   no: name not being a.example
policy.yaml:1:76  rest  yes: ends the list
decision: resolve corp
`
	if got := read(t, own, question{ask: "x.example", answer: "x.example a.example"}.query()); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	want = "default  yes: no policy decides\ndecision: block refused\ntext: no policy decides\n"
	if got := read(t, parse(t, "policies: []\n"), question{ask: "x"}.query()); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}
