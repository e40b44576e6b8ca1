// Command tidb runs a stock tidb-server on its embedded storage for a test: on a free port of the loopback
// interface, with everything it writes inside one directory, and ended with its parent.
//
// The server is the program named by TIDEGATE_TIDB_SERVER, or tidb-server on the PATH. It runs as it is, so that
// handshake, authentication and shutdown are those of a release.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// A first start writes the system tables and takes seconds; this long means that it will not come.
const patience = 90 * time.Second

type options struct {
	dir, cert, key, ca        string
	signingCert, signingKey   string
	proxyNetworks             string
	port, statusPort          int
	gracefulWait              int
	maxConnections            int
	proxyProtocolFallbackable bool
}

func main() {
	// The server gets a signal when the thread that started it ends, so that thread has to stay.
	runtime.LockOSThread()
	var o options
	flag.StringVar(&o.dir, "dir", "", "directory for data, log and configuration (made if missing)")
	flag.IntVar(&o.port, "port", 0, "port for MySQL clients (0: a free one)")
	flag.IntVar(&o.statusPort, "status-port", 0, "port for /metrics and /status (0: a free one)")
	flag.StringVar(&o.cert, "cert", "", "certificate, PEM")
	flag.StringVar(&o.key, "key", "", "its private key, PEM")
	flag.StringVar(&o.ca, "ca", "", "authority for clients' certificates, PEM")
	flag.StringVar(&o.proxyNetworks, "proxy-protocol-networks", "", "networks that send a PROXY header")
	flag.BoolVar(&o.proxyProtocolFallbackable, "proxy-protocol-fallbackable", false, "accept clients without the header there")
	flag.IntVar(&o.gracefulWait, "graceful-wait", 0, "seconds between SIGTERM and the shutdown")
	flag.IntVar(&o.maxConnections, "max-connections", 0, "limit of connections (0: none)")
	flag.StringVar(&o.signingCert, "signing-cert", "", "certificate that session tokens are signed with, PEM")
	flag.StringVar(&o.signingKey, "signing-key", "", "its private key, PEM")
	flag.Parse()
	if o.dir == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	code, err := run(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "tidb:", err)
	}
	os.Exit(code)
}

func run(o options) (int, error) {
	program, err := server()
	if err != nil {
		return 3, err
	}
	if o.dir, err = filepath.Abs(o.dir); err != nil {
		return 1, err
	}
	if err := os.MkdirAll(filepath.Join(o.dir, "tmp"), 0o700); err != nil {
		return 1, err
	}
	if err := freePorts(&o.port, &o.statusPort); err != nil {
		return 1, err
	}
	file := filepath.Join(o.dir, "config.toml")
	if err := os.WriteFile(file, configuration(o), 0o600); err != nil {
		return 1, err
	}
	output, err := os.Create(filepath.Join(o.dir, "output"))
	if err != nil {
		return 1, err
	}
	defer output.Close()

	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	cmd := exec.Command(program, "-config", file)
	cmd.Dir, cmd.Stdout, cmd.Stderr = o.dir, output, output
	cmd.Env = append(os.Environ(), "TMPDIR="+filepath.Join(o.dir, "tmp"))
	// A group of its own: the terminal's Ctrl-C reaches the server through us, and once.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return 3, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()

	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(o.port))
	ready := make(chan bool, 1)
	go func() { ready <- untilGreeted(address, time.Now().Add(patience)) }()
	for {
		select {
		case ok := <-ready:
			if !ok {
				_ = cmd.Process.Kill()
				<-ended
				return 1, fmt.Errorf("no greeting on %s within %s\n%s", address, patience, tail(o.dir))
			}
			fmt.Printf("status 127.0.0.1:%d\nlistening %s\n", o.statusPort, address)
			ready = nil
		case s := <-signals:
			_ = s
			_ = cmd.Process.Signal(syscall.SIGTERM)
		case err := <-ended:
			if err == nil {
				return 0, nil
			}
			var exit *exec.ExitError
			if errors.As(err, &exit) && exit.ExitCode() > 0 {
				return exit.ExitCode(), fmt.Errorf("%s: %w\n%s", program, err, tail(o.dir))
			}
			return 1, fmt.Errorf("%s: %w\n%s", program, err, tail(o.dir))
		}
	}
}

