"""psycopg2: libpq with the simple protocol, COPY, large objects by FunctionCall, cancel from another thread."""

import datetime
import decimal
import io
import select
import threading
import time
import uuid
from contextlib import closing
from contextlib import contextmanager

import psycopg2
import psycopg2.errors
import psycopg2.extensions
import psycopg2.extras

from cases import DATABASE_URL
from cases import SCHEMA
from cases import all_at_once
from cases import case
from cases import elsewhere
from cases import fails_with
from cases import marker
from cases import run_all
from cases import same
from cases import wait_until_running

CLIENTS = 50
MILLION = 1_000_000
LARGE = 50_000_000


@contextmanager
def connect(*, autocommit=True, **options):
    with closing(psycopg2.connect(DATABASE_URL, **options)) as connection:
        connection.autocommit = autocommit
        yield connection


def run(connection, query, parameters=None) -> list | None:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return cursor.fetchall() if cursor.description else None


def one(connection, query, *parameters):
    return run(connection, query, parameters or None)[0][0]


def table(connection, columns: str) -> str:
    """Creates a table that no other case uses."""
    name = f"{SCHEMA}.{marker()}"
    run(connection, f"create table {name} ({columns})")
    return name


# --- transactions -------------------------------------------------------------------------------------------------


@case("a committed transaction stays and a rolled back one does not")
def _():
    with connect(autocommit=False) as a, connect() as b:
        t = table(a, "n int")
        a.commit()
        with a:
            run(a, f"insert into {t} values (1)")
        with fails_with("22012"), a:
            run(a, f"insert into {t} values (2)")
            run(a, "select 1 / 0")
        same(run(b, f"select n from {t}"), [(1,)])


@case("a savepoint takes back its own part of the transaction only")
def _():
    with connect(autocommit=False) as a:
        t = table(a, "n int primary key")
        run(a, f"insert into {t} values (1)")
        run(a, "savepoint before")
        with fails_with("23505"):
            run(a, f"insert into {t} values (1)")
        run(a, "rollback to before")
        run(a, f"insert into {t} values (2)")
        run(a, "release before")
        a.commit()
        same(run(a, f"select n from {t} order by 1"), [(1,), (2,)])


@case("the isolation level and read-only mode of one client are not another's")
def _():
    with connect(autocommit=False) as a, connect() as b:
        a.set_session(isolation_level="SERIALIZABLE", readonly=True, deferrable=True)
        same(one(a, "show transaction_isolation"), "serializable")
        same(one(b, "show transaction_isolation"), "read committed")
        with fails_with("25006"):
            table(a, "n int")
        a.rollback()
        same(one(b, "show transaction_read_only"), "off")


@case("a two-phase transaction is prepared on one server and committed on another")
def _():
    with connect(autocommit=False) as a:
        if one(a, "show max_prepared_transactions") == "0":
            return "skipped: max_prepared_transactions is 0"
        t = table(a, "n int")
        a.commit()
        a.tpc_begin(a.xid(1, marker(), "branch"))
        run(a, f"insert into {t} values (1)")
        pid = one(a, "select pg_backend_pid()")
        a.tpc_prepare()
        with elsewhere(pid):
            a.tpc_commit()
            same(one(a, f"select count(*) from {t}"), 1)
            a.rollback()


# --- statements ---------------------------------------------------------------------------------------------------


@case("a statement prepared by SQL works on whichever server comes next, for its own client", refusable=True)
def _():
    with connect() as a, connect() as b:
        run(a, "prepare mine (int) as select pg_backend_pid(), $1 + 1")
        with fails_with("26000", "0A000"):
            run(b, "execute mine (1)")
        pid = 0
        for number in range(4):
            ((pid, answer),) = run(a, f"execute mine ({number})")
            same(answer, number + 1)
        run(b, "prepare mine (int) as select 0, $1 + 100")
        same(run(a, "execute mine (1)")[0][1], 2)
        same(run(b, "execute mine (1)")[0][1], 101)
        run(a, "deallocate all")
        with fails_with("26000"):
            run(a, "execute mine (1)")
        same(run(b, "execute mine (1)")[0][1], 101)


@case("executemany, execute_batch and execute_values write every row")
def _():
    with connect() as a:
        t = table(a, "n int, word text")
        rows = [(number, f"word {number}") for number in range(500)]
        with a.cursor() as cursor:
            cursor.executemany(f"insert into {t} values (%s, %s)", rows)
            psycopg2.extras.execute_batch(cursor, f"insert into {t} values (%s, %s)", rows)
            found = psycopg2.extras.execute_values(cursor, f"insert into {t} values %s returning n", rows, page_size=100, fetch=True)
        same(len(found), 500)
        same(run(a, f"select count(*), count(distinct n) from {t}"), [(1500, 500)])


