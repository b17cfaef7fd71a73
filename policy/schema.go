package policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/starferry/starferry/internal/rrtype"
	"github.com/starferry/starferry/policy/list"
)

// A shape is a part of a JSON Schema.
type shape map[string]any

// Schema returns the JSON Schema (draft 2020-12) of policy files, by which
// editors complete and check them. It knows each key and word that the parser
// knows; what is beyond it, such as whether a list that is named is there, only
// the parser tells.
func Schema() []byte {
	file := object(fileShapes())
	file["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	file["title"] = "policy file of Starferry"
	file["$defs"] = shape{
		"policy":     shape{"anyOf": []any{policyShape(), object(map[string]any{"include": some1(word1())}, "include")}},
		"conditions": conditionShape(),
		"names":      namesShape(),
		"schedule":   scheduleShape(),
		"times":      shape{"anyOf": []any{some1(word1()), ref("schedule")}},
		"block":      shape{"anyOf": []any{oneOf(blockKinds[:Address]...), object(map[string]any{"address": some1(word1())}, "address")}},
	}
	b, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("the schema is no JSON: %v", err)) // it is made of constants
	}
	return append(b, '\n')
}

// Keys returns the keys that a policy file may have at its top.
func Keys() []string { return slices.Sorted(maps.Keys(fileShapes())) }

func fileShapes() map[string]any {
	return map[string]any{
		"lists":      named(listShape()),
		"categories": named(some1(word1())),
		"schedules":  named(ref("schedule")),
		"geoip":      filled(object(map[string]any{"country": word1(), "asn": word1()})),
		"postures":   named(postureShape()),
		"policies":   array(ref("policy")),
		"defaults":   array(defaultShape()),
		"default":    oneOf("allow", "block"),
		"tests":      array(testShape()),
	}
}

func ref(def string) shape { return shape{"$ref": "#/$defs/" + def} }

// word1 is one value that is no list and no mapping.
func word1() shape { return shape{"type": []string{"string", "number", "boolean"}} }

// some1 is one or more of something.
func some1(of shape) shape {
	return shape{"anyOf": []any{of, shape{"type": "array", "items": of, "minItems": 1}}}
}

func array(of shape) shape { return shape{"type": "array", "items": of} }

func oneOf(words ...string) shape { return shape{"enum": words} }

// named is a mapping from names that the file gives.
func named(of shape) shape {
	return shape{"type": "object", "additionalProperties": of, "propertyNames": shape{"maxLength": 100}}
}

