package main

import (
	"encoding/hex"
	"net"
	"testing"
	"time"
)

// The expected bytes were made by PyMySQL 2.2.8's scrambles, which are not ours.
func TestScramblesAreThoseOfOtherClients(t *testing.T) {
	salt := []byte("0123456789abcdefghij")
	for plugin, expected := range map[string]string{
		native:      "e6a6ddae6e6a3038dd4b926ff67dbc771c8e66a6",
		cachingSha2: "675a6302103d30dd4a3badeecb9479e365fb279122c4bee703921f5098cd764d",
	} {
		if got := hex.EncodeToString(scramble(plugin, password, salt)); got != expected {
			t.Errorf("%s: %s, not %s", plugin, got, expected)
		}
		if got := scramble(plugin, "", salt); len(got) != 0 {
			t.Errorf("%s: %x for no password", plugin, got)
		}
	}
}

func TestARowIsReadToItsEndOrRefused(t *testing.T) {
	long := make([]byte, 300)
	row, err := values(append(append([]byte{0xfb, 2, 'a', 'b', 0xfc, 0x2c, 0x01}, long...), 0))
	if err != nil || len(row) != 4 || row[0] != "NULL" || row[1] != "ab" || len(row[2]) != 300 || row[3] != "" {
		t.Errorf("%q, %v", row, err)
	}
	for _, short := range [][]byte{{5, 'a'}, {0xfc, 1}, {0xfe, 255, 255, 255, 255, 255, 255, 255, 255, 'a'}} {
		if row, err := values(short); err == nil {
			t.Errorf("%x gave %q", short, row)
		}
	}
}

func TestWhatComesAfterAnErrIsShownToo(t *testing.T) {
	ours, theirs := net.Pipe()
	c := &client{tcp: ours, stream: ours}
	go func() {
		_, _ = theirs.Write([]byte("\x09\x00\x00\x02\xff\x10\x04#08004\x0b\x00\x00\x03\xff\x10\x04#08004no"))
		_ = theirs.Close()
	}()
	expected := "[sequence 2] ERR 1040 (#08004) ; [sequence 3] ERR 1040 (#08004) no; closed after 0s"
	if got := c.rest(time.Minute); got != expected {
		t.Errorf("%s", got)
	}
}