@case("several statements in one query are one transaction and their notices arrive")
def _():
    with connect() as a:
        t = table(a, "n int")
        with fails_with("22012"):
            run(a, f"insert into {t} values (1); select 1 / 0")
        run(a, f"insert into {t} values (2); do $$ begin raise notice 'hear'; end $$; insert into {t} values (3)")
        same(one(a, f"select sum(n)::int from {t}"), 5)
        same([notice.split() for notice in a.notices], [["NOTICE:", "hear"]])


@case("a procedure that commits runs, and so do statements that refuse a transaction")
def _():
    with connect() as a:
        t = table(a, "n int")
        run(a, f"do $$ begin insert into {t} values (1); commit; insert into {t} values (2); rollback; end $$")
        same(run(a, f"select n from {t}"), [(1,)])
        run(a, f"vacuum {t}")
        run(a, f"create index concurrently on {t} (n)")
        with fails_with("25001"):
            run(a, f"begin; vacuum {t}")
        run(a, "rollback")


# --- copy ---------------------------------------------------------------------------------------------------------


@case("COPY in and out carries every row")
def _():
    with connect() as a:
        t = table(a, "n int, word text")
        text = "".join(f"{number}\tgrüßt {number}\n" for number in range(50_000))
        with a.cursor() as cursor:
            cursor.copy_expert(f"copy {t} from stdin", io.StringIO(text))
            same(cursor.rowcount, 50_000)
            out = io.StringIO()
            cursor.copy_expert(f"copy (select * from {t} order by n) to stdout", out)
        same(out.getvalue(), text)


@case("a COPY that the client gives up or the server refuses leaves nothing and the connection usable")
def _():
    class Broken(io.StringIO):
        def read(self, size=-1):
            if self.tell() > 0:
                raise OSError("the file is broken")
            return super().read(100)

    with connect() as a:
        t = table(a, "n int")
        with a.cursor() as cursor:
            with fails_with("57014"):
                cursor.copy_expert(f"copy {t} from stdin", Broken("1\n" * 1000))
            with fails_with("22P02"):
                cursor.copy_expert(f"copy {t} from stdin", io.StringIO("not a number\n" + "1\n" * 500_000))
            with fails_with("42P01"):
                cursor.copy_expert(f"copy {t}_not from stdin", io.StringIO("1\n"))
        same(one(a, f"select count(*) from {t}"), 0)


@case("a large object is written and read by FunctionCall inside a transaction")
def _():
    content = bytes(range(256)) * 1000
    with connect(autocommit=False) as a:
        large = a.lobject(0, "wb")
        oid = large.oid
        for start in range(0, len(content), 50_000):
            large.write(content[start : start + 50_000])
        large.close()
        a.commit()
        large = a.lobject(oid, "rb")
        same(large.seek(1000), 1000)
        same(large.read(), content[1000:])
        large.unlink()
        a.commit()
        try:
            a.lobject(oid, "rb")
        except psycopg2.OperationalError as error:  # libpq tells no SQLSTATE here
            assert f"large object {oid} does not exist" in str(error), error
        else:
            raise AssertionError("the large object is still there")
        a.rollback()
        same(one(a, "select 1"), 1)


# --- errors and cancel --------------------------------------------------------------------------------------------


@case("errors come with their SQLSTATE and the connection is usable after each")
def _():
    with connect() as a:
        t = table(a, "n int primary key check (n > 0), word text not null")
        run(a, f"insert into {t} values (1, 'one')")
        for sqlstate, query in [
            ("42601", "selec 1"),
            ("22012", "select 1 / 0"),
            ("42703", "select no_such_column"),
            ("23505", f"insert into {t} values (1, 'again')"),
            ("23514", f"insert into {t} values (-1, 'negative')"),
            ("23502", f"insert into {t} values (2)"),
        ]:
            with fails_with(sqlstate):
                run(a, query)
            same(one(a, "select 1"), 1)
        try:
            run(a, "select 1,\n       nonsense")
        except psycopg2.errors.UndefinedColumn as error:
            same(error.diag.statement_position, "18", "position of the error")


