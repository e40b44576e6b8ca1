"""What the Python programs have in common."""

import hashlib
import os
import ssl
import sys
import traceback

PORT = int(sys.argv[1])
USER, PASSWORD, DATABASE, FILES, TLS = sys.argv[2:]
TLS = TLS == "tls"


def trusting():
    """TLS with whoever it is."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


SESSION = "SELECT @@character_set_client, @@character_set_results, @@collation_connection"
BUSY = "SELECT COUNT(*) FROM information_schema.processlist WHERE id = {} AND info LIKE 'SELECT SLEEP%'"
THERE = "SELECT COUNT(*) FROM information_schema.processlist WHERE id = {}"
# A program ends with it, and leaves the server to find out.
HOLD = ["START TRANSACTION", "UPDATE letters SET name = 'held' WHERE id = 1", "SELECT name FROM letters WHERE id = 1"]
ATTRIBUTES = (
    "SELECT attr_name, IF(attr_name = '_pid', '', attr_value) FROM"
    " performance_schema.session_connect_attrs"
    " WHERE processlist_id = CONNECTION_ID() ORDER BY attr_name"
)


class Unsupported(Exception):
    """The driver cannot do it."""


def begin(name):
    print("==", name)


def report(error):
    """Says why a section went wrong, or that the driver cannot do it."""
    if isinstance(error, Unsupported):
        print("unsupported:", error)
    else:
        print("failed:", shown(error))
        traceback.print_exception(error)


def section(name, body):
    begin(name)
    try:
        body()
    except Exception as error:
        report(error)
    sys.stdout.flush()


def vanish():
    """Ends at once: no connection is closed by its driver."""
    sys.stdout.flush()
    os._exit(0)


def shown(error):
    return f"{type(error).__name__} {error!r}"


def big():
    with open(os.path.join(FILES, "big.txt"), encoding="ascii") as file:
        return file.read()


def rows():
    return os.path.join(FILES, "rows.tsv")


def digest(value):
    if isinstance(value, str):
        value = value.encode()
    return f"{len(value)} bytes {hashlib.sha256(value).hexdigest()}"


def line(row):
    return " | ".join(map(brief, row))


def brief(value):
    if isinstance(value, (str, bytes)) and len(value) > 300:
        return digest(value)
    # The order of a set is not the same in every process.
    return repr(sorted(value)) if isinstance(value, set) else repr(value)


def slow_statement(version):
    if "MariaDB" in version:
        return "SET STATEMENT max_statement_time = 0.2 FOR SELECT SLEEP(60) AS slept"
    return "SELECT /*+ MAX_EXECUTION_TIME(200) */ SLEEP(60) AS slept"
