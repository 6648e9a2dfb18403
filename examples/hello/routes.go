package main

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"time"
)

const tokenHeader = "X-Auth-Token"

// refusal says the same for a missing and for a wrong token: which of both it was is nobody's business.
const refusal = "the " + tokenHeader + " header is missing or wrong"

func routes(token token, logger *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /app", app(token))
	mux.HandleFunc("GET /ping", ping)
	mux.HandleFunc("GET /health", health)
	for _, path := range []string{"/app", "/ping", "/health"} {
		mux.HandleFunc(path, otherMethod)
	}
	mux.HandleFunc("/", notFound)
	return logged(mux, logger)
}

func app(token token) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		// Two headers would leave open which one counts.
		presented := r.Header.Values(tokenHeader)
		if len(presented) != 1 || !token.matches(presented[0]) {
			answer(w, http.StatusForbidden, map[string]string{"error": refusal})
			return
		}
		answer(w, http.StatusOK, map[string]string{"message": "Hello World"})
	}
}

func ping(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	// Whoever asked may have gone meanwhile.
	_, _ = io.WriteString(w, "pong")
}

// health needs no token and looks at nothing else: there is nothing that this service waits for.
func health(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]string{"status": "ok"})
}

func otherMethod(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Allow", "GET, HEAD")
	answer(w, http.StatusMethodNotAllowed, map[string]string{"error": "only GET is answered here"})
}

func notFound(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusNotFound, map[string]string{"error": "there is nothing here"})
}

func answer(w http.ResponseWriter, status int, body map[string]string) {
	text, err := json.Marshal(body)
	if err != nil {
		panic("a map of strings is always JSON: " + err.Error())
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n'))
}

// logged writes a line per request: method, path and outcome. Headers and queries are left out, since they may hold
// secrets. What answers a probe is only worth a line when someone is looking for something.
func logged(next http.Handler, logger *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		outcome := &outcome{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(outcome, r)
		level := slog.LevelInfo
		if r.URL.Path == "/health" || r.URL.Path == "/ping" {
			level = slog.LevelDebug
		}
		logger.LogAttrs(r.Context(), level, "request",
			slog.String("method", r.Method),
			slog.String("path", r.URL.Path),
			slog.Int("status", outcome.status),
			slog.Float64("ms", float64(time.Since(began).Microseconds())/1000),
			slog.String("request_id", r.Header.Get("X-Request-Id")),
		)
	})
}

type outcome struct {
	http.ResponseWriter
	status int
}

func (o *outcome) WriteHeader(status int) {
	o.status = status
	o.ResponseWriter.WriteHeader(status)
}
