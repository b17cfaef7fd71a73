package resolver

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/device/posture"
)

// Names in the class CH, which is where servers talk of themselves.
const (
	whoamiName    = "whoami.starferry"
	explainSuffix = ".explain.starferry"
)

// chaosBytes bounds what is said in one record, well below what a message
// can hold.
const chaosBytes = 16384

// chaos answers what an asker wants to know of itself. Nothing is said of the
// software: version.bind and the like are refused.
func (a *asking) chaos() *outcome {
	name, explain := strings.CutSuffix(a.Name, explainSuffix)
	switch {
	case a.g.Says[a.Name] != "":
		return a.say(func() []string { return []string{a.g.Says[a.Name]} })
	case a.Name == whoamiName:
		return a.say(a.whoami)
	case !explain || name == "" || a.g.Explain == nil:
		return refused("nothing here by that name")
	case a.asker.Device == nil || !a.asker.Device.Explain:
		return refused("this device may not ask for explanations")
	default:
		return a.say(func() []string { return a.g.Explain(name, dns.TypeA, a.asker) })
	}
}

// say answers with lines of text, if text was asked for.
func (a *asking) say(lines func() []string) *outcome {
	o := &outcome{action: Local}
	if a.Type != dns.TypeTXT && a.Type != dns.TypeANY {
		o.ns = []dns.RR{a.soa()}
		return o
	}
	var said []string
	n := 0
	for _, l := range lines() {
		if n += len(l) + 1; n > chaosBytes {
			said = append(said, "…")
			break
		}
		said = append(said, l)
	}
	o.answer = []dns.RR{a.texts(said)}
	return o
}

// whoami says how the gateway sees the asker.
func (a *asking) whoami() []string {
	who := &a.asker
	lines := []string{"device unknown"}
	if who.Device != nil {
		lines = []string{"device " + string(who.Device.ID)}
	}
	lines = append(lines, "identity "+who.Kind.Strength().String()+" by "+who.Kind.String(), "source "+who.Source.String())
	if who.Device != nil {
		lines = append(lines, "groups "+strings.Join(who.Device.Groups, " "))
	}
	if a.way {
		lines = append(lines, "steering possible")
	} else {
		lines = append(lines, "steering impossible: no way to send")
	}
	if who.Device == nil {
		return lines
	}
	names := slices.Collect(maps.Keys(who.Verdicts))
	for _, p := range a.policy.Profiles() { // one without a verdict is unknown
		names = append(names, p.Name)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		lines = append(lines, "posture "+name+" "+condition(who.Verdicts[name].At(a.now)))
	}
	return lines
}

// condition writes a verdict.
func condition(v posture.Verdict) string {
	switch {
	case v.Result == posture.Passed:
		return "passed until " + v.Expires.UTC().Format(time.RFC3339)
	case v.Reason != "":
		return v.Result.String() + ": " + v.Reason
	case v.Result == posture.Unknown:
		return v.Result.String() + ": no report"
	}
	return v.Result.String()
}
