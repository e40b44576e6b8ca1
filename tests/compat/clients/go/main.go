// The sections for go-sql-driver/mysql, by way of database/sql.
package main

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"
)

const (
	session    = "SELECT @@character_set_client, @@character_set_results, @@collation_connection"
	attributes = `SELECT attr_name, IF(attr_name = '_pid', '', attr_value)
		FROM performance_schema.session_connect_attrs
		WHERE processlist_id = CONNECTION_ID() ORDER BY attr_name`
	there = "SELECT COUNT(*) FROM information_schema.processlist WHERE id = %d"
	busy  = there + " AND info LIKE 'SELECT SLEEP%%'"
)

var (
	ctx   = context.Background()
	files string
	place = mysql.NewConfig()
)

type unsupported string

func (why unsupported) Error() string { return string(why) }

func main() {
	arguments := os.Args[1:]
	place.Net = "tcp"
	place.Addr = "127.0.0.1:" + arguments[0]
	place.User, place.Passwd, place.DBName, files = arguments[1], arguments[2], arguments[3], arguments[4]
	if arguments[5] == "tls" {
		place.TLSConfig = "skip-verify"
	}
	place.MaxAllowedPacket = 1 << 30
	// The driver's own complaints have a time and are no result.
	place.Logger = &mysql.NopLogger{}

	section("auth.right", withConn(func(conn *sql.Conn) error {
		return show(conn, "SELECT CURRENT_USER(), DATABASE(), VERSION()")
	}))
	section("auth.wrong_password", refused(func(config *mysql.Config) { config.Passwd = "wrong" }))
	section("auth.unknown_user", refused(func(config *mysql.Config) { config.User = "nobody" }))
	section("auth.unknown_database", refused(func(config *mysql.Config) { config.DBName = "nowhere" }))
	section("query.text", withConn(queryText))
	section("query.prepared", withConn(queryPrepared))
	section("query.error", withConn(queryError))
	section("transaction", transaction)
	section("results.statements", with(func(config *mysql.Config) { config.MultiStatements = true }, resultsStatements))
	section("results.procedure", withConn(resultsProcedure))
	section("big.upload", withConn(bigUpload))
	section("big.echo", withConn(bigEcho))
	section("infile", withConn(infile))
	section("types.text", withConn(types(nil)))
	section("types.prepared", withConn(types([]any{0})))
	section("streaming", withConn(streaming))
	section("compression", with(func(config *mysql.Config) { must(config.Apply(mysql.EnableCompression(true))) }, compression))
	section("charset", charset)
	section("kill.query", killedWhileBusy("KILL QUERY"))
	section("kill.busy", killedWhileBusy("KILL"))
	section("kill.idle", killedWhileIdle)
	section("timeout.server", withConn(timeoutServer))
	section("timeout.client", timeoutClient)
	section("reset_connection", func() error { return unsupported("no reset") })
	section("change_user", func() error { return unsupported("no change of user") })
	section("attributes", with(func(config *mysql.Config) { config.ConnectionAttributes = "compat:ünï" }, func(conn *sql.Conn) error {
		return show(conn, attributes)
	}))
	section("parallel", parallel)
	section("pool", pool)
	section("dropped", dropped)
	// Nobody closes what the last one holds.
	os.Exit(0)
}

func section(name string, body func() error) {
	fmt.Println("==", name)
	err := body()
	var why unsupported
	if errors.As(err, &why) {
		fmt.Println("unsupported:", why)
	} else if err != nil {
		fmt.Println("failed:", shown(err))
	}
}

func shown(err error) string { return fmt.Sprintf("%T %v", err, err) }

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// attempt is for what may or must fail.
func attempt(err error) {
	if err != nil {
		fmt.Println(shown(err))
	}
}

func open(change func(*mysql.Config)) *sql.DB {
	config := place.Clone()
	if change != nil {
		change(config)
	}
	connector, err := mysql.NewConnector(config)
	must(err)
	return sql.OpenDB(connector)
}

func with(change func(*mysql.Config), body func(*sql.Conn) error) func() error {
	return func() error {
		db := open(change)
		defer db.Close()
		conn, err := db.Conn(ctx)
		if err != nil {
			return err
		}
		defer conn.Close()
		return body(conn)
	}
}

func withConn(body func(*sql.Conn) error) func() error { return with(nil, body) }

func refused(change func(*mysql.Config)) func() error {
	return func() error {
		db := open(change)
		defer db.Close()
		if err := db.Ping(); err != nil {
			fmt.Println(shown(err))
			return nil
		}
		return errors.New("let in")
	}
}

