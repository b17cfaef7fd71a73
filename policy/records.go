package policy

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/starferry/starferry/internal/yamlpos"
	"github.com/starferry/starferry/policy/list"
	"github.com/starferry/starferry/policy/match"
)

// txtRecord parses the text of a TXT record.
func txtRecord(s string) (string, error) {
	if len(s) > list.MaxTXT {
		return "", fmt.Errorf("%d bytes, more than %d", len(s), list.MaxTXT)
	}
	return yamlpos.Word(s)
}

// httpsRecord parses an HTTPS record as a master file has it: a priority, a
// target and parameters (RFC 9460, section 2.1). Quotes and escapes, which none
// of these parameters needs, are not read.
func httpsRecord(s string) (string, error) {
	fields := strings.Fields(s)
	if len(fields) < 2 {
		return "", yamlpos.Hint(fmt.Errorf("%q is no HTTPS record", s), `write it like "1 . alpn=h2"`)
	}
	priority, err := strconv.ParseUint(fields[0], 10, 16)
	if err != nil {
		return "", fmt.Errorf("%q is no priority", fields[0])
	}
	if target := fields[1]; target != "." {
		if target, err = match.Clean(target); err != nil {
			return "", err
		}
		fields[1] = target + "."
	}
	if priority == 0 && len(fields) > 2 {
		return "", fmt.Errorf("an alias (priority 0) has no parameters (RFC 9460, section 2.4.2)")
	}
	seen := map[string]bool{}
	for _, f := range fields[2:] {
		key, value, given := strings.Cut(f, "=")
		if seen[key] {
			return "", fmt.Errorf("parameter %s is given twice", key)
		}
		seen[key] = true
		if err := checkParameter(key, value, given); err != nil {
			return "", err
		}
	}
	return strings.Join(fields, " "), nil
}

var parameterKeys = []string{"alpn", "no-default-alpn", "port", "ipv4hint", "ipv6hint", "ech", "dohpath"}

func checkParameter(key, value string, given bool) error {
	ok := given
	switch key {
	case "alpn":
		ok = ok && !slices.Contains(strings.Split(value, ","), "") && strings.Trim(value, "abcdefghijklmnopqrstuvwxyz0123456789/.-,") == ""
	case "no-default-alpn":
		ok = !given
	case "port":
		_, err := strconv.ParseUint(value, 10, 16)
		ok = ok && err == nil
	case "ipv4hint", "ipv6hint":
		for _, a := range strings.Split(value, ",") {
			_, err := addr(key == "ipv6hint")(a)
			ok = ok && err == nil
		}
	case "ech":
		_, err := base64.StdEncoding.DecodeString(value)
		ok = ok && err == nil && value != ""
	case "dohpath":
		ok = ok && strings.HasPrefix(value, "/") && !strings.ContainsAny(value, "\"\\();")
	default:
		err := fmt.Errorf("unknown parameter %q", key)
		return yamlpos.Hint(err, yamlpos.DidYouMean(key, parameterKeys))
	}
	if !ok {
		return fmt.Errorf("%q is no value of parameter %s", value, key)
	}
	return nil
}
