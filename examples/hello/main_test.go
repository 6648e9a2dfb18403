package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
)

// A request that is under way when the service is told to leave gets its answer; whoever comes later finds nobody.
func TestLeavingFinishesWhatIsUnderWay(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + listener.Addr().String()
	entered, finish := make(chan struct{}), make(chan struct{})
	slow := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-finish
		_, _ = io.WriteString(w, "finished")
	})
	leave, tellToLeave := context.WithCancel(context.Background())
	defer tellToLeave()
	closed := &noticed{Listener: listener, closed: make(chan struct{})}
	ended := make(chan error, 1)
	go func() { ended <- serve(leave, closed, slow, slog.New(slog.NewJSONHandler(io.Discard, nil))) }()

	answered := make(chan string, 1)
	go func() {
		response, err := http.Get(url)
		if err != nil {
			answered <- err.Error()
			return
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		answered <- string(body)
	}()
	<-entered
	tellToLeave()
	<-closed.closed
	if _, err := http.Get(url); err == nil {
		t.Error("it took a connection after it was told to leave")
	}
	select {
	case err := <-ended:
		t.Fatalf("it left while a request was under way: %v", err)
	default:
	}
	close(finish)
	if body := <-answered; body != "finished" {
		t.Errorf("the request under way got %q", body)
	}
	if err := <-ended; err != nil {
		t.Errorf("it did not leave in good order: %v", err)
	}
}

// noticed tells when its listener is closed.
type noticed struct {
	net.Listener
	closed chan struct{}
}

func (n *noticed) Close() error {
	err := n.Listener.Close()
	select {
	case <-n.closed:
	default:
		close(n.closed)
	}
	return err
}
