"""SQLAlchemy, its ORM and its pool, on PyMySQL."""

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pymysql
from sqlalchemy import ForeignKey, MetaData, String, Table, URL, create_engine, func, select, text
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from sqlalchemy.pool import NullPool

from sections import (
    ATTRIBUTES, BUSY, DATABASE, HOLD, PASSWORD, PORT, SESSION, THERE, TLS, USER, Unsupported, big, digest, line,
    rows, section, slow_statement, trusting, vanish,
)


class Base(DeclarativeBase):
    pass


class Ship(Base):
    __tablename__ = "ships"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50), unique=True)
    berths: Mapped[list["Berth"]] = relationship(back_populates="ship", order_by="Berth.id")


class Berth(Base):
    __tablename__ = "berths"
    id: Mapped[int] = mapped_column(primary_key=True)
    ship_id: Mapped[int] = mapped_column(ForeignKey("ships.id"))
    depth: Mapped[float] = mapped_column(mysql.DOUBLE)
    ship: Mapped[Ship] = relationship(back_populates="berths")


def engine_for(user=USER, password=PASSWORD, database=DATABASE, options=None, **engine):
    url = URL.create("mysql+pymysql", user, password, "127.0.0.1", PORT, database, {"charset": "utf8mb4"})
    engine.setdefault("poolclass", NullPool)
    tls = {"ssl": trusting()} if TLS else {"ssl_disabled": True}
    return create_engine(url, connect_args={**tls, **(options or {})}, **engine)


ENGINE = engine_for()


def show(connection, statement, values=None):
    result = connection.execute(text(statement), values or {})
    if result.returns_rows:
        print("|", list(result.keys()))
        for row in result:
            print(line(row))
    else:
        print(result.rowcount, "rows, id", result.lastrowid)


def attempt(body, *arguments):
    try:
        body(*arguments)
    except (SQLAlchemyError, pymysql.Error) as error:
        # Without the link to its documentation.
        print(type(error).__name__, str(error).splitlines()[0])


def refused(**place):
    def body():
        with engine_for(**place).connect():
            print("failed: let in")

    return lambda: attempt(body)


def unsupported(why):
    def body():
        raise Unsupported(why)

    return body


def auth_right():
    with ENGINE.connect() as connection:
        show(connection, "SELECT CURRENT_USER(), DATABASE(), VERSION()")
        print(connection.dialect.server_version_info)


def query_text():
    Base.metadata.create_all(ENGINE)
    with Session(ENGINE) as session:
        session.add(Ship(name="Ünïcorn", berths=[Berth(depth=2.5), Berth(depth=3.25)]))
        session.add(Ship(name="😀"))
        session.commit()
        for ship in session.scalars(select(Ship).order_by(Ship.id)):
            print(ship.id, ship.name, [berth.depth for berth in ship.berths])
        print(session.execute(select(func.count(), func.sum(Berth.depth)).join(Ship.berths)).all())
    table = Table("types", MetaData(), autoload_with=ENGINE)
    print([(column.name, str(column.type), column.nullable) for column in table.columns])


def query_error():
    with ENGINE.connect() as connection:
        for wrong in ["SELEC 1", "SELECT * FROM missing", "INSERT INTO letters VALUES (1, 'again')"]:
            attempt(show, connection, wrong)
        show(connection, "SELECT 'still there'")

    def twice():
        with Session(ENGINE) as session:
            session.add(Ship(name="Ünïcorn"))
            session.commit()

    attempt(twice)


def transaction():
    with Session(ENGINE) as session:
        session.add(Ship(name="rolled back"))
        session.flush()
        session.rollback()
        session.add(Ship(name="kept"))
        nested = session.begin_nested()
        session.add(Ship(name="in a savepoint"))
        session.flush()
        nested.rollback()
        session.commit()
        print(session.scalars(select(Ship.name).order_by(Ship.id)).all())


def results_procedure():
    raw = ENGINE.raw_connection()
    cursor = raw.cursor()
    cursor.callproc("two_results", (6,))
    print(cursor.fetchall())
    while cursor.nextset():
        print(cursor.fetchall())
    raw.close()


def big_upload():
    with ENGINE.connect() as connection:
        show(connection, "SELECT SHA2(:v, 256)", {"v": big()})


def big_echo():
    with ENGINE.connect() as connection:
        print(digest(connection.execute(text("SELECT :v"), {"v": big()}).scalar()))


def infile():
    with engine_for(options={"local_infile": True}).begin() as connection:
        show(connection, f"LOAD DATA LOCAL INFILE '{rows()}' INTO TABLE loaded")
        show(connection, "SELECT COUNT(*), SUM(id), MAX(name) FROM loaded")


