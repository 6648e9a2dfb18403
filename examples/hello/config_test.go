package main

import (
	"log/slog"
	"strings"
	"testing"
)

func TestConfig(t *testing.T) {
	cases := map[string]struct {
		environment map[string]string
		port        uint16
		level       slog.Level
		// What the error names. Empty: there is none.
		wrong []string
	}{
		"only a token": {map[string]string{"AUTH_TOKEN": "t0ken"}, 8080, slog.LevelInfo, nil},
		"all":          {map[string]string{"AUTH_TOKEN": "t0ken", "PORT": "0", "LOG_LEVEL": "debug"}, 0, slog.LevelDebug, nil},
		"nothing":      {nil, 0, 0, []string{"AUTH_TOKEN is not set"}},
		"empty":        {map[string]string{"AUTH_TOKEN": ""}, 0, 0, []string{"AUTH_TOKEN is not set"}},
		"line end":     {map[string]string{"AUTH_TOKEN": "t0ken\n"}, 0, 0, []string{"AUTH_TOKEN has a space"}},
		"two words":    {map[string]string{"AUTH_TOKEN": "t0ken t0ken"}, 0, 0, []string{"AUTH_TOKEN has a space"}},
		"no ASCII":     {map[string]string{"AUTH_TOKEN": "tökén"}, 0, 0, []string{"AUTH_TOKEN has a space or a character"}},
		"port":         {map[string]string{"AUTH_TOKEN": "t0ken", "PORT": "65536"}, 0, 0, []string{`PORT is "65536"`}},
		"all is wrong": {map[string]string{"PORT": "http", "LOG_LEVEL": "loud"}, 0, 0, []string{"PORT", "LOG_LEVEL", "AUTH_TOKEN"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := configFrom(func(name string) string { return c.environment[name] })
			if c.wrong == nil {
				if err != nil || got.port != c.port || got.level != c.level || !got.token.matches(c.environment["AUTH_TOKEN"]) {
					t.Fatalf("got %+v, %v", got, err)
				}
				return
			}
			for _, part := range c.wrong {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("the error %v does not name %q", err, part)
				}
			}
			if token := c.environment["AUTH_TOKEN"]; err != nil && token != "" && strings.Contains(err.Error(), token) {
				t.Errorf("the error shows the token: %v", err)
			}
		})
	}
}
