"""mysql-connector-python, in pure Python: its C extension does not run on every Debian."""

import mysql.connector
from mysql.connector.constants import ClientFlag
from mysql.connector.pooling import MySQLConnectionPool

import dbapi
from sections import DATABASE, PASSWORD, PORT, TLS, USER, line


class Connector(dbapi.Driver):
    Error = mysql.connector.Error
    # It sends nothing in place of the file, so that the server goes on waiting for it, and so does it.
    survives_a_missing_file = False

    def options(self, options):
        defaults = {
            "host": "127.0.0.1",
            "port": PORT,
            "user": USER,
            "password": PASSWORD,
            "database": DATABASE,
            "use_pure": True,
            "autocommit": True,
            "ssl_disabled": not TLS,
        }
        return {**defaults, **options}

    def connect(self, **options):
        return mysql.connector.connect(**self.options(options))

    def prepared(self, connection):
        return connection.cursor(prepared=True)

    def columns_of(self, cursor, table):
        if table != "types" or type(cursor).__name__ != "MySQLCursorPrepared":
            return "*"
        # It cannot read a YEAR of the binary protocol.
        connection = self.connect()
        plain = connection.cursor()
        plain.execute(f"SHOW COLUMNS FROM {table}")
        names = [row[0] for row in plain.fetchall() if row[0] != "c_year"]
        connection.close()
        return ", ".join(names)

    def streaming(self, connection):
        # Unbuffered is the default.
        return connection.cursor()

    def id_of(self, connection):
        return connection.connection_id

    def compressed(self):
        return self.connect(compress=True)

    def with_infile(self):
        return self.connect(allow_local_infile=True)

    def with_statements(self):
        return self.connect(client_flags=[ClientFlag.MULTI_STATEMENTS])

    def with_read_timeout(self):
        return self.connect(read_timeout=1)

    def with_attributes(self):
        return self.connect(conn_attrs={"compat": "ünï"})

    def call(self, connection):
        cursor = connection.cursor()
        print(cursor.callproc("two_results", (6,)))
        for result in cursor.stored_results():
            for row in result.fetchall():
                print(line(row))
        cursor.close()

    def reset(self, connection):
        connection.cmd_reset_connection()

    def change_user(self, connection, user, password):
        connection.cmd_change_user(user, password, "information_schema")

    def pool(self):
        pool = MySQLConnectionPool(pool_name="four", pool_size=4, **self.options({}))
        return pool.get_connection


dbapi.run(Connector())