def types_text():
    table = Table("types", MetaData(), autoload_with=ENGINE)
    with ENGINE.connect() as connection:
        for row in connection.execute(select(table).order_by(table.c.id)):
            print(line(row))


def streaming():
    total, count = hashlib.sha256(), 0
    with ENGINE.connect().execution_options(stream_results=True) as connection:
        for row in connection.execute(text("SELECT id, name FROM numbers ORDER BY id")):
            total.update(line(row).encode())
            count += 1
    print(count, "rows", total.hexdigest())


def charset():
    with ENGINE.connect() as connection:
        show(connection, SESSION)
        show(connection, "SELECT HEX(:v) AS h", {"v": "ünï😀"})
        show(connection, "SELECT name FROM letters ORDER BY name COLLATE utf8mb4_bin")


def number_of(connection):
    return connection.execute(text("SELECT CONNECTION_ID()")).scalar()


def until(connection, statement, expected):
    while connection.execute(text(statement)).scalar() != expected:
        time.sleep(0.005)


def killed_while_busy(kill):
    with ENGINE.connect() as victim, ENGINE.connect() as killer:
        number = number_of(victim)
        busy = threading.Thread(target=attempt, args=(show, victim, "SELECT SLEEP(60) AS slept"))
        busy.start()
        until(killer, BUSY.format(number), 1)
        killer.execute(text(f"{kill} {number}"))
        busy.join()
        print("invalidated:", victim.invalidated)
        attempt(victim.rollback)
        attempt(show, victim, "SELECT 'still there'")


def killed_while_idle():
    """The pool finds that a connection is gone, and makes another."""
    engine = engine_for(poolclass=None, pool_size=1, pool_pre_ping=True)
    with engine.connect() as victim:
        number = number_of(victim)
    with ENGINE.connect() as killer:
        killer.execute(text(f"KILL {number}"))
        until(killer, THERE.format(number), 0)
    with engine.connect() as again:
        print("another:", number_of(again) != number)
    engine.dispose()


def timeout_server():
    with ENGINE.connect() as connection:
        version = connection.execute(text("SELECT VERSION()")).scalar()
        attempt(show, connection, slow_statement(version))
        attempt(connection.rollback)
        show(connection, "SELECT 'still there'")


def timeout_client():
    with engine_for(options={"read_timeout": 0.3}).connect() as connection:
        attempt(show, connection, "SELECT SLEEP(60) AS slept")
        print("invalidated:", connection.invalidated)


def attributes():
    with ENGINE.connect() as connection:
        show(connection, ATTRIBUTES)


def parallel():
    def one(number):
        with ENGINE.connect() as connection:
            return connection.execute(text(f"SELECT SUM(id) + {number} FROM numbers")).scalar()

    with ThreadPoolExecutor(50) as threads:
        sums = sorted(threads.map(one, range(50)))
    print(len(sums), "connections", digest(str(sums)))


def pool():
    engine = engine_for(poolclass=None, pool_size=4, max_overflow=0, pool_pre_ping=True)

    def one(number):
        with engine.connect() as connection:
            found = connection.execute(text(f"SELECT {number} + 1")).scalar()
            return found, number_of(connection)

    with ThreadPoolExecutor(8) as threads:
        served = list(threads.map(one, range(40)))
    numbers = len({number for _, number in served})
    print("sum", sum(found for found, _ in served), "at most 4 connections:", numbers <= 4)
    engine.dispose()


def dropped():
    connection = ENGINE.connect()
    for statement in HOLD:
        show(connection, statement)
    HELD.append(connection)


# Nobody closes it.
HELD = []
section("auth.right", auth_right)
section("auth.wrong_password", refused(password="wrong"))
section("auth.unknown_user", refused(user="nobody"))
section("auth.unknown_database", refused(database="nowhere"))
section("query.text", query_text)
section("query.prepared", unsupported("statements are prepared by the client"))
section("query.error", query_error)
section("transaction", transaction)
section("results.statements", unsupported("one statement at a time"))
section("results.procedure", results_procedure)
section("big.upload", big_upload)
section("big.echo", big_echo)
section("infile", infile)
section("types.text", types_text)
section("types.prepared", unsupported("statements are prepared by the client"))
section("streaming", streaming)
section("compression", unsupported("the driver has none"))
section("charset", charset)
section("kill.query", lambda: killed_while_busy("KILL QUERY"))
section("kill.busy", lambda: killed_while_busy("KILL"))
section("kill.idle", killed_while_idle)
section("timeout.server", timeout_server)
section("timeout.client", timeout_client)
section("reset_connection", unsupported("a connection goes back to the pool with a ROLLBACK"))
section("change_user", unsupported("no such call"))
section("attributes", attributes)
section("parallel", parallel)
section("pool", pool)
section("dropped", dropped)
vanish()
