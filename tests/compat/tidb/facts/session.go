package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

func changeUserSection(s *settings, p *page) error {
	i, err := s.launch("--cert", s.certificate.certificate, "--key", s.certificate.key)
	if err != nil {
		return err
	}
	defer i.stop()
	if err := i.prepare("CREATE DATABASE a", "CREATE USER 'nobody'@'%'"); err != nil {
		return err
	}
	p.table("transport", "to a user with", "password", "as", "said", "afterwards: current user, user, database")
	for _, plugin := range []string{native, cachingSha2, sm3, ""} {
		user := "nobody"
		if plugin != "" {
			user = "u_" + plugin
			if err := i.user(user, plugin); err != nil {
				p.row("", plugin, "", "", "no such user here: "+err.Error(), "")
				continue
			}
		}
		if err := i.prepare(fmt.Sprintf("GRANT SELECT ON a.* TO '%s'@'%%'", user)); err != nil {
			return err
		}
		for _, inTLS := range []bool{false, true} {
			if err := i.changes(p, user, plugin, inTLS); err != nil {
				return err
			}
		}
	}
	p.end()
	return i.changedCollation(p)
}

// changes makes a row for each way to become this user.
func (i *instance) changes(p *page, user, plugin string, inTLS bool) error {
	transport, right, shown := "plain", password, plugin
	if inTLS {
		transport = "TLS"
	}
	passwords := []string{password, wrongPassword}
	if plugin == "" {
		right, shown, passwords = "", "no password", []string{""}
	}

	c, err := i.open(inTLS)
	if err != nil {
		return err
	}
	t, err := c.login(user, right, "a")
	after := ""
	if err == nil {
		after = c.whoami()
	}
	p.row(transport, shown, "right", "a login, to compare with", t.String(), after)
	c.close()

	type way struct {
		name, plugin string
		auth         func(c *client, password string) []byte
		clear        bool
	}
	named := func(c *client, password string) []byte { return scramble(plugin, password, c.greeting.salt) }
	empty := func(*client, string) []byte { return nil }
	ways := []way{
		{"its plugin named, scramble of the greeting's salt", plugin, named, false},
		{"an unknown plugin named, nothing sent", noSuchPlugin, empty, false},
		{"no plugin named, scramble of the greeting's salt", "", named, false},
	}
	if plugin == "" {
		ways = ways[1:2]
	}
	if inTLS && (plugin == cachingSha2 || plugin == sm3) {
		ways = append(ways, way{"an unknown plugin named, the switch answered by the clear password", noSuchPlugin, empty, true})
	}
	for _, password := range passwords {
		which := "right"
		if password != right {
			which = "wrong"
		}
		for _, w := range ways {
			c, err := i.open(inTLS)
			if err != nil {
				return err
			}
			if err := c.enter("root", "", "mysql"); err != nil {
				return err
			}
			c.clear = w.clear
			t, err := c.changeUser(user, w.auth(c, password), password, "a", w.plugin)
			after := "closed"
			if err == nil {
				after = c.whoami()
			}
			p.row(transport, shown, which, w.name, t.String(), after)
			c.close()
		}
	}
	return nil
}

func (i *instance) open(inTLS bool) (*client, error) {
	c, err := greeted(i.address)
	if err == nil && inTLS {
		err = c.upgrade()
	}
	return c, err
}

func (c *client) whoami() string { return c.query("SELECT CURRENT_USER(), USER(), DATABASE()") }

// changedCollation shows whether the character set in COM_CHANGE_USER is heeded.
func (i *instance) changedCollation(p *page) error {
	c, err := i.root()
	if err != nil {
		return err
	}
	defer c.close()
	const asked = "SELECT @@character_set_client, @@collation_connection"
	before := c.query(asked)
	c.query("SET NAMES latin1")
	c.charset = 33 // utf8mb3_general_ci
	t, err := c.changeUser("root", nil, "", "", native)
	if err != nil {
		return err
	}
	p.say("Character set: after a login with collation 45: %s; then SET NAMES latin1 and COM_CHANGE_USER with collation 33 (%s): %s.",
		before, t, c.query(asked))
	return nil
}

