package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestHealthIsWhatTheServerAnswers(t *testing.T) {
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/health" {
			t.Errorf("%s is asked", r.URL.Path)
		}
		w.WriteHeader(status)
	}))
	port := uint16(server.Listener.Addr().(*net.TCPAddr).Port)
	if err := ask(port); err != nil {
		t.Error(err)
	}
	status = http.StatusServiceUnavailable
	if ask(port) == nil {
		t.Error("503 is not well")
	}
	server.Close()
	if ask(port) == nil {
		t.Error("nobody is not well")
	}
}
