package main

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

const (
	clientLongPassword = 1 << 0
	clientFoundRows    = 1 << 1
	clientConnectDB    = 1 << 3
	clientProtocol41   = 1 << 9
	clientSSL          = 1 << 11
	clientTransactions = 1 << 13
	clientSecure       = 1 << 15
	clientMultiResults = 1 << 17
	clientPluginAuth   = 1 << 19
)

const (
	comQuit        = 0x01
	comInitDB      = 0x02
	comQuery       = 0x03
	comPing        = 0x0e
	comChangeUser  = 0x11
	comPrepare     = 0x16
	comExecute     = 0x17
	comResetConn   = 0x1f
	native         = "mysql_native_password"
	cachingSha2    = "caching_sha2_password"
	sm3            = "tidb_sm3_password"
	noSuchPlugin   = "no_such_plugin"
	ordinaryWait   = 10 * time.Second
	collationUtf8  = 45 // utf8mb4_general_ci, which every server knows
	notAnswered    = "no answer"
	unexpectedText = "unexpected packet"
)

// A client of one server: the bytes are made and read here, so that nothing is hidden by a driver.
type client struct {
	tcp      net.Conn
	stream   net.Conn // tcp, or TLS over it
	seq      byte
	greeting greeting
	first    []byte // the payload of the server's first packet
	charset  byte   // for COM_CHANGE_USER; 0 for the usual one
	clear    bool   // answer an AuthSwitch by the password itself
}

type greeting struct {
	version      string
	id           uint32
	salt         []byte
	capabilities uint32
	charset      byte
	status       uint16
	saltLength   byte
	reserved     []byte
	plugin       string
}

// connect opens a connection and reads nothing.
func connect(address string) (*client, error) {
	tcp, err := net.DialTimeout("tcp", address, ordinaryWait)
	if err != nil {
		return nil, err
	}
	return &client{tcp: tcp, stream: tcp}, nil
}

// greeted opens a connection and reads the greeting.
func greeted(address string) (*client, error) {
	c, err := connect(address)
	if err != nil {
		return nil, err
	}
	if err := c.readGreeting(ordinaryWait); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *client) readGreeting(wait time.Duration) error {
	p, err := c.read(wait)
	if err != nil {
		return err
	}
	c.first = p
	if p[0] != 10 {
		return errors.New(describe(p, nil))
	}
	end := bytes.IndexByte(p[1:], 0)
	if end < 0 || len(p) < 1+end+1+4+9+18 {
		return errors.New("a greeting that is too short")
	}
	g := &c.greeting
	g.version = string(p[1 : 1+end])
	p = p[1+end+1:]
	g.id = binary.LittleEndian.Uint32(p)
	g.salt = append(g.salt, p[4:12]...)
	p = p[13:]
	g.capabilities = uint32(binary.LittleEndian.Uint16(p)) | uint32(binary.LittleEndian.Uint16(p[5:]))<<16
	g.charset, g.status, g.saltLength, g.reserved = p[2], binary.LittleEndian.Uint16(p[3:]), p[7], p[8:18]
	p = p[18:]
	if len(p) < 13 {
		return errors.New("a greeting without the rest of its salt")
	}
	g.salt = append(g.salt, p[:12]...)
	g.plugin = string(bytes.TrimRight(p[13:], "\x00"))
	return nil
}

