// Command hello greets whoever knows the token.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

func main() {
	config, err := configFrom(os.Getenv)
	logger := slog.New(slog.NewJSONHandler(os.Stdout, &slog.HandlerOptions{Level: config.level}))
	switch {
	case err != nil:
	case len(os.Args) > 1 && os.Args[1] == "health":
		err = ask(config.port)
	default:
		err = run(config, logger)
	}
	if err != nil {
		logger.Error("cannot serve", "error", err.Error())
		os.Exit(1)
	}
}

func run(config config, logger *slog.Logger) error {
	// Before it listens: a TERM from then on is never lost.
	leave, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	listener, err := net.Listen("tcp", ":"+strconv.Itoa(int(config.port)))
	if err != nil {
		return fmt.Errorf("port %d: %w", config.port, err)
	}
	logger.Info("serving", "address", listener.Addr().String())
	if err := serve(leave, listener, routes(config.token, logger), logger); err != nil {
		return err
	}
	logger.Info("done")
	return nil
}

// serve answers until it is told to leave, takes no new connections then, and finishes the requests it has. It has no
// time limit of its own for that: whoever sent TERM knows how long to wait, and then sends KILL.
func serve(leave context.Context, listener net.Listener, handler http.Handler, logger *slog.Logger) error {
	server := &http.Server{
		Handler:  handler,
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
		// Requests are a line and a few headers: a client that needs longer holds a connection for nothing.
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      10 * time.Second,
		// Longer than a proxy in front keeps a connection, so that it is never closed here while a request is on its way.
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 16 << 10,
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return err
	case <-leave.Done():
	}
	logger.Info("finishing what is under way")
	err := server.Shutdown(context.Background())
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