func object(keys map[string]any, required ...string) shape {
	s := shape{"type": "object", "properties": keys, "additionalProperties": false}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

// filled is what must not be empty.
func filled(s shape) shape {
	s["minProperties"] = 1
	return s
}

// truthValue is what YAML 1.1 calls so; editors go by 1.2, where on and off are texts.
func truthValue() shape {
	return shape{"anyOf": []any{shape{"type": "boolean"}, oneOf("on", "off", "yes", "no")}}
}

func span1() shape { return shape{"type": "string", "pattern": `^[0-9]`} }

func listShape() shape {
	formats := slices.Compact(slices.Sorted(slices.Values(append(list.NameFormats(), list.NetworkFormats()...))))
	s := object(map[string]any{
		"file": word1(), "format": oneOf(formats...), "min_labels": shape{"type": "integer", "minimum": 1, "maximum": 10}, "except": some1(word1()),
		"use": oneOf(useAllow, useBlock), "select": some1(word1()),
		"url": word1(), "refresh": span1(), "sha256": word1(), "max_shrink": word1(),
	}, "format")
	s["oneOf"] = oneKeyOf("file", "url")
	return s
}

// oneKeyOf wants one of the keys, and no second one.
func oneKeyOf(keys ...string) (out []shape) {
	for _, key := range keys {
		out = append(out, shape{"required": []string{key}})
	}
	return out
}

func postureShape() shape {
	members := filled(object(map[string]any{"in": some1(word1()), "not_in": some1(word1()), "present": some1(word1()), "absent": some1(word1())}))
	volumes := object(map[string]any{"volumes": some1(word1()), "except": shape{"anyOf": []any{word1(), array(word1())}}}, "volumes")
	systems := shape{"type": "object", "additionalProperties": word1(), "minProperties": 1}
	fields := map[string]any{
		"disk_encryption": shape{"anyOf": []any{word1(), volumes, members}},
		"os_version":      shape{"anyOf": []any{word1(), systems}},
	}
	check := shape{"type": "object", "minProperties": 1, "properties": fields, "additionalProperties": shape{"anyOf": []any{word1(), members}}}
	checks := shape{"type": "array", "minItems": 1, "items": check}
	return object(map[string]any{"max_age": span1(), "checks": checks}, "max_age", "checks")
}

func scheduleShape() shape {
	return object(map[string]any{"zone": shape{"type": "string"}, "days": some1(shape{"type": "string"}), "hours": some1(shape{"type": "string"})}, "zone")
}

func policyShape() shape {
	then := shape{"anyOf": []any{oneOf("allow", "block"), thenShape()}}
	return object(map[string]any{
		"name": word1(), "if": ref("conditions"), "then": then,
		"require": demandShape(),
		"deny":    object(map[string]any{"block": ref("block"), "reason": word1()}),
		"reason":  word1(), "ede": edeShape(),
		"log":   shape{"type": "string", "pattern": `^(all|blocks|none|sample\([0-9]+\))$`},
		"cname": oneOf("check", "ignore"), "ecs": word1(), "mode": oneOf("enforce", "shadow"),
		"ttl":        object(map[string]any{"min": span1(), "max": span1()}),
		"not_before": word1(), "not_after": word1(),
	}, "name", "then")
}

func edeShape() shape {
	return shape{"enum": []any{EDEBlocked, EDECensored, EDEFiltered, "blocked", "censored", "filtered"}}
}

func thenShape() shape {
	override := object(map[string]any{
		"a": some1(word1()), "aaaa": some1(word1()), "cname": word1(), "txt": some1(word1()), "https": some1(word1()), "list": word1(), "ttl": span1(),
	})
	s := object(map[string]any{
		"block": shape{"anyOf": []any{ref("block"), oneOf(Truncate.String())}}, "override": override, "resolve": word1(), "steer": word1(),
		"ports":     some1(shape{"type": "string", "pattern": `^(tcp|udp)/[0-9]+(-[0-9]+)?$`}),
		"when_down": oneOf(fallbacks[:]...), "no_way": oneOf(fallbacks[:FallServfail]...), "ttl": span1(),
		"reason": word1(), "ede": edeShape(),
	})
	s["oneOf"] = oneKeyOf(actionKeys...)
	return s
}

func demandShape() shape {
	return object(map[string]any{
		"groups": some1(word1()), "devices": some1(word1()), "identity": oneOf(strengthWords...), "posture": some1(word1()),
		"schedule": ref("times"), "approval": object(map[string]any{"by": word1(), "until": word1()}, "by", "until"),
	})
}

// conditionShape is that of an "if": each key of [conditionKeys] has its own.
func conditionShape() shape {
	several := some1(ref("conditions"))
	special := map[string]shape{
		"all": several, "any": several, "not": ref("conditions"), "name": ref("names"), "answer": answerShape(),
		"identity": oneOf(strengthWords...), "kind": some1(oneOf(kindNames(kinds)...)),
		"posture":   {"type": "object", "additionalProperties": oneOf("passed", "failed", "unknown"), "minProperties": 1},
		"transport": some1(oneOf("udp", "tcp", "dot", "doh")), "schedule": ref("times"), "type": some1(typeShape()),
		"flow": object(map[string]any{"protocol": some1(oneOf("tcp", "udp", "icmp")), "port": some1(word1()), "route": some1(word1())}),
	}
	keys := map[string]any{}
	for _, key := range conditionKeys {
		keys[key] = some1(word1())
		if s, ok := special[key]; ok {
			keys[key] = s
		}
	}
	return filled(object(keys))
}

// typeShape suggests the types that have names, and takes TYPE123 and lower case.
func typeShape() shape {
	return shape{"anyOf": []any{oneOf(slices.Sorted(maps.Keys(rrtype.Numbers))...), shape{"type": "string", "pattern": "^[A-Za-z0-9]+$"}}}
}

func namesShape() shape {
	keys := map[string]any{"regexp": some1(word1()), "list": some1(word1()), "category": some1(word1())}
	for _, f := range nameForms {
		keys[f.key] = some1(word1())
	}
	return shape{"anyOf": []any{some1(word1()), filled(object(keys))}}
}

func answerShape() shape {
	keys := map[string]any{}
	for _, key := range answerKeys {
		keys[key] = some1(word1())
		if recordKeys[key] != 0 {
			keys[key] = ref("names")
		}
	}
	keys["txt"] = object(map[string]any{"regexp": some1(word1())}, "regexp")
	s := filled(object(keys))
	s["maxProperties"] = 1
	return s
}

func defaultShape() shape {
	then := shape{"anyOf": []any{oneOf("allow", "block"), object(map[string]any{"block": ref("block")}, "block")}}
	return object(map[string]any{"group": some1(word1()), "groups": some1(word1()), "listener": some1(word1()), "then": then, "learn": truthValue()}, "then")
}

func testShape() shape {
	stand := oneOf("passing", "failing", "unknown")
	decision := oneOf("allow", "block", "deny")
	want := object(map[string]any{
		"steer": word1(), "resolve": word1(), "block": oneOf(blockKinds[:]...), "deny": oneOf(blockKinds[:]...), "override": some1(word1()),
		"decision": decision, "policy": word1(),
	})
	described := object(map[string]any{
		"groups": some1(word1()), "user": word1(), "platform": word1(), "network": word1(), "identity": oneOf(strengthWords...), "kind": oneOf(kindNames(kinds)...),
	})
	assumed := map[string]any{}
	for _, key := range assumptions {
		assumed[key] = some1(word1())
	}
	one := object(assumed)
	one["minProperties"], one["maxProperties"] = 1, 1
	return object(map[string]any{
		"ask": word1(), "device": shape{"anyOf": []any{word1(), described}}, "type": word1(), "time": word1(), "flow": word1(),
		"listener": word1(), "transport": oneOf("udp", "tcp", "dot", "doh"),
		"answer":  some1(shape{"anyOf": []any{word1(), one}}),
		"posture": shape{"anyOf": []any{stand, shape{"type": "object", "additionalProperties": stand}}},
		"want":    shape{"anyOf": []any{decision, want}},
	}, "ask", "want")
}
