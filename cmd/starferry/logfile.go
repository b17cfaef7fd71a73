package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/resolver/querylog"
)

// logFileOf returns the query log of the gateway that a file describes. Its
// lists and policy are left alone: they may be large, or wrong.
func logFileOf(config string) (string, error) {
	text, err := os.ReadFile(config)
	if err != nil {
		return "", err
	}
	set, err := configs.ReadGateway(config, text)
	switch {
	case err != nil:
		return "", fmt.Errorf("%s cannot be used:\n%w", config, err)
	case set.QueryLog == nil || set.QueryLog.File == "":
		return "", fmt.Errorf("%s names no query log: name the log itself", config)
	case set.QueryLog.File == querylog.Stdout:
		return "", fmt.Errorf("the query log of %s goes to the standard output: name a file in which it is kept, or - for the standard input", config)
	}
	return set.QueryLog.File, nil
}

// logFileHere returns the query log of the gateway whose file is in the usual
// place; if there is none, usual.
func logFileHere(usual string) (string, error) {
	file, err := logFileOf(gatewayFile())
	if errors.Is(err, fs.ErrNotExist) {
		return usual, nil
	}
	return file, err
}
