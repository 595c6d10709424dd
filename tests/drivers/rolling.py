"""Clients that insert through restarts of the pooler, and say how much was acknowledged.

    DATABASE_URL=... rolling.py WORKER...

Each worker inserts its rows 1, 2, 3 ... in transactions of two, over psycopg. When its connection ends before anything of a
transaction was answered it connects again and repeats that transaction; any other error is the end. SIGTERM ends it in order: it
writes "WORKER ROWS RECONNECTS" for each.
"""

import os
import signal
import sys
import threading

import psycopg

FAREWELLS = ("terminating connection", "closed the connection", "reset by peer")

over = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: over.set())
failures = []


def ended_by_the_pooler(error: psycopg.OperationalError) -> bool:
    """57P01, or closed before that arrived."""
    return error.sqlstate in ("57P01", None)


def connect() -> psycopg.Connection:
    """Again while the pooler is on its way out."""
    while True:
        try:
            return psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
        except psycopg.OperationalError as error:
            # Of a refused login psycopg keeps the words alone.
            if not any(words in str(error) for words in FAREWELLS):
                raise


def insert(connection: psycopg.Connection, worker: int, row: int) -> bool:
    """Whether it is committed; if not, nothing of it was answered."""
    try:
        connection.execute("begin")
    except psycopg.OperationalError as error:
        if ended_by_the_pooler(error):
            return False
        raise
    for number in (row, row + 1):
        connection.execute("insert into kept values (%s, %s)", (worker, number))
    connection.execute("commit")
    return True


def work(worker: int) -> None:
    rows, reconnects = 0, 0
    try:
        connection = connect()
        while not over.is_set():
            if insert(connection, worker, rows + 1):
                rows += 2
                continue
            reconnects += 1
            connection.close()
            connection = connect()
        connection.close()
    except Exception as error:  # noqa: BLE001: whatever it is, the test must see it
        failures.append(f"worker {worker} after {rows} rows: {error!r}")
    print(worker, rows, reconnects, flush=True)


threads = [threading.Thread(target=work, args=(int(worker),)) for worker in sys.argv[1:]]
for thread in threads:
    thread.start()
over.wait()
for thread in threads:
    thread.join()
for failure in failures:
    print(failure, file=sys.stderr)
sys.exit(1 if failures else 0)
