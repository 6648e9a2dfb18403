package main

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
)

var (
	errNoToken  = errors.New("is not set: there is no default; a good one is what `openssl rand -hex 32` prints")
	errBadToken = errors.New("has a space or a character that is not ASCII: headers do not carry those unchanged")
)

// token is what clients must know, kept as its hash: hashes have one length, so comparing them tells nothing about the
// token, not even how long it is, and there is nothing in memory that a log could show.
type token [sha256.Size]byte

func newToken(value string) (token, error) {
	if value == "" {
		return token{}, errNoToken
	}
	for _, c := range []byte(value) {
		if c <= ' ' || c > '~' {
			return token{}, errBadToken
		}
	}
	return sha256.Sum256([]byte(value)), nil
}

// matches takes the same time for every presented value of one length, whatever the token is.
func (t token) matches(presented string) bool {
	hash := sha256.Sum256([]byte(presented))
	return subtle.ConstantTimeCompare(hash[:], t[:]) == 1
}
