package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

func greetingSection(s *settings, p *page) error {
	plain, err := s.launch()
	if err != nil {
		return err
	}
	defer plain.stop()
	secure, err := s.launch("--cert", s.certificate.certificate, "--key", s.certificate.key)
	if err != nil {
		return err
	}
	defer secure.stop()
	p.table("field", "no TLS configured", "TLS configured")
	var seen []greeting
	var raw []string
	for _, i := range []*instance{plain, secure} {
		c, err := greeted(i.address)
		if err != nil {
			return err
		}
		seen, raw = append(seen, c.greeting), append(raw, hex.EncodeToString(c.first))
		c.close()
	}
	row := func(name string, of func(greeting) string) { p.row(name, of(seen[0]), of(seen[1])) }
	row("version", func(g greeting) string { return g.version })
	row("connection id", func(g greeting) string { return fmt.Sprint(g.id) })
	row("capabilities", func(g greeting) string { return fmt.Sprintf("%08x", g.capabilities) })
	row("character set", func(g greeting) string { return fmt.Sprint(g.charset) })
	row("status", func(g greeting) string { return fmt.Sprintf("%04x", g.status) })
	row("length of the salt, with its NUL", func(g greeting) string { return fmt.Sprint(g.saltLength) })
	row("reserved", func(g greeting) string { return hex.EncodeToString(g.reserved) })
	row("plugin", func(g greeting) string { return g.plugin })
	p.end()
	p.say("Byte by byte, without TLS: `%s`", raw[0])
	p.say("With TLS: `%s`", raw[1])

	c, err := greeted(secure.address)
	if err != nil {
		return err
	}
	defer c.close()
	t, err := c.login("root", "", "")
	p.say("The OK of a login: %s", t)
	if err != nil {
		return err
	}
	return secure.requireTLS(p)
}

// requireTLS shows the ERR of a server that insists, in answer to a login without.
func (i *instance) requireTLS(p *page) error {
	c, err := greeted(i.address)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.upgrade(); err != nil {
		return err
	}
	if err := c.enter("root", "", ""); err != nil {
		return err
	}
	p.say("SET GLOBAL require_secure_transport = ON: %s", c.query("SET GLOBAL require_secure_transport = ON"))
	d, err := greeted(i.address)
	if err != nil {
		return err
	}
	defer d.close()
	t, _ := d.login("root", "", "")
	p.say("A login without TLS then: %s; %s", t, d.rest(time.Second))
	return nil
}

func silenceSection(s *settings, p *page) error {
	i, err := s.launch("--cert", s.certificate.certificate, "--key", s.certificate.key)
	if err != nil {
		return err
	}
	defer i.stop()
	cases := []struct {
		name  string
		enter func(*client) error
	}{
		{"greeted, then silent", func(*client) error { return nil }},
		{"half a packet, then silent", func(c *client) error {
			_, err := c.stream.Write([]byte{0x55, 0, 0, 1, 0x85})
			return err
		}},
		{"TLS, then silent", (*client).upgrade},
	}
	outcomes := make([]string, len(cases))
	var all sync.WaitGroup
	for n, one := range cases {
		c, err := greeted(i.address)
		if err != nil {
			return err
		}
		defer c.close()
		if err := one.enter(c); err != nil {
			return fmt.Errorf("%s: %w", one.name, err)
		}
		all.Add(1)
		go func() { defer all.Done(); outcomes[n] = c.rest(s.silence) }()
	}
	all.Wait()
	p.table("connection", "outcome")
	for n, one := range cases {
		p.row(one.name, outcomes[n])
	}
	p.end()
	root, err := i.root()
	if err != nil {
		return err
	}
	defer root.close()
	p.say("`@@global.connect_timeout` was %s.", root.query("SELECT @@global.connect_timeout"))
	return nil
}

func leavingSection(s *settings, p *page) error {
	const times = 200
	i, err := s.launch()
	if err != nil {
		return err
	}
	defer i.stop()
	root, err := i.root()
	if err != nil {
		return err
	}
	defer root.close()
	count := func() (string, string) {
		return i.metric("handshake_error_total"), root.query(
			"SELECT * FROM information_schema.client_errors_summary_by_host")
	}
	p.table("after", "handshake_error_total", "client_errors_summary_by_host", "a login")
	row := func(name string) {
		time.Sleep(time.Second) // The server counts after we have gone.
		errors, hosts := count()
		outcome := "OK"
		if c, err := i.root(); err != nil {
			outcome = err.Error()
		} else {
			c.close()
		}
		p.row(name, errors, hosts, outcome)
	}
	row("the start")
	for range times {
		c, err := greeted(i.address)
		if err != nil {
			return err
		}
		c.close()
	}
	row(fmt.Sprintf("%d that read the greeting and closed", times))
	for range times {
		c, err := greeted(i.address)
		if err != nil {
			return err
		}
		c.reset()
	}
	row(fmt.Sprintf("%d that read the greeting and reset", times))
	for range times {
		c, err := connect(i.address)
		if err != nil {
			return err
		}
		c.close()
	}
	row(fmt.Sprintf("%d that closed at once", times))
	p.end()
	p.say("`@@global.max_connect_errors` was %s.", root.query("SELECT @@global.max_connect_errors"))
	return nil
}

// metric is the sum of the samples whose name ends like this, or why there is none.
func (i *instance) metric(suffix string) string {
	web := http.Client{Timeout: ordinaryWait}
	response, err := web.Get("http://" + i.status + "/metrics")
	if err != nil {
		return "no metrics"
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return "no metrics"
	}
	for _, line := range strings.Split(string(text), "\n") {
		if name, value, found := strings.Cut(line, " "); found && strings.HasSuffix(name, suffix) && !strings.HasPrefix(line, "#") {
			return value
		}
	}
	return "absent"
}

func limitSection(s *settings, p *page) error {
	i, err := s.launch("--max-connections", "1")
	if err != nil {
		return err
	}
	defer i.stop()
	warm, err := greeted(i.address)
	if err != nil {
		return err
	}
	defer warm.close()
	root, err := i.root()
	if err != nil {
		return err
	}
	defer root.close()
	p.table("with `max_connections = 1`", "what comes")
	p.row("greeted before, then one logged in", "both open")
	late, err := connect(i.address)
	if err != nil {
		return err
	}
	defer late.close()
	p.row("a new connection", late.rest(2*time.Second))
	t, _ := warm.login("root", "", "")
	p.row("the greeted one logs in", fmt.Sprintf("%s; %s", t, warm.rest(2*time.Second)))
	p.row("the one logged in: COM_RESET_CONNECTION", root.ask([]byte{comResetConn}))
	t, err = root.changeUser("root", nil, "", "", native)
	p.row("the same: COM_CHANGE_USER to itself", t.String())
	if err == nil {
		p.row("the same, after that", root.query("SELECT CURRENT_USER()"))
	}
	p.end()
	return nil
}