type querier interface {
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
}

type execer interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
}

// show prints every result of a query.
func show(conn querier, query string, values ...any) error {
	rows, err := conn.QueryContext(ctx, query, values...)
	if err != nil {
		return err
	}
	defer rows.Close()
	return showRows(rows)
}

func showRows(rows *sql.Rows) error {
	for {
		columns, err := rows.ColumnTypes()
		if err != nil {
			return err
		}
		fmt.Print("|")
		for _, column := range columns {
			nullable, _ := column.Nullable()
			precision, scale, _ := column.DecimalSize()
			fmt.Print(" ", column.Name(), " ", column.DatabaseTypeName(), " ", nullable, " ", precision, " ", scale, ",")
		}
		fmt.Println()
		for rows.Next() {
			text, err := line(rows, len(columns))
			if err != nil {
				return err
			}
			fmt.Println(text)
		}
		if !rows.NextResultSet() {
			return rows.Err()
		}
	}
}

func line(rows *sql.Rows, columns int) (string, error) {
	values, pointers := make([]any, columns), make([]any, columns)
	for index := range values {
		pointers[index] = &values[index]
	}
	if err := rows.Scan(pointers...); err != nil {
		return "", err
	}
	texts := make([]string, columns)
	for index, value := range values {
		switch value := value.(type) {
		case []byte:
			texts[index] = brief(string(value))
		default:
			texts[index] = fmt.Sprintf("%T %v", value, value)
		}
	}
	return strings.Join(texts, " | "), nil
}

func brief(value string) string {
	if len(value) > 300 {
		return digest(value)
	}
	return strconv.Quote(value)
}

func digest(value string) string {
	return fmt.Sprintf("%d bytes %x", len(value), sha256.Sum256([]byte(value)))
}

func exec(conn execer, statement string, values ...any) error {
	result, err := conn.ExecContext(ctx, statement, values...)
	if err != nil {
		return err
	}
	rows, err := result.RowsAffected()
	must(err)
	id, err := result.LastInsertId()
	must(err)
	fmt.Println(rows, "affected, id", id)
	return nil
}

func number(conn *sql.Conn, query string) (int64, error) {
	var found int64
	err := conn.QueryRowContext(ctx, query).Scan(&found)
	return found, err
}

func big() string {
	text, err := os.ReadFile(filepath.Join(files, "big.txt"))
	must(err)
	return string(text)
}

// all runs one after another, as far as the first error.
func all(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func queryText(conn *sql.Conn) error {
	for _, statement := range []string{
		"CREATE TABLE made (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(20))",
		"INSERT INTO made (v) VALUES ('one'), ('two'), (NULL)",
		"UPDATE made SET v = 'more' WHERE id > 1",
	} {
		if err := exec(conn, statement); err != nil {
			return err
		}
	}
	for _, query := range []string{
		"SELECT 1 AS one, 'two' AS two, NULL AS n, 3.50 AS d, '' AS e",
		"SELECT * FROM made ORDER BY id",
		"SELECT * FROM made WHERE id > 100",
		"SELECT CAST('12x' AS SIGNED) AS warned",
		"SHOW WARNINGS",
	} {
		if err := show(conn, query); err != nil {
			return err
		}
	}
	return conn.PingContext(ctx)
}

func queryPrepared(conn *sql.Conn) error {
	statement, err := conn.PrepareContext(ctx, "SELECT id, name FROM letters WHERE id > ? AND name <> ?")
	if err != nil {
		return err
	}
	for _, values := range [][]any{{2, "c"}, {6, "😀"}, {100, ""}} {
		rows, err := statement.QueryContext(ctx, values...)
		if err != nil {
			return err
		}
		if err := showRows(rows); err != nil {
			return err
		}
		rows.Close()
	}
	return all(
		statement.Close,
		func() error { return show(conn, "SELECT ? IS NULL AS n, ? AS d, ? AS b", nil, 2.5, []byte{0, 255}) },
		func() error { return exec(conn, "INSERT INTO moves VALUES (?), (?)", 7, 8) },
	)
}

func queryError(conn *sql.Conn) error {
	for _, wrong := range []string{
		"SELEC 1",
		"SELECT * FROM missing",
		"SELECT missing FROM letters",
		"INSERT INTO letters VALUES (1, 'again')",
		"INSERT INTO letters VALUES (99, NULL)",
	} {
		attempt(exec(conn, wrong))
	}
	attempt(show(conn, "SELECT ? FROM missing", 1))
	return show(conn, "SELECT 'still there'")
}

func transaction() error {
	db := open(nil)
	defer db.Close()
	count := func(where interface {
		QueryRowContext(context.Context, string, ...any) *sql.Row
	}) {
		var found int
		must(where.QueryRowContext(ctx, "SELECT COUNT(*) FROM moves").Scan(&found))
		fmt.Println(found, "rows")
	}
	first, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	must(exec(first, "INSERT INTO moves VALUES (1)"))
	count(first)
	count(db)
	must(first.Rollback())
	count(db)
	second, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return err
	}
	for _, statement := range []string{
		"INSERT INTO moves VALUES (1)",
		"SAVEPOINT here",
		"INSERT INTO moves VALUES (2)",
		"ROLLBACK TO SAVEPOINT here",
	} {
		must(exec(second, statement))
	}
	must(second.Commit())
	count(db)
	return nil
}

