package main

import (
	"strings"
	"testing"
)

func TestTokenMatches(t *testing.T) {
	const right = "mF9Jd-0a1b2c3d"
	token, err := newToken(right)
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]bool{
		right:                     true,
		"":                        false,
		right[:len(right)-1]:      false,
		right + "x":               false,
		right + "\x00":            false,
		" " + right:               false,
		strings.ToUpper(right):    false,
		strings.Repeat(right, 99): false,
	}
	for presented, expected := range cases {
		if got := token.matches(presented); got != expected {
			t.Errorf("%.40q: %v", presented, got)
		}
	}
}

func TestNothingMatchesATokenThatWasNeverSet(t *testing.T) {
	var unset token
	for _, presented := range []string{"", "\x00", strings.Repeat("\x00", len(unset))} {
		if unset.matches(presented) {
			t.Errorf("%q gets in", presented)
		}
	}
}
