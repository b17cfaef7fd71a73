package main

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/policy"
)

// testFormats write results.
var testFormats = map[string]func(w io.Writer, path string, results []policy.TestResult) error{
	"text": testText, "tap": testTAP, "junit": testJUnit,
}

func testCommand() *cobra.Command {
	var path, format string
	cmd := &cobra.Command{
		Use:   "test [-c FILE] [--format text|tap|junit]",
		Short: "Run the tests of a policy",
		Long: `Test decides what stands under "tests" in the policy file and says where the
decision is not as wanted, and why. -c names a gateway's or egress's file, or a
policy file; tests that name devices need the gateway's. No node is asked, and
nothing is sent. The exit status is 1 if a test fails.

A node runs the same tests before it takes a policy, at its start and at each
reload: one whose tests fail is refused.`,
		Example: "  starferry test -c configs/gateway.yaml\n  starferry test -c policy.yaml --format junit > report.xml",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			write, ok := testFormats[format]
			if !ok {
				return usageError{fmt.Errorf("--format %q is none of text, tap, junit", format)}
			}
			return test(cmd, cmp.Or(path, gatewayFile()), write)
		},
	}
	configFlag(cmd, &path, "the node's or policy's file (default "+configs.DefaultFolder+"/gateway.yaml, or ./configs/gateway.yaml)")
	cmd.Flags().StringVar(&format, "format", "text", "form of the results: text, tap or junit")
	return cmd
}

func test(cmd *cobra.Command, path string, write func(io.Writer, string, []policy.TestResult) error) error {
	set, err := loadPolicy(cmd, path)
	if err != nil {
		return err
	}
	results := set.Policy.RunTests(set.Devices, time.Now())
	if err := write(cmd.OutOrStdout(), path, results); err != nil {
		return err
	}
	if failed(results) > 0 {
		return errTold
	}
	return nil
}

// loadPolicy reads a policy by way of its own file or a node's, and warns of
// what is missing.
func loadPolicy(cmd *cobra.Command, path string) (*configs.Set, error) {
	set, err := configs.LoadPolicy(configs.OS, path)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be used:\n%w", path, err)
	}
	warnMissing(cmd, set)
	return set, nil
}

// warnMissing says which databases and lists a decision is made without.
func warnMissing(cmd *cobra.Command, set *configs.Set) {
	for _, w := range set.Warnings {
		if strings.Contains(w, " is not here: ") {
			fmt.Fprintln(cmd.ErrOrStderr(), "warning:", w)
		}
	}
}

func failed(results []policy.TestResult) (n int) {
	for i := range results {
		if !results[i].OK() {
			n++
		}
	}
	return n
}

func testText(w io.Writer, path string, results []policy.TestResult) error {
	var b strings.Builder
	for i := range results {
		if r := &results[i]; !r.OK() {
			fmt.Fprintf(&b, "%s\n", r)
			b.WriteString(traced(r, "    "))
		}
	}
	switch n := failed(results); {
	case len(results) == 0:
		fmt.Fprintf(&b, "%s: no tests\n", path)
	case n > 0:
		fmt.Fprintf(&b, "%d of %s failed\n", n, count(len(results), "test"))
	default:
		fmt.Fprintf(&b, "%s passed\n", count(len(results), "test"))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// traced is how the decision of a test came about, each line behind the indent.
func traced(r *policy.TestResult, indent string) string {
	if r.How == nil {
		return ""
	}
	return indent + strings.ReplaceAll(r.How.String(), "\n", "\n"+indent) + "\n"
}

// testTAP writes the Test Anything Protocol, version 14.
func testTAP(w io.Writer, _ string, results []policy.TestResult) error {
	var b strings.Builder
	fmt.Fprintf(&b, "TAP version 14\n1..%d\n", len(results))
	for i := range results {
		r := &results[i]
		not := ""
		if !r.OK() {
			not = "not "
		}
		fmt.Fprintf(&b, "%sok %d - %s: %s\n", not, i+1, strings.ReplaceAll(r.Ask, "#", `\#`), strings.ReplaceAll(r.Want, "#", `\#`))
		if !r.OK() {
			fmt.Fprintf(&b, "  ---\n  at: %q\n  message: %q\n", r.At, r.Err)
			if r.How != nil {
				b.WriteString("  trace: |\n" + traced(r, "    "))
			}
			b.WriteString("  ...\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// The elements of JUnit's XML that are read by common CI systems.
type junitSuites struct {
	XMLName  xml.Name `xml:"testsuites"`
	Tests    int      `xml:"tests,attr"`
	Failures int      `xml:"failures,attr"`
	Suite    junitSuite
}

type junitSuite struct {
	XMLName  xml.Name    `xml:"testsuite"`
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitCase struct {
	Name    string        `xml:"name,attr"`
	Class   string        `xml:"classname,attr"`
	File    string        `xml:"file,attr"`
	Line    int           `xml:"line,attr"`
	Failure *junitFailure `xml:"failure,omitempty"`
}

type junitFailure struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

func testJUnit(w io.Writer, path string, results []policy.TestResult) error {
	n := failed(results)
	out := junitSuites{Tests: len(results), Failures: n, Suite: junitSuite{Name: path, Tests: len(results), Failures: n}}
	for i := range results {
		r := &results[i]
		c := junitCase{Name: r.Ask + ": " + r.Want, Class: path, File: r.At.File, Line: r.At.Line}
		if !r.OK() {
			c.Failure = &junitFailure{Message: r.Err, Text: traced(r, "")}
		}
		out.Suite.Cases = append(out.Suite.Cases, c)
	}
	b, err := xml.MarshalIndent(out, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s%s\n", xml.Header, b)
	return err
}