func resultsStatements(conn *sql.Conn) error {
	attempt(show(conn, "SELECT 1 AS a; INSERT INTO moves VALUES (5); SELECT id FROM moves; SELECT 1 FROM none"))
	return show(conn, "SELECT 'still there'; SELECT 2")
}

func resultsProcedure(conn *sql.Conn) error {
	return all(
		func() error { return show(conn, "CALL two_results(5)") },
		func() error { return show(conn, "CALL two_results(?)", 6) },
		func() error { attempt(show(conn, "CALL failing()")); return nil },
	)
}

func bigUpload(conn *sql.Conn) error {
	fmt.Println(digest(big()))
	return all(
		func() error { return show(conn, "SELECT SHA2(?, 256)", big()) },
		func() error { return show(conn, "SELECT SHA2('"+big()+"', 256) AS v") },
	)
}

func bigEcho(conn *sql.Conn) error {
	return all(
		func() error { return show(conn, "SELECT ? AS v", big()) },
		func() error { return show(conn, "SELECT '"+big()+"' AS v") },
	)
}

func infile(conn *sql.Conn) error {
	file := filepath.Join(files, "rows.tsv")
	mysql.RegisterLocalFile(file)
	load := func(file string) error {
		return exec(conn, "LOAD DATA LOCAL INFILE '"+file+"' INTO TABLE loaded")
	}
	if err := load(file); err != nil {
		return err
	}
	if err := show(conn, "SELECT COUNT(*), SUM(id), MAX(name) FROM loaded"); err != nil {
		return err
	}
	attempt(load("/nowhere"))
	return show(conn, "SELECT 'still there'")
}

// types asks in the binary protocol if there is a value to bind.
func types(values []any) func(*sql.Conn) error {
	return func(conn *sql.Conn) error {
		condition := ""
		if values != nil {
			condition = " WHERE id > ?"
		}
		if err := show(conn, "SELECT * FROM types"+condition+" ORDER BY id", values...); err != nil {
			return err
		}
		// Not every server has these types.
		attempt(show(conn, "SELECT * FROM places"+condition+" ORDER BY id", values...))
		return nil
	}
}

func streaming(conn *sql.Conn) error {
	query := "SELECT id, name FROM numbers ORDER BY id"
	rows, err := conn.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	total, count := sha256.New(), 0
	for rows.Next() {
		text, err := line(rows, 2)
		if err != nil {
			return err
		}
		total.Write([]byte(text))
		count++
	}
	fmt.Printf("%d rows %x\n", count, total.Sum(nil))
	rows, err = conn.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	rows.Next()
	text, err := line(rows, 2)
	if err != nil {
		return err
	}
	fmt.Println("left after", text)
	must(rows.Close())
	return show(conn, "SELECT 'still there'")
}

func compression(conn *sql.Conn) error {
	return all(
		func() error { return show(conn, "SHOW STATUS LIKE 'Compression'") },
		func() error { return show(conn, "SELECT ? AS v", big()[:1_000_000]) },
	)
}

func charset() error {
	for _, name := range []string{"utf8mb4", "latin1"} {
		err := with(func(config *mysql.Config) { must(config.Apply(mysql.Charset(name, ""))) }, func(conn *sql.Conn) error {
			return all(
				func() error { return show(conn, session) },
				func() error { return show(conn, "SELECT HEX(?) AS h", "ünï") },
				func() error {
					return show(conn, "SELECT name FROM letters WHERE id < 6 ORDER BY name COLLATE utf8mb4_bin")
				},
			)
		})()
		if err != nil {
			return err
		}
	}
	return nil
}

