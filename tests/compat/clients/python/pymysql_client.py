"""PyMySQL."""

import pymysql
from pymysql.constants import CLIENT
from pymysql.cursors import SSCursor

import dbapi
from sections import DATABASE, PASSWORD, PORT, TLS, USER, trusting


class PyMySQL(dbapi.Driver):
    Error = pymysql.Error

    def connect(self, **options):
        defaults = {
            "host": "127.0.0.1",
            "port": PORT,
            "user": USER,
            "password": PASSWORD,
            "database": DATABASE,
            "max_allowed_packet": 1 << 30,
            "ssl": trusting() if TLS else None,
            "ssl_disabled": not TLS,
        }
        return pymysql.connect(**{**defaults, **options})

    def streaming(self, connection):
        return connection.cursor(SSCursor)

    def id_of(self, connection):
        return connection.thread_id()

    def with_infile(self):
        return self.connect(local_infile=True)

    def with_statements(self):
        return self.connect(client_flag=CLIENT.MULTI_STATEMENTS)

    def with_read_timeout(self):
        return self.connect(read_timeout=0.3)

    def with_attributes(self):
        return self.connect(program_name="ünï")

    def call(self, connection):
        cursor = connection.cursor()
        cursor.callproc("two_results", (6,))
        for _ in self.results(cursor):
            print(cursor.fetchall())


dbapi.run(PyMySQL())