@case("an error inside a transaction fails the rest until ROLLBACK")
def _():
    with connect(autocommit=False) as a:
        with fails_with("22012"):
            run(a, "select 1 / 0")
        with fails_with("25P02"):
            run(a, "select 1")
        a.rollback()
        same(one(a, "select 1"), 1)
        a.rollback()


@case("cancel() from another thread stops the running query and the connection is usable")
def _():
    with connect() as a:
        for _ in range(3):
            word = marker()

            def canceller(word=word) -> None:
                wait_until_running(word)
                a.cancel()

            thread = threading.Thread(target=canceller)
            thread.start()
            with fails_with("57014"):
                run(a, f"select pg_sleep(30) /* {word} */")
            thread.join()
            same(one(a, "select 1"), 1)


@case("cancels stop their own client's query and no other", deadline=30)
def _():
    # One victim at a time, so that one server is left for everybody else.
    end = time.monotonic() + 3

    def victim() -> int:
        cancelled = 0
        with connect() as a:
            while time.monotonic() < end:
                word = marker()
                thread = threading.Thread(target=lambda word=word: (wait_until_running(word), a.cancel()))
                thread.start()
                with fails_with("57014"):
                    run(a, f"select pg_sleep(30) /* {word} */")
                thread.join()
                cancelled += 1
        return cancelled

    def bystander(number: int) -> int:
        done = 0
        with connect() as a:
            while time.monotonic() < end:
                same(one(a, "select %s + count(*) from generate_series(1, 3000)", number), number + 3000)
                done += 1
        return done

    cancelled, *done = all_at_once(lambda number: bystander(number) if number else victim(), 5)
    return f"{cancelled} cancels, {sum(done)} queries beside them"


# --- large --------------------------------------------------------------------------------------------------------


