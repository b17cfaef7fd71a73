package device

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/starferry/starferry/internal/yamlpos"
)

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)

// ParseName reads the name of a device or group, of a node or a route: what
// one file defines and another one uses. All who read such names read them
// here, so that no file can speak of one that no other can define. They become
// parts of etcd keys, file names, metrics and DNS answers.
func ParseName(s string) (string, error) {
	if nameForm.MatchString(s) {
		return s, nil
	}
	err := fmt.Errorf("%q is no name", s)
	if low := strings.ToLower(s); nameForm.MatchString(low) {
		return "", yamlpos.Hint(err, "names are in lower case: write "+low)
	}
	return "", yamlpos.Hint(err, "up to 63 of a-z, 0-9, dot, dash and underscore, with a letter or digit at both ends")
}
