"""The sections for drivers of PEP 249, written once; a driver's own program fills in the rest."""

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from sections import (
    ATTRIBUTES, BUSY, HOLD, SESSION, THERE, Unsupported, begin, big, digest, line, rows, section, shown,
    slow_statement, vanish,
)


class Driver:
    """What differs between drivers; whatever is not overridden is unsupported."""

    Error = Exception
    # Whether a connection is of use after it was asked for a file that is not there.
    survives_a_missing_file = True

    def connect(self, **options):
        raise NotImplementedError

    def prepared(self, connection):
        """A cursor of prepared statements on the server."""
        raise Unsupported("statements are prepared by the client")

    def columns_of(self, cursor, table):
        """Those of a table that the driver can read."""
        return "*"

    def streaming(self, connection):
        raise Unsupported("no unbuffered cursor")

    def id_of(self, connection):
        raise NotImplementedError

    def compressed(self):
        raise Unsupported("no compression")

    def with_infile(self):
        return self.connect()

    def with_statements(self):
        return self.connect()

    def with_read_timeout(self):
        raise Unsupported("no read timeout")

    def with_attributes(self):
        raise Unsupported("no attributes of its own")

    def results(self, cursor):
        """Goes from one result to the next."""
        yield
        while cursor.nextset():
            yield

    def call(self, connection):
        """callproc, which is each driver's own."""
        raise Unsupported("no callproc")

    def reset(self, connection):
        raise Unsupported("no reset")

    def change_user(self, connection, user, password):
        raise Unsupported("no change of user")

    def pool(self):
        raise Unsupported("no pool")