@case("a million rows stream through a server-side cursor")
def _():
    with connect(autocommit=False) as a, a.cursor(name="many") as cursor:
        cursor.itersize = 20_000
        cursor.execute("select n, n %% 7 from generate_series(1, %s) n", [MILLION])
        same(sum(row[0] for row in cursor), MILLION * (MILLION + 1) // 2)


@case("a server-side cursor WITH HOLD outlives its transaction and stays with its client", refusable=True)
def _():
    with connect() as b:
        with connect(autocommit=False) as a:
            cursor = a.cursor(name="held", withhold=True)
            cursor.execute("select generate_series(1, 1000)")
            same(cursor.fetchmany(3), [(1,), (2,), (3,)])
            a.commit()
            with fails_with("34000"):
                run(b, "fetch 1 from held")
            same(cursor.fetchmany(2), [(4,), (5,)])
            a.commit()
        with fails_with("34000"):
            run(b, "fetch 1 from held")


@case("one value of 50 MB comes and goes", deadline=30)
def _():
    with connect() as a:
        same(len(one(a, "select repeat('x', %s)", LARGE)), LARGE)
        same(one(a, "select length(%s)", "y" * LARGE), LARGE)
        same(one(a, "select 1"), 1)


@case("values of many types go there and back")
def _():
    psycopg2.extras.register_uuid()
    with connect() as a:
        for value, cast in [
            (True, "bool"),
            ((1 << 63) - 1, "int8"),
            (1.5, "float8"),
            (decimal.Decimal("-12345678901234567890.000000001"), "numeric"),
            ("Grüße, 世界 🐘 'quoted' \\ $1 -- %", "text"),
            ("", "text"),
            (datetime.datetime(2024, 2, 29, 12, 0, 0, 1), "timestamp"),
            (datetime.timedelta(days=-3, seconds=7), "interval"),
            (uuid.UUID(int=7), "uuid"),
            ([1, 2, None], "int4[]"),
            (None, "text"),
        ]:
            same(one(a, f"select %s::{cast}", value), value, cast)
        same(bytes(one(a, "select %s::bytea", b"\x00\xff\\x")), b"\x00\xff\\x")
        same(one(a, "select %s::jsonb", psycopg2.extras.Json({"ключ": "🐘"})), {"ключ": "🐘"})


@case("client_encoding follows its client")
def _():
    with connect(client_encoding="LATIN1") as a, connect() as b:
        for _ in range(5):
            same(one(a, "select 'Grüße'"), "Grüße")
            same(one(b, "select '世界'"), "世界")
            same(one(a, "show client_encoding"), "LATIN1")
        with fails_with("22P05"):
            run(a, "select U&'\\4E16'")
        a.set_client_encoding("UTF8")
        same(one(a, "select '世界'"), "世界")


# --- many clients and the session's state -------------------------------------------------------------------------


@case("fifty clients over the same servers each get their own rows")
def _():
    def client(number: int) -> None:
        own = f"client {number} {marker()}"
        with connect(autocommit=False) as a:
            for _ in range(10):
                run(a, "select set_config('drivers.own', %s, true)", [own])
                same(one(a, "select current_setting('drivers.own')"), own)
                same(one(a, "select %s", own), own)
                a.commit()

    all_at_once(client, CLIENTS)


@case("settings follow their client while others use the same servers")
def _():
    zones = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Tokyo"]

    def client(number: int) -> None:
        own = {
            "timezone": zones[number % len(zones)],
            "application_name": f"client {number}",
            "statement_timeout": f"{100 + number}s",
            "lock_timeout": f"{200 + number}ms",
            "app.current_user_id": str(uuid.UUID(int=number + 1)),
        }
        with connect(application_name="not yet") as a:
            for name, value in own.items():
                run(a, f"set {name} to %s", [value])
            run(a, f"set search_path to own_{number}")
            for _ in range(8):
                for name, value in own.items():
                    same(one(a, f"show {name}"), value, name)
                same(one(a, "show search_path"), f"own_{number}")
            same(a.get_parameter_status("TimeZone"), own["timezone"], "reported TimeZone")

    all_at_once(client, 15)


@case("connection.reset() leaves nothing of the session to anybody")
def _():
    with connect() as a, connect() as b:
        usual = one(b, "show statement_timeout")
        run(a, "set statement_timeout = '9s'")
        a.reset()
        a.autocommit = True
        same(one(a, "show statement_timeout"), usual)
        run(a, "set statement_timeout = '9s'; set timezone = 'Asia/Tokyo'")
        run(a, "discard all")
        same(one(a, "show statement_timeout"), usual)
        same(one(a, "show timezone"), one(b, "show timezone"))


@case("a session's advisory lock stays with its client and goes with it", refusable=True)
def _():
    key = int(uuid.uuid4().int % (1 << 60))
    with connect() as b:
        with connect() as a:
            same(one(a, "select pg_try_advisory_lock(%s)", key), True)
            for _ in range(5):
                same(one(b, "select pg_try_advisory_xact_lock(%s)", key), False)
                same(one(a, "select 1"), 1)
            same(one(a, "select pg_advisory_unlock(%s)", key), True)
            same(one(a, "select pg_try_advisory_lock(%s)", key), True)
        # The server learns that its client is gone a moment later.
        end = time.monotonic() + 5
        while not one(b, "select pg_try_advisory_xact_lock(%s)", key):
            assert time.monotonic() < end, "the lock outlived its client"


@case("a temporary table is its client's own and goes with it", refusable=True)
def _():
    name = marker()
    with connect() as b:
        with connect() as a:
            run(a, f"create temporary table {name} as select 1 as n")
            for _ in range(5):
                same(one(a, f"select n from {name}"), 1)
                same(one(b, "select to_regclass(%s) is null", name), True, "hidden from another client")
        for _ in range(5):
            same(one(b, "select to_regclass(%s) is null", name), True, "gone with its client")


@case("LISTEN hears what another client says, also while idle", refusable=True)
def _():
    channel = marker()
    with connect() as b, connect() as a:
        run(a, f"listen {channel}")
        run(b, "select pg_notify(%s, 'to you')", [channel])
        same(select.select([a], [], [], 10)[0], [a], "readable while idle")
        a.poll()
        same([(note.channel, note.payload) for note in a.notifies], [(channel, "to you")])
        run(a, f"unlisten {channel}")


@case("an asynchronous connection logs in, queries and fails without blocking")
def _():
    def wait(connection) -> None:
        while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
            readable = [connection] if state == psycopg2.extensions.POLL_READ else []
            writable = [connection] if state == psycopg2.extensions.POLL_WRITE else []
            assert any(select.select(readable, writable, [], 10)), "nothing came within 10 s"

    with closing(psycopg2.connect(DATABASE_URL, async_=1)) as a:
        wait(a)
        cursor = a.cursor()
        cursor.execute("select generate_series(1, 1000)")
        wait(a)
        same(len(cursor.fetchall()), 1000)
        with fails_with("22012"):
            cursor.execute("select 1 / 0")
            wait(a)
        cursor.execute("select 'after'")
        wait(a)
        same(cursor.fetchone(), ("after",))


run_all()