// server finds the program to run.
func server() (string, error) {
	if named := os.Getenv("TIDEGATE_TIDB_SERVER"); named != "" {
		path, err := exec.LookPath(named)
		if err != nil {
			return "", fmt.Errorf("TIDEGATE_TIDB_SERVER: %w", err)
		}
		return filepath.Abs(path)
	}
	path, err := exec.LookPath("tidb-server")
	if err != nil {
		return "", errors.New("no tidb-server on the PATH and none named by TIDEGATE_TIDB_SERVER")
	}
	return filepath.Abs(path)
}

// freePorts fills in the ports that are zero. They are free when it returns; the server takes them a moment later.
func freePorts(ports ...*int) error {
	for _, port := range ports {
		if *port != 0 {
			continue
		}
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return err
		}
		// Held until all are chosen, so that no two are the same.
		defer l.Close()
		*port = l.Addr().(*net.TCPAddr).Port
	}
	return nil
}

func configuration(o options) []byte {
	var b bytes.Buffer
	in := func(name string) string { return filepath.Join(o.dir, name) }
	set := func(key string, value any) {
		if text, ok := value.(string); ok {
			value = strconv.Quote(text)
		}
		fmt.Fprintf(&b, "%s = %v\n", key, value)
	}
	set("host", "127.0.0.1")
	set("advertise-address", "127.0.0.1")
	set("port", o.port)
	set("store", "unistore")
	set("path", in("data"))
	set("socket", "") // Its default is in /tmp.
	set("temp-dir", in("tmp"))
	set("tmp-storage-path", in("tmp"))
	set("graceful-wait-before-shutdown", o.gracefulWait)
	b.WriteString("\n[log]\n")
	set("level", "info")
	set("slow-query-file", in("slow.log"))
	b.WriteString("\n[log.file]\n")
	set("filename", in("tidb.log"))
	b.WriteString("\n[status]\n")
	set("status-host", "127.0.0.1")
	set("status-port", o.statusPort)
	b.WriteString("\n[security]\n")
	for key, value := range map[string]string{
		"ssl-cert": o.cert, "ssl-key": o.key, "ssl-ca": o.ca,
		"session-token-signing-cert": o.signingCert, "session-token-signing-key": o.signingKey,
	} {
		if value != "" {
			set(key, value)
		}
	}
	b.WriteString("\n[proxy-protocol]\n")
	set("networks", o.proxyNetworks)
	set("fallbackable", o.proxyProtocolFallbackable)
	b.WriteString("\n[instance]\n")
	set("max_connections", o.maxConnections)
	return b.Bytes()
}

// untilGreeted waits until the address answers a connection with the first bytes of a packet. It reads before it
// closes: to leave with bytes unread would reset the connection, and that counts as a failed handshake.
func untilGreeted(address string, deadline time.Time) bool {
	for time.Now().Before(deadline) {
		c, err := net.DialTimeout("tcp4", address, time.Second)
		if err == nil {
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			header := make([]byte, 4)
			if _, err = io.ReadFull(c, header); err == nil {
				_, err = io.ReadFull(c, make([]byte, int(header[0])|int(header[1])<<8))
			}
			_ = c.Close()
			if err == nil {
				return true
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return false
}

// tail is the end of what the server said, for the message about its failure.
func tail(dir string) string {
	for _, name := range []string{"output", "tidb.log"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
		if len(lines) > 15 {
			lines = lines[len(lines)-15:]
		}
		return string(bytes.Join(lines, []byte("\n")))
	}
	return "(it said nothing)"
}