func resetSection(s *settings, p *page) error {
	i, err := s.launch()
	if err != nil {
		return err
	}
	defer i.stop()
	if err := i.prepare("CREATE DATABASE a", "CREATE DATABASE b",
		"CREATE TABLE b.t (id INT PRIMARY KEY AUTO_INCREMENT, v INT)", "CREATE TABLE b.u (v INT)"); err != nil {
		return err
	}
	other, err := i.root()
	if err != nil {
		return err
	}
	defer other.close()
	c, err := greeted(i.address)
	if err != nil {
		return err
	}
	if err := c.enter("root", "", "a"); err != nil {
		return err
	}
	defer c.close()
	statement, err := c.prepareStatement("SELECT 7")
	if err != nil {
		return err
	}
	for _, sql := range []string{
		"USE b", "SET @v = 1", "SET SESSION sql_mode = ''", "SET NAMES latin1", "PREPARE s FROM 'SELECT 8'",
		"CREATE TEMPORARY TABLE b.temporary (v INT)", "SET SESSION max_execution_time = 12345", "SELECT GET_LOCK('l', 0)",
		"INSERT INTO b.t (v) VALUES (1)", "SET autocommit = 0", "BEGIN", "INSERT INTO b.u VALUES (1)",
	} {
		if answer := c.query(sql); strings.HasPrefix(answer, "ERR") {
			p.say("Not set up: `%s`: %s", sql, answer)
		}
	}
	probes := []struct {
		name  string
		probe func() string
	}{
		{"DATABASE(), after a login with `a` and `USE b`", func() string { return c.query("SELECT DATABASE()") }},
		{"`@v`", func() string { return c.query("SELECT @v") }},
		{"`@@sql_mode` is empty", func() string { return c.query("SELECT @@sql_mode = ''") }},
		{"`@@max_execution_time`", func() string { return c.query("SELECT @@max_execution_time") }},
		{"character set and collation, SET NAMES latin1", func() string {
			return c.query("SELECT @@character_set_client, @@character_set_results, @@collation_connection")
		}},
		{"`@@autocommit`", func() string { return c.query("SELECT @@autocommit") }},
		{"rows written in the open transaction, seen here", func() string { return c.query("SELECT COUNT(*) FROM b.u") }},
		{"temporary table", func() string { return c.query("SELECT COUNT(*) FROM b.temporary") }},
		{"PREPARE … FROM, executed", func() string { return c.query("EXECUTE s") }},
		{"COM_STMT_PREPARE, executed", func() string { return c.execute(statement) }},
		{"LAST_INSERT_ID()", func() string { return c.query("SELECT LAST_INSERT_ID()") }},
		{"GET_LOCK('l') by another", func() string { return other.query("SELECT GET_LOCK('l', 0)") }},
		{"CONNECTION_ID() is the greeting's", func() string {
			return c.query(fmt.Sprintf("SELECT CONNECTION_ID() & 0xffffffff = %d", c.greeting.id))
		}},
	}
	before := make([]string, len(probes))
	for n, one := range probes {
		before[n] = one.probe()
	}
	answer := c.ask([]byte{comResetConn})
	p.table("what", "before", "after")
	p.row("COM_RESET_CONNECTION", "", answer)
	for n, one := range probes {
		p.row(one.name, before[n], one.probe())
	}
	p.end()

	p.table("database at login", "then", "DATABASE() after the reset")
	for _, one := range []struct {
		login string
		then  string
		do    func(*client) string
	}{
		{"none", "USE a", func(c *client) string { return c.query("USE a") }},
		{"a", "COM_INIT_DB b", func(c *client) string { return c.ask(append([]byte{comInitDB}, 'b')) }},
		{"a", "COM_INIT_DB b, then USE a", func(c *client) string {
			return c.ask(append([]byte{comInitDB}, 'b')) + "; " + c.query("USE a")
		}},
	} {
		c, err := greeted(i.address)
		if err != nil {
			return err
		}
		database := one.login
		if database == "none" {
			database = ""
		}
		if err := c.enter("root", "", database); err != nil {
			return err
		}
		one.do(c)
		c.ask([]byte{comResetConn})
		p.row(one.login, one.then, c.query("SELECT DATABASE()"))
		c.close()
	}
	p.end()
	return nil
}

