package yamlpos

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Word parses a text that must not be empty.
func Word(s string) (string, error) {
	if strings.TrimSpace(s) == "" {
		return "", errors.New("must not be empty")
	}
	return s, nil
}

// OneOf returns a parse function for one of a few words.
func OneOf(words ...string) func(string) (string, error) {
	return func(s string) (string, error) {
		i, err := Index(words...)(s)
		if err != nil {
			return "", err
		}
		return words[i], nil
	}
}

// Index returns a parse function that gives the place of a text among words.
func Index(words ...string) func(string) (int, error) {
	return func(s string) (int, error) {
		for i, w := range words {
			if w == s {
				return i, nil
			}
		}
		err := fmt.Errorf("%q is none of %s", s, strings.Join(words, ", "))
		return 0, Hint(err, DidYouMean(s, words))
	}
}

// Duration parses a time span longer than zero, such as 90s or 15m.
func Duration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		return 0, Hint(fmt.Errorf("%q is no time span", s), "write it like 90s, 15m or 2h30m")
	case d <= 0:
		return 0, fmt.Errorf("%q must be longer than zero", s)
	}
	return d, nil
}

// Bool parses yes or no in the words that YAML 1.1 has for them.
func Bool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "true", "yes", "on":
		return true, nil
	case "false", "no", "off":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither true nor false", s)
}

// Int returns a parse function for a whole number in a range, ends included.
func Int(from, to int) func(string) (int, error) {
	return func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err != nil || n < from || n > to {
			return 0, fmt.Errorf("%q is no whole number from %d to %d", s, from, to)
		}
		return n, nil
	}
}