def run(driver):
    def show_results(cursor):
        for _ in driver.results(cursor):
            if cursor.description is not None:
                print("|", [tuple(column) for column in cursor.description])
                for row in cursor.fetchall():
                    print(line(row))
            print(cursor.rowcount, "rows, id", cursor.lastrowid)

    def show(connection, statement, values=None):
        cursor = connection.cursor()
        try:
            cursor.execute(statement, values) if values is not None else cursor.execute(statement)
            show_results(cursor)
        finally:
            try:
                cursor.close()
            except driver.Error:
                pass

    def value(connection, statement):
        cursor = connection.cursor()
        cursor.execute(statement)
        found = cursor.fetchone()[0]
        cursor.close()
        return found

    def attempt(body, *arguments):
        """For what may or must fail."""
        try:
            body(*arguments)
        except driver.Error as error:
            print(shown(error))

    def refused(**options):
        def body():
            driver.connect(**options)
            print("failed: let in")

        return lambda: attempt(body)

    def until(connection, statement, expected):
        while value(connection, statement) != expected:
            time.sleep(0.005)

    def auth_right():
        connection = driver.connect()
        show(connection, "SELECT CURRENT_USER(), DATABASE(), VERSION()")
        connection.close()

    def query_text():
        connection = driver.connect()
        show(connection, "SELECT 1 AS one, 'two' AS two, NULL AS n, 3.50 AS d, '' AS e")
        show(connection, "SELECT %s AS a, %s AS b, %s AS c", ("it's \\ %", None, 2.5))
        show(connection, "CREATE TABLE made (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(20))")
        show(connection, "INSERT INTO made (v) VALUES ('one'), ('two'), (NULL)")
        show(connection, "UPDATE made SET v = 'more' WHERE id > 1")
        show(connection, "SELECT * FROM made ORDER BY id")
        show(connection, "SELECT * FROM made WHERE id > 100")
        show(connection, "SHOW WARNINGS")
        connection.ping()
        connection.close()

    def query_prepared():
        connection = driver.connect()
        cursor = driver.prepared(connection)
        statement = "SELECT id, name FROM letters WHERE id > %s AND name <> %s"
        for values in [(2, "c"), (6, "😀"), (100, "")]:
            cursor.execute(statement, values)
            for row in cursor.fetchall():
                print(line(row))
        cursor.execute("SELECT %s IS NULL, %s, %s", (None, 2.5, b"\0\xff"))
        print(line(cursor.fetchone()))
        cursor.close()
        connection.close()

    def query_error():
        connection = driver.connect()
        for wrong in [
            "SELEC 1",
            "SELECT * FROM missing",
            "SELECT missing FROM letters",
            "INSERT INTO letters VALUES (1, 'again')",
            "INSERT INTO letters VALUES (99, NULL)",
        ]:
            attempt(show, connection, wrong)
        show(connection, "SELECT 'still there'")
        connection.close()

    def transaction():
        connection, other = driver.connect(), driver.connect()
        show(connection, "BEGIN")
        show(connection, "INSERT INTO moves VALUES (1)")
        show(other, "SELECT COUNT(*) FROM moves")
        other.rollback()
        connection.rollback()
        show(connection, "SELECT COUNT(*) FROM moves")
        show(connection, "BEGIN")
        show(connection, "INSERT INTO moves VALUES (1)")
        show(connection, "SAVEPOINT here")
        show(connection, "INSERT INTO moves VALUES (2)")
        show(connection, "ROLLBACK TO SAVEPOINT here")
        connection.commit()
        show(other, "SELECT * FROM moves")
        other.close()
        connection.close()

    def results_statements():
        connection = driver.with_statements()
        statements = "SELECT 1; INSERT INTO moves VALUES (5); SELECT id FROM moves; SELECT 1 FROM none"
        attempt(show, connection, statements)
        connection.close()

    def results_procedure():
        connection = driver.with_statements()
        show(connection, "CALL two_results(5)")
        attempt(show, connection, "CALL failing()")
        driver.call(connection)
        connection.close()

    def big_upload():
        connection, large = driver.connect(), big()
        print(digest(large))
        show(connection, "SELECT SHA2(%s, 256)", (large,))
        connection.close()

    def big_echo():
        connection = driver.connect()
        cursor = connection.cursor()
        cursor.execute("SELECT %s AS v", (big(),))
        print(digest(cursor.fetchone()[0]))
        cursor.close()
        connection.close()

    def infile():
        connection = driver.with_infile()
        load = "LOAD DATA LOCAL INFILE '{}' INTO TABLE loaded"
        show(connection, load.format(rows()))
        connection.commit()
        show(connection, "SELECT COUNT(*), SUM(id), MAX(name) FROM loaded")
        attempt(show, connection, load.format("/nowhere"))
        if driver.survives_a_missing_file:
            attempt(show, connection, "SELECT 'still there'")
        connection.close()

    def types(cursor_of):
        connection = driver.connect()
        cursor = cursor_of(connection)

        def select(table):
            columns = driver.columns_of(cursor, table)
            cursor.execute(f"SELECT {columns} FROM {table} ORDER BY id")
            print("|", [tuple(column) for column in cursor.description])
            for row in cursor.fetchall():
                print(line(row))

        select("types")
        # Not every server has these types.
        attempt(select, "places")
        cursor.close()
        connection.close()

    def streaming():
        connection = driver.connect()
        cursor = driver.streaming(connection)
        cursor.execute("SELECT id, name FROM numbers ORDER BY id")
        total, count = hashlib.sha256(), 0
        for row in cursor:
            total.update(line(row).encode())
            count += 1
        print(count, "rows", total.hexdigest())
        cursor.close()
        cursor = driver.streaming(connection)
        cursor.execute("SELECT id, name FROM numbers ORDER BY id")
        print("left after", cursor.fetchone())
        attempt(cursor.close)
        attempt(show, connection, "SELECT 'still there'")
        attempt(connection.close)

    def compression():
        connection = driver.compressed()
        show(connection, "SHOW STATUS LIKE 'Compression'")
        cursor = connection.cursor()
        cursor.execute("SELECT %s AS v", (big()[:1_000_000],))
        print(digest(cursor.fetchone()[0]))
        cursor.close()
        connection.close()

    def charset():
        connection = driver.connect()
        show(connection, SESSION)
        show(connection, "SELECT HEX(%s) AS h", ("ünï😀",))
        show(connection, "SELECT name FROM letters ORDER BY name COLLATE utf8mb4_bin")
        show(connection, "SELECT name FROM letters WHERE name = 'b' COLLATE utf8mb4_general_ci")
        connection.close()
        connection = driver.connect(charset="latin1")
        show(connection, SESSION)
        show(connection, "SELECT name, HEX(name) FROM letters WHERE id IN (4, 5) ORDER BY id")
        connection.close()

    def killed_while_busy(kill):
        victim, killer = driver.connect(), driver.connect()
        number = driver.id_of(victim)
        busy = threading.Thread(target=attempt, args=(show, victim, "SELECT SLEEP(60) AS slept"))
        busy.start()
        until(killer, BUSY.format(number), 1)
        # Prints nothing: the other thread may print just now.
        killer.cursor().execute(f"{kill} {number}")
        busy.join()
        attempt(show, victim, "SELECT 'still there'")
        attempt(victim.close)
        killer.close()

    def killed_while_idle():
        victim, killer = driver.connect(), driver.connect()
        number = driver.id_of(victim)
        show(killer, f"KILL {number}")
        until(killer, THERE.format(number), 0)
        attempt(show, victim, "SELECT 'still there'")
        attempt(show, killer, "KILL 4000000000")
        attempt(victim.close)
        killer.close()

    def timeout_server():
        connection = driver.connect()
        attempt(show, connection, slow_statement(value(connection, "SELECT VERSION()")))
        show(connection, "SELECT 'still there'")
        connection.close()

    def timeout_client():
        connection = driver.with_read_timeout()
        attempt(show, connection, "SELECT SLEEP(60) AS slept")
        attempt(show, connection, "SELECT 'still there'")
        attempt(connection.close)

    def reset_connection():
        connection = driver.connect()
        show(connection, "SET @mine = 1")
        show(connection, "CREATE TEMPORARY TABLE fleeting (id INT)")
        driver.reset(connection)
        show(connection, "SELECT @mine, DATABASE()")
        attempt(show, connection, "SELECT * FROM fleeting")
        connection.close()

    def change_user():
        connection = driver.connect()
        show(connection, "SET @mine = 1")
        driver.change_user(connection, "other", "flow")
        show(connection, "SELECT CURRENT_USER(), @mine")
        attempt(driver.change_user, connection, "other", "ebb")
        attempt(show, connection, "SELECT CURRENT_USER()")
        attempt(connection.close)

    def attributes():
        show(driver.connect(), ATTRIBUTES)
        show(driver.with_attributes(), ATTRIBUTES)

    def parallel():
        def one(number):
            connection = driver.connect()
            found = value(connection, f"SELECT SUM(id) + {number} FROM numbers")
            connection.close()
            return int(found)

        with ThreadPoolExecutor(50) as threads:
            sums = sorted(threads.map(one, range(50)))
        print(len(sums), "connections", digest(str(sums)))

    def pool():
        take = driver.pool()

        def one(number):
            connection = take()
            found = value(connection, f"SELECT {number} + 1"), driver.id_of(connection)
            connection.close()
            return found

        with ThreadPoolExecutor(4) as threads:
            served = list(threads.map(one, range(40)))
        numbers = len({number for _, number in served})
        print("sum", sum(found for found, _ in served), "at most 4 connections:", numbers <= 4)

    def dropped():
        connection = driver.connect()
        for statement in HOLD:
            show(connection, statement)
        held.append(connection)

    # Nobody closes it.
    held = []
    section("auth.right", auth_right)
    section("auth.wrong_password", refused(password="wrong"))
    section("auth.unknown_user", refused(user="nobody"))
    section("auth.unknown_database", refused(database="nowhere"))
    section("query.text", query_text)
    section("query.prepared", query_prepared)
    section("query.error", query_error)
    section("transaction", transaction)
    section("results.statements", results_statements)
    section("results.procedure", results_procedure)
    section("big.upload", big_upload)
    section("big.echo", big_echo)
    section("infile", infile)
    section("types.text", lambda: types(lambda connection: connection.cursor()))
    section("types.prepared", lambda: types(driver.prepared))
    section("streaming", streaming)
    section("compression", compression)
    section("charset", charset)
    section("kill.query", lambda: killed_while_busy("KILL QUERY"))
    section("kill.busy", lambda: killed_while_busy("KILL"))
    section("kill.idle", killed_while_idle)
    section("timeout.server", timeout_server)
    section("timeout.client", timeout_client)
    section("reset_connection", reset_connection)
    section("change_user", change_user)
    section("attributes", attributes)
    section("parallel", parallel)
    section("pool", pool)
    section("dropped", dropped)
    vanish()