// prepareStatement returns the server's number for a statement without parameters.
func (c *client) prepareStatement(sql string) (uint32, error) {
	if err := c.command(append([]byte{comPrepare}, sql...)); err != nil {
		return 0, err
	}
	p, err := c.read(ordinaryWait)
	if err != nil {
		return 0, err
	}
	if p[0] != 0 || len(p) < 9 {
		return 0, errors.New(describe(p, nil))
	}
	columns := int(binary.LittleEndian.Uint16(p[5:]))
	for range columns + 1 { // and the EOF after them
		if _, err := c.read(ordinaryWait); err != nil {
			return 0, err
		}
	}
	return binary.LittleEndian.Uint32(p[1:]), nil
}

// execute runs a prepared statement and says whether rows came.
func (c *client) execute(statement uint32) string {
	p := binary.LittleEndian.AppendUint32([]byte{comExecute}, statement)
	if err := c.command(append(p, 0, 1, 0, 0, 0)); err != nil {
		return failure(err)
	}
	for ends := 0; ends < 2; {
		p, err := c.read(ordinaryWait)
		switch {
		case err != nil:
			return failure(err)
		case p[0] == 0xff:
			return describe(p, nil)
		case p[0] == 0xfe && len(p) < 9:
			ends++
		}
	}
	return "a result"
}

func statesSection(s *settings, p *page) error {
	p.table("server", "SHOW SESSION_STATES by an ordinary user", "SET SESSION_STATES of that", "a login by its token")
	for _, one := range []struct {
		name    string
		options []string
	}{
		{"no signing certificate", nil},
		{"with a signing certificate", []string{"--signing-cert", s.certificate.certificate, "--signing-key", s.certificate.key}},
	} {
		i, err := s.launch(one.options...)
		if err != nil {
			return err
		}
		defer i.stop()
		if err := i.user("ordinary", native); err != nil {
			return err
		}
		c, err := greeted(i.address)
		if err != nil {
			return err
		}
		defer c.close()
		if err := c.enter("ordinary", password, ""); err != nil {
			return err
		}
		rows, other, err := c.rows("SHOW SESSION_STATES")
		switch {
		case err != nil:
			return err
		case other != nil:
			p.row(one.name, describe(other, nil), "", "")
			continue
		case len(rows) != 1 || len(rows[0]) != 2:
			p.row(one.name, fmt.Sprintf("%d rows", len(rows)), "", "")
			continue
		}
		states, token := rows[0][0], rows[0][1]
		set := c.query("SET SESSION_STATES '" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(states) + "'")
		entered := ""
		if token != "null" && token != "NULL" {
			d, err := greeted(i.address)
			if err != nil {
				return err
			}
			defer d.close()
			if len(token) > 255 {
				entered = fmt.Sprintf("not tried: a token of %d bytes needs a long form of the answer", len(token))
			} else if err := d.write(d.response("ordinary", []byte(token), "tidb_session_token", "")); err != nil {
				entered = failure(err)
			} else if t, err := d.authenticate(""); err == nil {
				entered = t.String()
			}
		}
		p.row(one.name, fmt.Sprintf("%d bytes of states; %d bytes of token", len(states), len(token)), set, entered)
	}
	p.end()
	return nil
}
