package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
)

const defaultPort = 8080

type config struct {
	// 0: any free one.
	port  uint16
	token token
	level slog.Level
}

// configFrom reads the environment. The error names everything that is wrong, and never a value of the token.
func configFrom(getenv func(string) string) (config, error) {
	result := config{port: defaultPort, level: slog.LevelInfo}
	var wrong []string
	if text := getenv("PORT"); text != "" {
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			wrong = append(wrong, fmt.Sprintf("PORT is %q, not a port: 0 to 65535", text))
		}
		result.port = uint16(port)
	}
	if text := getenv("LOG_LEVEL"); text != "" {
		if err := result.level.UnmarshalText([]byte(text)); err != nil {
			wrong = append(wrong, fmt.Sprintf("LOG_LEVEL is %q: write debug, info, warn or error", text))
		}
	}
	token, err := newToken(getenv("AUTH_TOKEN"))
	if err != nil {
		wrong = append(wrong, "AUTH_TOKEN "+err.Error())
	}
	result.token = token
	if len(wrong) > 0 {
		return result, errors.New(strings.Join(wrong, "; "))
	}
	return result, nil
}
