// Command facts measures, on a real server, what FACTS.md says of TiDB, and prints it as Markdown.
//
//	go run ./facts --server "$(./build | tail -n 1)"
//
// It starts the servers that it needs and ends them. All sections run at once, so it takes about as long as --silence
// and the starts. A server that is not TiDB gives rows too; they show that the program measures, and nothing of TiDB.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The users are throwaway, on a throwaway server.
const (
	password      = "ebb and flow"
	wrongPassword = "flow and ebb"
)

type settings struct {
	server      string
	silence     time.Duration
	dir         string
	certificate pair
}

type section struct {
	title   string
	measure func(*settings, *page) error
}

func main() {
	// The servers end when the thread that started them does, so all are started from this one.
	runtime.LockOSThread()
	s := &settings{}
	flag.StringVar(&s.server, "server", "", "the program that starts a server, as `build` prints it")
	flag.DurationVar(&s.silence, "silence", 2*time.Minute, "how long a silent connection is watched")
	flag.Parse()
	if s.server == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(s); err != nil {
		fmt.Fprintln(os.Stderr, "facts:", err)
		os.Exit(1)
	}
}

func run(s *settings) error {
	var err error
	if s.dir, err = os.MkdirTemp("", "facts"); err != nil {
		return err
	}
	defer os.RemoveAll(s.dir)
	if s.certificate, err = selfSigned(s.dir); err != nil {
		return err
	}
	sections := []section{
		{"The greeting", greetingSection},
		{"A client that says nothing", silenceSection},
		{"A client that leaves before it has logged in", leavingSection},
		{"The limit of connections", limitSection},
		{"COM_CHANGE_USER", changeUserSection},
		{"COM_RESET_CONNECTION", resetSection},
		{"The PROXY protocol", proxySection},
		{"SHOW and SET SESSION_STATES", statesSection},
		{"Shutdown without a wait", func(s *settings, p *page) error { return shutdownSection(s, p, 0) }},
		{"Shutdown with graceful-wait-before-shutdown = 3", func(s *settings, p *page) error { return shutdownSection(s, p, 3) }},
	}
	pages, failures := make([]page, len(sections)), make([]error, len(sections))
	var all sync.WaitGroup
	for i := range sections {
		all.Add(1)
		go func(i int) {
			defer all.Done()
			failures[i] = sections[i].measure(s, &pages[i])
		}(i)
	}
	finished := make(chan struct{})
	go func() { all.Wait(); close(finished) }()
	serveStarts(finished)
	for i := range sections {
		fmt.Printf("## %s\n\n%s\n", sections[i].title, pages[i].String())
		if failures[i] != nil {
			fmt.Printf("**Not measured to the end**: %v\n\n", failures[i])
		}
	}
	return errors.Join(failures...)
}

// A page is the text of one section.
type page struct{ strings.Builder }

func (p *page) say(format string, arguments ...any) { fmt.Fprintf(p, format+"\n\n", arguments...) }

// table starts a table; the rows follow.
func (p *page) table(columns ...string) {
	fmt.Fprintf(p, "| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat(" --- |", len(columns)))
}

func (p *page) row(cells ...string) {
	for i, cell := range cells {
		cells[i] = strings.ReplaceAll(strings.ReplaceAll(cell, "|", "\\|"), "\n", " ")
	}
	fmt.Fprintf(p, "| %s |\n", strings.Join(cells, " | "))
}

func (p *page) end() { fmt.Fprintln(p) }

// A running server.
type instance struct {
	address string
	status  string
	command *exec.Cmd
	ended   chan struct{}
}

type start struct {
	command *exec.Cmd
	err     chan error
}

var starts = make(chan start)

// A TiDB needs seconds of processor time to come up; all at once on a small machine, the last would come too late.
var startsAtOnce = make(chan struct{}, 3)

// serveStarts starts what is asked for on the thread that calls it, until there is nothing more to measure.
func serveStarts(finished <-chan struct{}) {
	for {
		select {
		case s := <-starts:
			s.err <- s.command.Start()
		case <-finished:
			return
		}
	}
}

// launch starts a server with these options and returns when it accepts connections.
func (s *settings) launch(options ...string) (*instance, error) {
	startsAtOnce <- struct{}{}
	defer func() { <-startsAtOnce }()
	dir, err := os.MkdirTemp(s.dir, "server")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(s.server, append([]string{"--dir", dir}, options...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	log, err := os.Create(filepath.Join(dir, "launcher"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stderr = log
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	started := start{cmd, make(chan error, 1)}
	starts <- started
	if err := <-started.err; err != nil {
		return nil, err
	}
	i := &instance{command: cmd, ended: make(chan struct{})}
	lines := bufio.NewScanner(output)
	for i.address == "" && lines.Scan() {
		if status, ok := strings.CutPrefix(lines.Text(), "status "); ok {
			i.status = status
		}
		if address, ok := strings.CutPrefix(lines.Text(), "listening "); ok {
			i.address = address
		}
	}
	go func() {
		_, _ = io.Copy(io.Discard, output)
		_ = cmd.Wait()
		close(i.ended)
	}()
	if i.address == "" {
		<-i.ended
		said, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("the server did not start: %s", strings.TrimSpace(string(said)))
	}
	return i, nil
}

func (i *instance) terminate() { _ = i.command.Process.Signal(syscall.SIGTERM) }

// stop ends the server, by force if it takes too long.
func (i *instance) stop() {
	i.terminate()
	select {
	case <-i.ended:
	case <-time.After(40 * time.Second):
		_ = i.command.Process.Kill()
		<-i.ended
	}
}

// root is a session of the user that may do everything.
func (i *instance) root() (*client, error) {
	c, err := greeted(i.address)
	if err != nil {
		return nil, err
	}
	return c, c.enter("root", "", "")
}

// enter logs in and takes anything but OK for a failure.
func (c *client) enter(user, password, database string) error {
	t, err := c.login(user, password, database)
	if err == nil && !t.ok() {
		err = errors.New(t.String())
	}
	if err != nil {
		c.close()
		return fmt.Errorf("login of %s: %w", user, err)
	}
	return nil
}

// prepare runs statements as root that have to succeed.
func (i *instance) prepare(statements ...string) error {
	c, err := i.root()
	if err != nil {
		return err
	}
	defer c.close()
	for _, sql := range statements {
		if answer := c.query(sql); strings.HasPrefix(answer, "ERR") {
			return fmt.Errorf("%s: %s", sql, answer)
		}
	}
	return nil
}

// user makes one with a plugin and our password, and says why it could not.
func (i *instance) user(name, plugin string) error {
	err := i.prepare(fmt.Sprintf("CREATE USER '%s'@'%%' IDENTIFIED WITH '%s' BY '%s'", name, plugin, password))
	if err != nil && plugin == native {
		err = i.prepare(fmt.Sprintf("CREATE USER '%s'@'%%' IDENTIFIED BY '%s'", name, password))
	}
	return err
}