// upgrade sends the SSLRequest and speaks TLS from here on.
func (c *client) upgrade() error {
	if c.greeting.capabilities&clientSSL == 0 {
		return errors.New("the server offers no TLS")
	}
	request := make([]byte, 32)
	binary.LittleEndian.PutUint32(request, capabilities(true))
	binary.LittleEndian.PutUint32(request[4:], 1<<24)
	request[8] = collationUtf8
	if err := c.write(request); err != nil {
		return err
	}
	// A throwaway certificate of a server on loopback; what is measured is the protocol inside.
	t := tls.Client(c.stream, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
	if err := t.Handshake(); err != nil {
		return err
	}
	c.stream = t
	return nil
}

func capabilities(inTLS bool) uint32 {
	caps := uint32(clientLongPassword | clientFoundRows | clientConnectDB | clientProtocol41 | clientTransactions |
		clientSecure | clientMultiResults | clientPluginAuth)
	if inTLS {
		caps |= clientSSL
	}
	return caps
}

func (c *client) inTLS() bool { return c.stream != c.tcp }

// A talk is one authentication, at login or by COM_CHANGE_USER: what was said, and how it ended.
type talk struct {
	steps []string
	last  []byte
}

func (t *talk) ok() bool { return len(t.last) > 0 && t.last[0] == 0 }

func (t *talk) String() string { return strings.Join(t.steps, "; ") }

// login authenticates and returns what was said.
func (c *client) login(user, password, database string) (*talk, error) {
	plugin := c.greeting.plugin
	if plugin != native && plugin != cachingSha2 {
		plugin = native
	}
	if err := c.write(c.response(user, scramble(plugin, password, c.greeting.salt), plugin, database)); err != nil {
		return nil, err
	}
	return c.authenticate(password)
}

func (c *client) response(user string, auth []byte, plugin, database string) []byte {
	p := make([]byte, 32)
	binary.LittleEndian.PutUint32(p, capabilities(c.inTLS()))
	binary.LittleEndian.PutUint32(p[4:], 1<<24)
	p[8] = collationUtf8
	p = append(append(p, user...), 0)
	p = append(append(p, byte(len(auth))), auth...)
	p = append(append(p, database...), 0)
	return append(append(p, plugin...), 0)
}

// changeUser sends COM_CHANGE_USER. An empty plugin leaves its field, and all after it, out.
func (c *client) changeUser(user string, auth []byte, password, database, plugin string) (*talk, error) {
	p := append([]byte{comChangeUser}, user...)
	p = append(append(p, 0, byte(len(auth))), auth...)
	charset := c.charset
	if charset == 0 {
		charset = collationUtf8
	}
	p = append(append(p, database...), 0, charset, 0)
	if plugin != "" {
		p = append(append(p, plugin...), 0)
	}
	if err := c.command(p); err != nil {
		return nil, err
	}
	return c.authenticate(password)
}

// authenticate answers the server as a client with this password would, until OK or ERR.
func (c *client) authenticate(password string) (*talk, error) {
	t := &talk{}
	for {
		p, err := c.read(ordinaryWait)
		if err != nil {
			t.steps = append(t.steps, failure(err))
			return t, err
		}
		t.steps, t.last = append(t.steps, describe(p, c.greeting.salt)), p
		switch {
		case p[0] == 0xfe && len(p) > 1:
			plugin, salt, _ := bytes.Cut(p[1:], []byte{0})
			answer := scramble(string(plugin), password, bytes.TrimSuffix(salt, []byte{0}))
			if c.clear {
				answer = []byte(password)
			}
			err = c.write(answer)
		case p[0] == 0x01 && len(p) == 2 && p[1] == 3: // fast authentication succeeded; OK follows
		case p[0] == 0x01 && len(p) == 2 && p[1] == 4:
			if c.inTLS() {
				err = c.write(append([]byte(password), 0))
			} else {
				t.steps = append(t.steps, "the client asks for the public key (02)")
				err = c.write([]byte{2})
			}
		default:
			return t, nil
		}
		if err != nil {
			return t, err
		}
	}
}

// scramble is the first answer of a plugin to a salt.
func scramble(plugin, password string, salt []byte) []byte {
	if password == "" {
		return nil
	}
	switch plugin {
	case native:
		one := sha1.Sum([]byte(password))
		two := sha1.Sum(one[:])
		mask := sha1.Sum(append(append([]byte{}, salt...), two[:]...))
		return xor(one[:], mask[:])
	case cachingSha2, sm3:
		// The answer of tidb_sm3_password is made like this with SM3. What it holds does not matter here: TiDB asks for the
		// full authentication after any answer.
		one := sha256.Sum256([]byte(password))
		two := sha256.Sum256(one[:])
		mask := sha256.Sum256(append(append([]byte{}, two[:]...), salt...))
		return xor(one[:], mask[:])
	}
	return append([]byte(password), 0)
}

func xor(a, b []byte) []byte {
	out := make([]byte, len(a))
	for i := range a {
		out[i] = a[i] ^ b[i]
	}
	return out
}

// command sends the first packet of a command.
func (c *client) command(payload []byte) error {
	c.seq = 0
	return c.write(payload)
}

// ask sends a command that is answered by one packet.
func (c *client) ask(payload []byte) string {
	if err := c.command(payload); err != nil {
		return failure(err)
	}
	p, err := c.read(ordinaryWait)
	if err != nil {
		return failure(err)
	}
	return describe(p, nil)
}

// query runs a statement and returns its rows in one line, or what came instead.
func (c *client) query(sql string) string {
	rows, other, err := c.rows(sql)
	switch {
	case err != nil:
		return failure(err)
	case other != nil:
		return describe(other, nil)
	}
	lines := make([]string, 0, len(rows))
	for _, row := range rows {
		lines = append(lines, strings.Join(row, ", "))
	}
	return strings.Join(lines, " / ")
}

// rows runs a statement; other is the OK or ERR that came instead of a result.
func (c *client) rows(sql string) (rows [][]string, other []byte, err error) {
	if err := c.command(append([]byte{comQuery}, sql...)); err != nil {
		return nil, nil, err
	}
	p, err := c.read(ordinaryWait)
	if err != nil || p[0] == 0 || p[0] == 0xff {
		return nil, p, err
	}
	if p[0] == 0xfb {
		return nil, p, nil
	}
	for ends := 0; ends < 2; {
		p, err := c.read(ordinaryWait)
		switch {
		case err != nil:
			return nil, nil, err
		case p[0] == 0xff:
			return nil, p, nil
		case p[0] == 0xfe && len(p) < 9:
			ends++
		case ends == 1:
			row, err := values(p)
			if err != nil {
				return nil, nil, err
			}
			rows = append(rows, row)
		}
	}
	return rows, nil, nil
}

func values(p []byte) ([]string, error) {
	var row []string
	for len(p) > 0 {
		if p[0] == 0xfb {
			row, p = append(row, "NULL"), p[1:]
			continue
		}
		n, size := uint64(p[0]), 1
		switch p[0] {
		case 0xfc:
			size = 3
		case 0xfd:
			size = 4
		case 0xfe:
			size = 9
		}
		if len(p) < size {
			return nil, errors.New(unexpectedText)
		}
		if size > 1 {
			wide := make([]byte, 8)
			copy(wide, p[1:size])
			n = binary.LittleEndian.Uint64(wide)
		}
		if uint64(len(p)-size) < n {
			return nil, errors.New(unexpectedText)
		}
		row, p = append(row, string(p[size:uint64(size)+n])), p[uint64(size)+n:]
	}
	return row, nil
}

func (c *client) read(wait time.Duration) ([]byte, error) {
	_ = c.stream.SetReadDeadline(time.Now().Add(wait))
	header := make([]byte, 4)
	if _, err := io.ReadFull(c.stream, header); err != nil {
		return nil, err
	}
	payload := make([]byte, int(header[0])|int(header[1])<<8|int(header[2])<<16)
	if _, err := io.ReadFull(c.stream, payload); err != nil {
		return nil, err
	}
	if len(payload) == 0 {
		return nil, errors.New("an empty packet")
	}
	c.seq = header[3] + 1
	return payload, nil
}

func (c *client) write(payload []byte) error {
	_, err := c.stream.Write(c.packet(payload))
	return err
}

func (c *client) packet(payload []byte) []byte {
	n := len(payload)
	p := append([]byte{byte(n), byte(n >> 8), byte(n >> 16), c.seq}, payload...)
	c.seq++
	return p
}

func (c *client) close() { _ = c.tcp.Close() }

// reset ends the connection by RST.
func (c *client) reset() {
	_ = c.tcp.(*net.TCPConn).SetLinger(0)
	c.close()
}

// rest reads until the connection ends or the time is over, and says what came.
func (c *client) rest(wait time.Duration) string {
	begin := time.Now()
	_ = c.stream.SetReadDeadline(begin.Add(wait))
	got, err := io.ReadAll(c.stream)
	text := ""
	for len(got) >= 4 {
		n := int(got[0]) | int(got[1])<<8 | int(got[2])<<16
		if n == 0 || len(got) < 4+n {
			break
		}
		text += fmt.Sprintf("[sequence %d] %s; ", got[3], describe(got[4:4+n], nil))
		got = got[4+n:]
	}
	if len(got) > 0 {
		text += "bytes " + hex.EncodeToString(got) + "; "
	}
	after := time.Since(begin).Round(100 * time.Millisecond)
	if err == nil {
		return fmt.Sprintf("%sclosed after %s", text, after)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Sprintf("%sopen after %s", text, after)
	}
	return fmt.Sprintf("%s%s after %s", text, failure(err), after)
}

func failure(err error) string {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return notAnswered
	}
	return err.Error()
}

// describe puts a server's packet into words; salt is the greeting's, to say whether an AuthSwitch repeats it.
func describe(p, salt []byte) string {
	switch {
	case p[0] == 0:
		return "OK " + hex.EncodeToString(p[1:min(len(p), 9)])
	case p[0] == 0xff && len(p) >= 3:
		text := string(p[3:])
		state := "no state"
		if strings.HasPrefix(text, "#") && len(text) >= 6 {
			state, text = text[:6], text[6:]
		}
		return fmt.Sprintf("ERR %d (%s) %s", binary.LittleEndian.Uint16(p[1:]), state, text)
	case p[0] == 0xfe && len(p) > 9:
		plugin, data, _ := bytes.Cut(p[1:], []byte{0})
		which := "a salt of its own"
		if bytes.Equal(bytes.TrimSuffix(data, []byte{0}), salt) {
			which = "the greeting's salt"
		}
		return fmt.Sprintf("AuthSwitch to %s with %s", plugin, which)
	case p[0] == 1:
		return "AuthMoreData " + hex.EncodeToString(p[1:min(len(p), 17)])
	case p[0] == 10:
		return "greeting"
	}
	return unexpectedText + " " + hex.EncodeToString(p[:min(len(p), 16)])
}
