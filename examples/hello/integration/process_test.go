// Package integration drives the real process: what it says when it starts, over its socket, and when it leaves.
package integration

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	token = "an-integration-test-token"
	// For what should happen at once, on a busy machine.
	soon = 30 * time.Second
)

var binary string

func TestMain(m *testing.M) {
	os.Exit(build(m))
}

func build(m *testing.M) int {
	folder, err := os.MkdirTemp("", "hello-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(folder)
	binary = filepath.Join(folder, "hello")
	if output, err := exec.Command("go", "build", "-o", binary, "..").CombinedOutput(); err != nil {
		panic(string(output))
	}
	return m.Run()
}

type line struct {
	Level   string `json:"level"`
	Message string `json:"msg"`
	Address string `json:"address"`
	Error   string `json:"error"`
	Path    string `json:"path"`
	Status  int    `json:"status"`
}

// process is a running service; its environment holds nothing but what the test says.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan line
	// Everything it wrote; complete once `lines` is closed.
	written *strings.Builder
}

func start(t *testing.T, environment ...string) *process {
	t.Helper()
	cmd := exec.Command(binary)
	cmd.Env = environment
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{t, cmd, make(chan line, 1024), &strings.Builder{}}
	go p.read(stdout)
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return p
}

func (p *process) read(stdout io.Reader) {
	defer close(p.lines)
	scanner := bufio.NewScanner(stdout)
	for scanner.Scan() {
		p.written.WriteString(scanner.Text() + "\n")
		var parsed line
		if err := json.Unmarshal(scanner.Bytes(), &parsed); err != nil {
			p.t.Errorf("not a JSON object: %q", scanner.Text())
		}
		p.lines <- parsed
	}
}

// says waits for a line with this message.
func (p *process) says(message string) line {
	p.t.Helper()
	deadline := time.After(soon)
	for {
		select {
		case said, open := <-p.lines:
			if !open {
				p.t.Fatalf("it ended without saying %q", message)
			}
			if said.Message == message {
				return said
			}
		case <-deadline:
			p.t.Fatalf("it did not say %q", message)
		}
	}
}

// ends waits for its end, and gives its exit code and all that it wrote.
func (p *process) ends() (int, string) {
	p.t.Helper()
	deadline := time.AfterFunc(soon, func() { _ = p.cmd.Process.Kill() })
	defer deadline.Stop()
	for range p.lines {
	}
	_ = p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode(), p.written.String()
}

func TestWithoutATokenItDoesNotStart(t *testing.T) {
	p := start(t, "PORT=0")
	if said := p.says("cannot serve"); said.Level != "ERROR" || !strings.Contains(said.Error, "AUTH_TOKEN is not set") {
		t.Errorf("%+v", said)
	}
	if code, _ := p.ends(); code != 1 {
		t.Errorf("exit code %d", code)
	}
}

func TestAPortThatIsTakenIsNamed(t *testing.T) {
	first := start(t, "PORT=0", "AUTH_TOKEN="+token)
	address := first.says("serving").Address
	port := address[strings.LastIndex(address, ":")+1:]
	second := start(t, "PORT="+port, "AUTH_TOKEN="+token)
	if said := second.says("cannot serve"); !strings.Contains(said.Error, "port "+port) {
		t.Errorf("%+v", said)
	}
}

func TestItServesAndLeavesOnTerm(t *testing.T) {
	p := start(t, "PORT=0", "AUTH_TOKEN="+token, "LOG_LEVEL=debug")
	address := p.says("serving").Address
	url := "http://127.0.0.1" + address[strings.LastIndex(address, ":"):]
	cases := []struct {
		path, token string
		status      int
		body        string
	}{
		{"/health", "", 200, `{"status":"ok"}`},
		{"/ping", "", 200, "pong"},
		{"/app", token, 200, `{"message":"Hello World"}`},
		{"/app", "wrong", 403, `{"error":"the X-Auth-Token header is missing or wrong"}`},
		{"/app", "", 403, `{"error":"the X-Auth-Token header is missing or wrong"}`},
	}
	client := http.Client{Timeout: soon}
	for _, c := range cases {
		request, err := http.NewRequest("GET", url+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.token != "" {
			request.Header.Set("X-Auth-Token", c.token)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != c.status || strings.TrimSpace(string(body)) != c.body {
			t.Errorf("%s with %q: %d %q %v", c.path, c.token, response.StatusCode, body, err)
		}
		if said := p.says("request"); said.Path != c.path || said.Status != c.status {
			t.Errorf("%s is logged as %+v", c.path, said)
		}
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.says("done")
	code, written := p.ends()
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	if strings.Contains(written, token) {
		t.Errorf("the log shows the token: %s", written)
	}
}
