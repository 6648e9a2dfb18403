package main

import (
	"fmt"
	"net/http"
	"time"
)

// ask asks the server that runs beside it for its health, as an image asks in which there is nothing else that could.
func ask(port uint16) error {
	client := http.Client{Timeout: 2 * time.Second}
	answer, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/health", port))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %s", answer.Status)
	}
	return nil
}