// two runs something on two connections, of which the first has an id.
func two(body func(victim, killer *sql.Conn, id int64) error) error {
	return withConn(func(victim *sql.Conn) error {
		return withConn(func(killer *sql.Conn) error {
			id, err := number(victim, "SELECT CONNECTION_ID()")
			if err != nil {
				return err
			}
			return body(victim, killer, id)
		})()
	})()
}

func until(conn *sql.Conn, query string, expected int64) error {
	for {
		found, err := number(conn, query)
		if err != nil || found == expected {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func killedWhileBusy(kill string) func() error {
	return func() error {
		return two(func(victim, killer *sql.Conn, id int64) error {
			said := make(chan error)
			go func() { said <- show(victim, "SELECT SLEEP(60) AS slept") }()
			if err := until(killer, fmt.Sprintf(busy, id), 1); err != nil {
				return err
			}
			if _, err := killer.ExecContext(ctx, fmt.Sprintf("%s %d", kill, id)); err != nil {
				return err
			}
			attempt(<-said)
			attempt(show(victim, "SELECT 'still there'"))
			return nil
		})
	}
}

func killedWhileIdle() error {
	return two(func(victim, killer *sql.Conn, id int64) error {
		if err := exec(killer, fmt.Sprintf("KILL %d", id)); err != nil {
			return err
		}
		if err := until(killer, fmt.Sprintf(there, id), 0); err != nil {
			return err
		}
		attempt(show(victim, "SELECT 'still there'"))
		attempt(exec(killer, "KILL 4000000000"))
		return nil
	})
}

func timeoutServer(conn *sql.Conn) error {
	var version string
	if err := conn.QueryRowContext(ctx, "SELECT VERSION()").Scan(&version); err != nil {
		return err
	}
	slow := "SELECT /*+ MAX_EXECUTION_TIME(200) */ SLEEP(60) AS slept"
	if strings.Contains(version, "MariaDB") {
		slow = "SET STATEMENT max_statement_time = 0.2 FOR SELECT SLEEP(60) AS slept"
	}
	attempt(show(conn, slow))
	return show(conn, "SELECT 'still there'")
}

func timeoutClient() error {
	err := withConn(func(conn *sql.Conn) error {
		limited, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		defer cancel()
		_, err := conn.ExecContext(limited, "SELECT SLEEP(60)")
		attempt(err)
		attempt(show(conn, "SELECT 'still there'"))
		return nil
	})()
	if err != nil {
		return err
	}
	return with(func(config *mysql.Config) { config.ReadTimeout = 200 * time.Millisecond }, func(conn *sql.Conn) error {
		attempt(show(conn, "SELECT SLEEP(60)"))
		return nil
	})()
}

func parallel() error {
	db := open(nil)
	defer db.Close()
	sums := make([]int, 50)
	failures := make([]error, len(sums))
	var group sync.WaitGroup
	for index := range sums {
		group.Add(1)
		go func() {
			defer group.Done()
			row := db.QueryRow("SELECT SUM(id) + " + strconv.Itoa(index) + " FROM numbers")
			failures[index] = row.Scan(&sums[index])
		}()
	}
	group.Wait()
	sort.Ints(sums)
	fmt.Println(len(sums), "sums", digest(fmt.Sprint(sums)))
	return errors.Join(failures...)
}

func dropped() error {
	conn, err := open(nil).Conn(ctx)
	if err != nil {
		return err
	}
	for _, statement := range []string{"START TRANSACTION", "UPDATE letters SET name = 'held' WHERE id = 1"} {
		if err := exec(conn, statement); err != nil {
			return err
		}
	}
	return show(conn, "SELECT name FROM letters WHERE id = 1")
}

func pool() error {
	db := open(nil)
	defer db.Close()
	db.SetMaxOpenConns(4)
	db.SetMaxIdleConns(4)
	sums, ids := make([]int, 40), make([]int64, 40)
	failures := make([]error, len(sums))
	var group sync.WaitGroup
	for index := range sums {
		group.Add(1)
		go func() {
			defer group.Done()
			failures[index] = db.QueryRow("SELECT ? + 1, CONNECTION_ID()", index).Scan(&sums[index], &ids[index])
		}()
	}
	group.Wait()
	sum, distinct := 0, map[int64]bool{}
	for index := range sums {
		sum += sums[index]
		distinct[ids[index]] = true
	}
	fmt.Println("sum", sum, "at most 4 connections:", len(distinct) <= 4)
	return errors.Join(failures...)
}
