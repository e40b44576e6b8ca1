"""aiomysql, driven from threads: its coroutines run on an event loop of their own."""

import asyncio
import inspect
import threading

import aiomysql
from pymysql.constants import CLIENT

import dbapi
from sections import DATABASE, PASSWORD, PORT, TLS, USER, trusting

LOOP = asyncio.new_event_loop()
threading.Thread(target=LOOP.run_forever, daemon=True).start()


def wait(awaitable):
    async def awaited():
        return await awaitable

    return asyncio.run_coroutine_threadsafe(awaited(), LOOP).result()


async def called(function, arguments, options):
    result = function(*arguments, **options)
    return await result if inspect.isawaitable(result) else result


class Blocking:
    """A connection or a cursor whose calls wait for what comes of them."""

    def __init__(self, target):
        self.target = target

    def __getattr__(self, name):
        found = getattr(self.target, name)
        if not callable(found):
            return found

        def call(*arguments, **options):
            result = wait(called(found, arguments, options))
            return Blocking(result) if isinstance(result, aiomysql.Cursor) else result

        return call

    def __iter__(self):
        while (row := self.fetchone()) is not None:
            yield row


class Aiomysql(dbapi.Driver):
    Error = aiomysql.Error

    def options(self, options):
        options = dict(options)
        defaults = {
            "host": "127.0.0.1",
            "port": PORT,
            "user": USER,
            "password": PASSWORD,
            "db": options.pop("database", DATABASE),
            "ssl": trusting() if TLS else None,
        }
        return {**defaults, **options}

    def connect(self, **options):
        return Blocking(wait(aiomysql.connect(**self.options(options))))

    def streaming(self, connection):
        return connection.cursor(aiomysql.SSCursor)

    def id_of(self, connection):
        return connection.thread_id()

    def with_infile(self):
        return self.connect(local_infile=True)

    def with_statements(self):
        return self.connect(client_flag=CLIENT.MULTI_STATEMENTS)

    def with_attributes(self):
        return self.connect(program_name="ünï")

    def call(self, connection):
        cursor = connection.cursor()
        cursor.callproc("two_results", (6,))
        for _ in self.results(cursor):
            print(cursor.fetchall())

    def pool(self):
        pool = wait(aiomysql.create_pool(minsize=1, maxsize=4, **self.options({})))

        class Pooled(Blocking):
            def close(self):
                wait(called(pool.release, (self.target,), {}))

        return lambda: Pooled(wait(pool.acquire()))


dbapi.run(Aiomysql())
