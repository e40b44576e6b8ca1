package main

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// A header that says 203.0.113.7 of the documentation's addresses, so that nothing on this machine has that address.
const headerV1 = "PROXY TCP4 203.0.113.7 127.0.0.1 40000 4000\r\n"

const headerV2 = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + "\xcb\x00\x71\x07" + "\x7f\x00\x00\x01" + "\x9c\x40" + "\x0f\xa0"

func proxySection(s *settings, p *page) error {
	required, err := s.launch("--proxy-protocol-networks", "127.0.0.0/8")
	if err != nil {
		return err
	}
	defer required.stop()
	fallback, err := s.launch("--proxy-protocol-networks", "127.0.0.0/8", "--proxy-protocol-fallbackable")
	if err != nil {
		return err
	}
	defer fallback.stop()
	elsewhere, err := s.launch("--proxy-protocol-networks", "192.0.2.0/24")
	if err != nil {
		return err
	}
	defer elsewhere.stop()

	p.table("server", "header", "when", "greeted before it", "login", "USER()")
	for _, i := range []struct {
		name string
		*instance
	}{{"header expected", required}, {"fallbackable", fallback}, {"other networks", elsewhere}} {
		for _, one := range []struct {
			name, when string
			send       func(*client) error
			early      bool
		}{
			{"v1", "before the greeting is read", text(headerV1), true},
			{"v1", "after the greeting", text(headerV1), false},
			{"v2", "after the greeting", text(headerV2), false},
			{"v1", "after the greeting, in two segments", func(c *client) error {
				if err := text(headerV1[:20])(c); err != nil {
					return err
				}
				time.Sleep(200 * time.Millisecond)
				return text(headerV1[20:])(c)
			}, false},
			{"v1", "after the greeting, in one write with the response", nil, false},
			{"none", "", text(""), false},
		} {
			c, err := connect(i.address)
			if err != nil {
				return err
			}
			defer c.close()
			before := "yes"
			if one.early {
				if err := one.send(c); err != nil {
					return err
				}
				before = ""
			}
			if err := c.readGreeting(2 * time.Second); err != nil {
				before = "no: " + failure(err)
				// It may wait for the header.
				if one.send != nil && text(headerV1)(c) == nil && c.readGreeting(2*time.Second) == nil {
					before = "no, after it"
				}
				p.row(i.name, one.name, one.when, before, "", "")
				continue
			}
			var t *talk
			if one.send == nil {
				response := c.packet(c.response("root", nil, native, ""))
				if _, err = c.stream.Write(append([]byte(headerV1), response...)); err == nil {
					t, err = c.authenticate("")
				}
			} else {
				if !one.early {
					err = one.send(c)
				}
				if err == nil {
					t, err = c.login("root", "", "")
				}
			}
			said, user := "", ""
			if t != nil {
				said = t.String()
			} else if err != nil {
				said = failure(err)
			}
			if err == nil && t.ok() {
				user = c.query("SELECT USER()")
			}
			p.row(i.name, one.name, one.when, before, said, user)
		}
	}
	p.end()
	return nil
}

// text sends bytes as they are.
func text(bytes string) func(*client) error {
	return func(c *client) error {
		_, err := c.stream.Write([]byte(bytes))
		return err
	}
}

func shutdownSection(s *settings, p *page, wait int) error {
	i, err := s.launch("--graceful-wait", fmt.Sprint(wait))
	if err != nil {
		return err
	}
	defer i.stop()
	if err := i.prepare("CREATE DATABASE a", "CREATE TABLE a.t (v INT)"); err != nil {
		return err
	}
	silent, err := greeted(i.address)
	if err != nil {
		return err
	}
	defer silent.close()
	during, err := greeted(i.address)
	if err != nil {
		return err
	}
	defer during.close()
	late, err := greeted(i.address)
	if err != nil {
		return err
	}
	defer late.close()
	idle, err := i.root()
	if err != nil {
		return err
	}
	defer idle.close()
	pinging, err := i.root()
	if err != nil {
		return err
	}
	defer pinging.close()
	busy, err := i.root()
	if err != nil {
		return err
	}
	defer busy.close()
	busy.query("BEGIN")
	busy.query("INSERT INTO a.t VALUES (1)")

	begin := time.Now()
	since := func() string { return time.Since(begin).Round(100 * time.Millisecond).String() }
	i.terminate()
	outcomes := make(map[string]string)
	var mutex sync.Mutex
	var all sync.WaitGroup
	watch := func(name string, do func() string) {
		all.Add(1)
		go func() {
			defer all.Done()
			said := do()
			mutex.Lock()
			defer mutex.Unlock()
			outcomes[name] = said
		}()
	}
	const long = 40 * time.Second
	shut := make(chan struct{})
	watch("new connections", func() string {
		var changes []string
		last := ""
		for time.Since(begin) < long {
			now := "greeted"
			if c, err := greeted(i.address); err != nil {
				now = failure(err)
			} else {
				c.close()
			}
			if now != last {
				changes = append(changes, fmt.Sprintf("%s from %s", now, since()))
				last = now
			}
			if now == "refused" {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		close(shut)
		return strings.Join(changes, "; ")
	})
	watch("greeted, silent", func() string { return silent.rest(long) })
	watch("logged in, idle", func() string { return idle.rest(long) })
	watch("greeted, logs in 0.5 s after SIGTERM", func() string {
		time.Sleep(500 * time.Millisecond)
		t, _ := during.login("root", "", "")
		return fmt.Sprintf("%s; %s", t, during.rest(long))
	})
	watch("COM_PING 0.5 s after SIGTERM", func() string {
		time.Sleep(500 * time.Millisecond)
		return pinging.ask([]byte{comPing})
	})
	watch("greeted, logs in once new connections are refused", func() string {
		<-shut
		t, _ := late.login("root", "", "")
		return fmt.Sprintf("%s; %s", t, late.rest(long))
	})
	watch("in a transaction, SELECT and COMMIT 2 s after that", func() string {
		<-shut
		time.Sleep(2 * time.Second)
		return fmt.Sprintf("%s; %s; %s", busy.query("SELECT COUNT(*) FROM a.t"), busy.query("COMMIT"), busy.rest(long))
	})
	watch("the process", func() string {
		select {
		case <-i.ended:
			return "ended " + since() + " after SIGTERM"
		case <-time.After(long):
			return "still there after " + since()
		}
	})
	all.Wait()
	p.table("connection", "what came")
	for _, name := range []string{
		"new connections", "greeted, silent", "greeted, logs in 0.5 s after SIGTERM",
		"greeted, logs in once new connections are refused", "logged in, idle", "COM_PING 0.5 s after SIGTERM",
		"in a transaction, SELECT and COMMIT 2 s after that", "the process",
	} {
		p.row(name, outcomes[name])
	}
	p.end()
	return nil
}
