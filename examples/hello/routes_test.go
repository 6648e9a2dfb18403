package main

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

const known = "s3cret-known-token"

// service is what runs, with everything it logs.
func service(t *testing.T) (http.Handler, *bytes.Buffer) {
	t.Helper()
	token, err := newToken(known)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	return routes(token, slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))), &log
}

func TestRoutes(t *testing.T) {
	const (
		greeting  = `{"message":"Hello World"}` + "\n"
		forbidden = `{"error":"the X-Auth-Token header is missing or wrong"}` + "\n"
		only      = `{"error":"only GET is answered here"}` + "\n"
		nothing   = `{"error":"there is nothing here"}` + "\n"
	)
	cases := map[string]struct {
		method, path string
		tokens       []string
		status       int
		body         string
	}{
		"the token":          {"GET", "/app", []string{known}, 200, greeting},
		"only the head":      {"HEAD", "/app", []string{known}, 200, greeting},
		"no token":           {"GET", "/app", nil, 403, forbidden},
		"an empty one":       {"GET", "/app", []string{""}, 403, forbidden},
		"a wrong one":        {"GET", "/app", []string{"wrong"}, 403, forbidden},
		"nearly":             {"GET", "/app", []string{known + "s"}, 403, forbidden},
		"right and wrong":    {"GET", "/app", []string{known, "wrong"}, 403, forbidden},
		"wrong and right":    {"GET", "/app", []string{"wrong", known}, 403, forbidden},
		"in the query":       {"GET", "/app?X-Auth-Token=" + known, nil, 403, forbidden},
		"another method":     {"POST", "/app", []string{known}, 405, only},
		"below it":           {"GET", "/app/", []string{known}, 404, nothing},
		"ping":               {"GET", "/ping", nil, 200, "pong"},
		"ping, other method": {"DELETE", "/ping", nil, 405, only},
		"health":             {"GET", "/health", nil, 200, `{"status":"ok"}` + "\n"},
		"the root":           {"GET", "/", nil, 404, nothing},
		"elsewhere":          {"POST", "/admin", nil, 404, nothing},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			handler, log := service(t)
			request := httptest.NewRequest(c.method, c.path, nil)
			for _, token := range c.tokens {
				request.Header.Add("x-auth-token", token)
			}
			response := httptest.NewRecorder()
			handler.ServeHTTP(response, request)
			if response.Code != c.status || response.Body.String() != c.body {
				t.Errorf("%d %q", response.Code, response.Body)
			}
			if allow := response.Header().Get("Allow"); (c.status == 405) != (allow == "GET, HEAD") {
				t.Errorf("Allow: %q", allow)
			}
			if strings.Contains(log.String(), known) {
				t.Errorf("the log shows the token: %s", log)
			}
		})
	}
}

func TestMissingAndWrongTokensGetTheSameAnswer(t *testing.T) {
	handler, _ := service(t)
	answers := make([]*httptest.ResponseRecorder, 2)
	for i, token := range []string{"", "wrong"} {
		request := httptest.NewRequest("GET", "/app", nil)
		if token != "" {
			request.Header.Set(tokenHeader, token)
		}
		answers[i] = httptest.NewRecorder()
		handler.ServeHTTP(answers[i], request)
	}
	var heads [2]bytes.Buffer
	for i, answer := range answers {
		if err := answer.Header().Write(&heads[i]); err != nil {
			t.Fatal(err)
		}
	}
	if heads[0].String() != heads[1].String() || answers[0].Body.String() != answers[1].Body.String() {
		t.Errorf("%s%s\n%s%s", &heads[0], answers[0].Body, &heads[1], answers[1].Body)
	}
}

func TestARequestIsOneLineOfTheLog(t *testing.T) {
	handler, log := service(t)
	request := httptest.NewRequest("GET", "/app?secret=in-the-query", nil)
	request.Header.Set("X-Request-Id", "r-17")
	handler.ServeHTTP(httptest.NewRecorder(), request)
	line := log.String()
	for _, part := range []string{`"level":"INFO"`, `"method":"GET"`, `"path":"/app"`, `"status":403`, `"request_id":"r-17"`} {
		if !strings.Contains(line, part) {
			t.Errorf("no %s in %s", part, line)
		}
	}
	if strings.Count(line, "\n") != 1 || strings.Contains(line, "in-the-query") {
		t.Error(line)
	}
	log.Reset()
	handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/health", nil))
	if !strings.Contains(log.String(), `"level":"DEBUG"`) {
		t.Errorf("probes would fill the log: %s", log)
	}
}
