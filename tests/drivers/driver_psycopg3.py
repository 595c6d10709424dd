"""psycopg 3: prepared statements of its own naming, pipeline mode, COPY, cancel, sync and async."""

import asyncio
import datetime
import decimal
import ipaddress
import threading
import uuid
from contextlib import suppress

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb
from psycopg.types.range import Range

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


def connect(**options) -> psycopg.Connection:
    return psycopg.connect(DATABASE_URL, **{"autocommit": True} | options)


def table(connection: psycopg.Connection, columns: str) -> sql.Identifier:
    """Creates a table that no other case uses."""
    name = sql.Identifier(SCHEMA, marker())
    connection.execute(sql.SQL("create table {} ({})").format(name, sql.SQL(columns)))
    return name


def one(connection: psycopg.Connection, query, *parameters):
    return connection.execute(query, parameters or None).fetchone()[0]


# --- transactions -------------------------------------------------------------------------------------------------


@case("a committed transaction stays and a rolled back one does not")
def _():
    with connect(autocommit=False) as a, connect() as b:
        t = table(a, "n int")
        a.commit()
        a.execute(sql.SQL("insert into {} values (1)").format(t))
        a.commit()
        a.execute(sql.SQL("insert into {} values (2)").format(t))
        a.rollback()
        same(b.execute(sql.SQL("select n from {}").format(t)).fetchall(), [(1,)])


@case("a savepoint takes back its own part of the transaction only")
def _():
    with connect() as a:
        t = table(a, "n int primary key")
        insert = sql.SQL("insert into {} values (%s)").format(t)
        with a.transaction():
            a.execute(insert, [1])
            with fails_with("23505"), a.transaction():
                a.execute(insert, [2])
                a.execute(insert, [1])
            with a.transaction():
                a.execute(insert, [3])
        same(a.execute(sql.SQL("select n from {} order by 1").format(t)).fetchall(), [(1,), (3,)])


@case("a transaction stays on one server and keeps its isolation level")
def _():
    with connect() as a, connect() as b:
        a.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        a.read_only = True
        a.autocommit = False
        pids = {one(a, "select pg_backend_pid()") for _ in range(20) if one(b, "select 1")}
        same(len(pids), 1, "servers in one transaction")
        same(one(a, "show transaction_isolation"), "serializable")
        same(one(b, "show transaction_isolation"), "read committed")
        with fails_with("25006"):
            table(a, "n int")
        a.rollback()


@case("a two-phase transaction is prepared on one server and committed on another")
def _():
    with connect(autocommit=False) as a:
        if one(a, "show max_prepared_transactions") == "0":
            return "skipped: max_prepared_transactions is 0"
        t = table(a, "n int")
        a.commit()
        xid = a.xid(1, marker(), "branch")
        a.tpc_begin(xid)
        a.execute(sql.SQL("insert into {} values (1)").format(t))
        pid = one(a, "select pg_backend_pid()")
        a.tpc_prepare()
        with elsewhere(pid):
            a.tpc_commit()
            same(one(a, sql.SQL("select count(*) from {}").format(t)), 1)


# --- prepared statements ------------------------------------------------------------------------------------------


@case("a prepared statement works on whichever server comes next")
def _():
    with connect(prepare_threshold=0) as a:
        query = "select pg_backend_pid(), %s::int + %s::int"
        seen = set()
        for round_number in range(6):
            pid = 0 if not seen else last
            with elsewhere(pid):
                last, total = a.execute(query, [round_number, 1]).fetchone()
                same(total, round_number + 1)
                seen.add(last)
        return f"{len(seen)} servers"


@case("many clients prepare the same statements under the same names and each gets its own answers")
def _():
    def client(number: int) -> None:
        with connect(prepare_threshold=1) as a:
            for round_number in range(15):
                same(one(a, "select %s::int * 1000 + %s::int", number, round_number), number * 1000 + round_number)
                same(one(a, "select %s::text || '!'", f"client {number}"), f"client {number}!")

    all_at_once(client, 12)


@case("clients whose statements have one name and different texts are not confused")
def _():
    # psycopg names its statements _pg3_0, _pg3_1, ... on every connection.
    def client(number: int) -> None:
        with connect(prepare_threshold=0) as a:
            for _ in range(15):
                same(one(a, f"select {number} + %s::int", 1), number + 1)

    all_at_once(client, 12)


@case("statements that the driver evicts with DEALLOCATE or Close are gone, the others stay")
def _():
    with connect(prepare_threshold=0) as a, connect(prepare_threshold=0) as b:
        a.prepared_max = 3
        same(one(b, "select 0 + %s::int", 5), 5)
        for round_number in range(3):
            for statement in range(8):
                same(one(a, f"select {statement} + %s::int", round_number), statement + round_number)
        same(one(b, "select 0 + %s::int", 7), 7)
        names = [name for (name,) in a.execute("select name from pg_prepared_statements", prepare=False)]
        if any(name.startswith("_pg3_") for name in names):
            assert len(names) <= 4, f"{len(names)} statements are left: {names}"


@case("one text with different parameter types is different statements")
def _():
    with connect(prepare_threshold=0) as a:
        for _ in range(3):
            same(one(a, "select pg_typeof(%s)::text", 1), "smallint")
            same(one(a, "select pg_typeof(%s)::text", 1 << 40), "bigint")
            same(one(a, "select pg_typeof(%s)::text", datetime.date(2024, 2, 29)), "date")


@case("a statement that fails to parse is not remembered")
def _():
    with connect(prepare_threshold=0) as a:
        name = f"{SCHEMA}.{marker()}"
        for _ in range(2):
            with fails_with("42P01"):
                a.execute(f"select n from {name} where n = %s", [1])
        a.execute(f"create table {name} (n int)")
        same(a.execute(f"select n from {name} where n = %s", [1]).fetchall(), [])


@case("a prepared statement whose result type changes is healed")
def _():
    with connect(prepare_threshold=0) as a, connect() as b:
        t = table(b, "n int")
        b.execute(sql.SQL("insert into {} values (1)").format(t))
        query = sql.SQL("select * from {} where true or %s").format(t)
        same(a.execute(query, [True]).fetchone(), (1,))
        b.execute(sql.SQL("alter table {} add column word text default 'two'").format(t))
        try:
            same(a.execute(query, [True]).fetchone(), (1, "two"))
            return "at once"
        except psycopg.errors.FeatureNotSupported:
            a.execute("deallocate all")
            same(a.execute(query, [True]).fetchone(), (1, "two"))
            return "after 0A000 and DEALLOCATE ALL, as without a pooler"


@case("prepared statements are made anew after DISCARD ALL and after DEALLOCATE ALL")
def _():
    with connect(prepare_threshold=0) as a, connect(prepare_threshold=0) as b:
        for forget in ("deallocate all", "discard all"):
            same(one(a, "select %s::int", 1), 1)
            same(one(b, "select %s::int", 2), 2)
            a.execute(forget)
            same(one(a, "select %s::int", 3), 3)
            same(one(b, "select %s::int", 4), 4)


@case("a statement prepared by SQL belongs to the client that prepared it", refusable=True)
def _():
    with connect() as a, connect() as b:
        a.execute("prepare mine (int) as select $1 + 1")
        same(one(a, "execute mine (1)"), 2)
        with fails_with("26000", "0A000"):
            b.execute("execute mine (1)")
        b.execute("prepare mine (int) as select $1 + 100")
        for number in range(5):
            same(one(a, f"execute mine ({number})"), number + 1)
            same(one(b, f"execute mine ({number})"), number + 100)
        a.execute("deallocate mine")
        with fails_with("26000"):
            a.execute("execute mine (1)")
        same(one(b, "execute mine (0)"), 100)


# --- pipelines ----------------------------------------------------------------------------------------------------


@case("a pipeline of a thousand statements answers in order")
def _():
    with connect(prepare_threshold=0) as a:
        if not psycopg.Pipeline.is_supported():
            return "skipped: this libpq has no pipeline mode"
        with a.pipeline():
            cursors = [a.execute("select %s::int", [number]) for number in range(1000)]
            same([cursor.fetchone()[0] for cursor in cursors], list(range(1000)))


@case("pipelines of many clients are not mixed")
def _():
    def client(number: int) -> None:
        with connect(prepare_threshold=0) as a:
            for _ in range(3):
                with a.pipeline() as pipeline:
                    cursors = []
                    for statement in range(40):
                        cursors.append(a.execute("select %s::int", [number * 100 + statement]))
                        if statement % 7 == 0:
                            pipeline.sync()
                    found = [cursor.fetchone()[0] for cursor in cursors]
                same(found, [number * 100 + statement for statement in range(40)])

    all_at_once(client, 10)


@case("an error in a pipeline skips to the next Sync and the connection lives on")
def _():
    with connect() as a:
        t = table(a, "n int primary key")
        insert = sql.SQL("insert into {} values (%s)").format(t)
        with fails_with("23505"), a.pipeline() as pipeline:
            a.execute(insert, [1])
            pipeline.sync()
            a.execute(insert, [2])
            a.execute(insert, [1])
            a.execute(insert, [3])
            pipeline.sync()
        same(a.execute(sql.SQL("select n from {} order by 1").format(t)).fetchall(), [(1,)])
        with a.pipeline():
            a.execute(insert, [4])
        same(one(a, sql.SQL("select max(n) from {}").format(t)), 4)


@case("a statement that is prepared in a failed pipeline works afterwards")
def _():
    with connect(prepare_threshold=0) as a:
        for _ in range(3):
            with fails_with("22012"), a.pipeline():
                a.execute("select 1 / %s::int", [0])
                a.execute("select 'skipped' || %s::text", ["once"])
            same(one(a, "select 'skipped' || %s::text", "twice"), "skippedtwice")


@case("executemany in a transaction writes all or nothing")
def _():
    with connect() as a:
        t = table(a, "n int primary key, word text")
        insert = sql.SQL("insert into {} values (%s, %s)").format(t)
        a.cursor().executemany(insert, [(number, f"word {number}") for number in range(2000)])
        with fails_with("23505"), a.transaction():
            a.cursor().executemany(insert, [(number, None) for number in (5000, 5001, 7)])
        same(one(a, sql.SQL("select count(*) from {}").format(t)), 2000)
        returning = a.cursor()
        returning.executemany("select %s::int", [(number,) for number in range(50)], returning=True)
        found = [returning.fetchone()[0]]
        while returning.nextset():
            found.append(returning.fetchone()[0])
        same(found, list(range(50)))


# --- copy ---------------------------------------------------------------------------------------------------------


@case("COPY in and out, as text and as binary, carries every row")
def _():
    with connect() as a:
        t = table(a, "n int, word text")
        rows = [(number, None if number % 10 == 0 else f"täg\t\n\\ {number}") for number in range(20_000)]
        with a.cursor().copy(sql.SQL("copy {} from stdin").format(t)) as copy:
            for row in rows:
                copy.write_row(row)
        with a.cursor().copy(sql.SQL("copy {} to stdout").format(t)) as copy:
            copy.set_types(["int4", "text"])
            same(list(copy.rows()), rows)
        with a.cursor().copy(sql.SQL("copy {} from stdin (format binary)").format(t)) as copy:
            copy.set_types(["int4", "text"])
            for row in rows:
                copy.write_row(row)
        same(one(a, sql.SQL("select count(*) from {}").format(t)), 2 * len(rows))
        with a.cursor().copy(sql.SQL("copy {} to stdout (format binary)").format(t)) as copy:
            copy.set_types(["int4", "text"])
            same(sum(1 for _ in copy.rows()), 2 * len(rows))


@case("a COPY that the client gives up or the server refuses leaves nothing and the connection usable")
def _():
    with connect() as a:
        t = table(a, "n int")
        into = sql.SQL("copy {} from stdin").format(t)
        with fails_with("57014"), a.cursor().copy(into) as copy:
            copy.write_row((1,))
            raise psycopg.errors.QueryCanceled("the client has second thoughts")
        same(one(a, sql.SQL("select count(*) from {}").format(t)), 0)
        with fails_with("22P02"), a.cursor().copy(into) as copy:
            copy.write("not a number\n" + "1\n" * 200_000)
        same(one(a, sql.SQL("select count(*) from {}").format(t)), 0)
        # psycopg cancels a COPY that it leaves by an exception before the end.
        with suppress(KeyError), a.cursor().copy("copy (select generate_series(1, 10000000)) to stdout") as copy:
            copy.read()
            raise KeyError("the client has read enough")
        same(one(a, "select 1"), 1)


# --- errors -------------------------------------------------------------------------------------------------------


@case("errors come with their SQLSTATE and the connection is usable after each")
def _():
    with connect() as a, connect(prepare_threshold=0) as b:
        t = table(a, "n int primary key check (n > 0), word text not null")
        insert = sql.SQL("insert into {} values (%s, %s)").format(t)
        a.execute(insert, [1, "one"])
        for connection in (a, b):
            for sqlstate, query, parameters in [
                ("42601", "selec 1", None),
                ("22012", "select 1 / 0", None),
                ("22012", "select 1 / %s::int", [0]),
                ("42703", "select no_such_column", None),
                ("22P02", "select %s::int", ["x"]),
                ("23505", insert, [1, "again"]),
                ("23514", insert, [-1, "negative"]),
                ("23502", insert, [2, None]),
            ]:
                with fails_with(sqlstate):
                    connection.execute(query, parameters)
                same(one(connection, "select 1"), 1)
        try:
            a.execute(insert, [-1, "negative"])
        except psycopg.errors.CheckViolation as error:
            same(error.diag.schema_name, SCHEMA, "schema in the error")
            assert error.diag.constraint_name and error.diag.message_detail, "fields of the error are missing"


@case("an error inside a transaction fails the rest until ROLLBACK")
def _():
    with connect(autocommit=False) as a:
        with fails_with("22012"):
            a.execute("select 1 / 0")
        with fails_with("25P02"):
            a.execute("select 1")
        same(a.info.transaction_status, psycopg.pq.TransactionStatus.INERROR)
        a.rollback()
        same(one(a, "select 1"), 1)
        a.rollback()


@case("several statements in one query are one transaction and their notices arrive")
def _():
    with connect() as a:
        t = table(a, "n int")
        notices = []
        a.add_notice_handler(lambda diagnostic: notices.append(diagnostic.message_primary))
        name = t.as_string(a)
        with fails_with("22012"):
            a.execute(f"insert into {name} values (1); select 1 / 0")
        a.execute(f"insert into {name} values (2); do $$ begin raise notice 'hear'; end $$; insert into {name} values (3)")
        same(one(a, f"select sum(n)::int from {name}"), 5)
        same(notices, ["hear"])
        a.execute("")
        same(one(a, "select 1"), 1)


# --- cancel -------------------------------------------------------------------------------------------------------


def _is_cancelled(connect_options: dict, cancel) -> None:
    with connect(**connect_options) as a:
        for _ in range(3):
            word = marker()

            def canceller(word=word) -> None:
                wait_until_running(word)
                cancel(a)

            thread = threading.Thread(target=canceller)
            thread.start()
            with fails_with("57014"):
                a.execute(f"select pg_sleep(30) /* {word} */")
            thread.join()
            same(one(a, "select 1"), 1)


@case("cancel() stops the running query and the connection is usable")
def _():
    _is_cancelled({}, lambda connection: connection.cancel())


@case("cancel_safe() stops the running query and the connection is usable")
def _():
    _is_cancelled({"prepare_threshold": 0}, lambda connection: connection.cancel_safe(timeout=5))


@case("a cancel that comes too late harms nobody")
def _():
    def client(number: int) -> None:
        with connect() as a:
            for round_number in range(10):
                if number % 2:
                    # Nobody cancels these.
                    same(one(a, "select %s::int + count(*) from generate_series(1, 5000)", round_number), 5000 + round_number)
                    continue
                with suppress(psycopg.errors.QueryCanceled):  # the one before may arrive in this round
                    same(one(a, "select %s::int", number), number)
                a.cancel_safe(timeout=5)

    all_at_once(client, 8)


@case("statement_timeout cancels, and is the client's own")
def _():
    with connect() as a, connect() as b:
        usual = one(b, "show statement_timeout")
        a.execute("set statement_timeout = '50ms'")
        with fails_with("57014"):
            a.execute("select pg_sleep(30)")
        same(one(b, "show statement_timeout"), usual)
        same(b.execute("select pg_sleep(0.1)").rowcount, 1)
        same(one(a, "show statement_timeout"), "50ms")


@case("a task that is cancelled in asyncio cancels its query")
async def _():
    a = await psycopg.AsyncConnection.connect(DATABASE_URL, autocommit=True)
    async with a:
        word = marker()
        task = asyncio.create_task(a.execute(f"select pg_sleep(30) /* {word} */"))
        await asyncio.to_thread(wait_until_running, word)
        task.cancel()
        try:
            await task
        except (asyncio.CancelledError, psycopg.errors.QueryCanceled):
            pass
        else:
            raise AssertionError("the query was not cancelled")
        same(await (await a.execute("select 1")).fetchone(), (1,))


# --- large --------------------------------------------------------------------------------------------------------


@case("a million rows stream through a server-side cursor")
def _():
    with connect(autocommit=False) as a, a.cursor(name="many") as cursor:
        cursor.itersize = 20_000
        cursor.execute("select n, n %% 7 from generate_series(1, %s) n", [MILLION])
        same(sum(row[0] for row in cursor), MILLION * (MILLION + 1) // 2)


@case("rows stream in single-row mode, and the rest may be left unread")
def _():
    with connect() as a:
        same(sum(row[0] for row in a.cursor().stream("select generate_series(1, 100000)")), 5_000_050_000)
        stream = a.cursor().stream("select generate_series(1, 1000000)")
        same(next(stream), (1,))
        stream.close()
        same(one(a, "select 1"), 1)


@case("one value of 50 MB comes and goes", deadline=30)
def _():
    with connect() as a:
        same(len(one(a, "select repeat('x', %s)", LARGE)), LARGE)
        same(one(a, "select length(%s::bytea)", b"\x00" * LARGE), LARGE)
        same(one(a, "select 1"), 1)


# --- values -------------------------------------------------------------------------------------------------------


@case("values of many types go there and back, in text and in binary")
def _():
    values = [
        True,
        -(1 << 15),
        (1 << 63) - 1,
        10**30,
        1.5,
        decimal.Decimal("-12345678901234567890.000000001"),
        "Grüße, 世界 🐘 'quoted' \"double\" \\ $1 -- %",
        "",
        b"\x00\xff\\x",
        datetime.date(2024, 2, 29),
        datetime.time(23, 59, 59, 999999),
        datetime.datetime(2024, 2, 29, 12, 0, 0, 1),
        datetime.timedelta(days=-3, seconds=7),
        uuid.UUID(int=7),
        ipaddress.ip_address("2001:db8::1"),
        [1, 2, None, 4],
        [["a", "b"], ["c", 'd"e,{}']],
        Range(1, 10),
        None,
    ]
    casts = [
        "bool", "int2", "int8", "numeric", "float8", "numeric", "text", "text", "bytea", "date", "time", "timestamp", "interval", "uuid", "inet",
        "int4[]", "text[]", "int4range", "text",
    ]  # fmt: skip
    with connect(prepare_threshold=0) as a:
        for binary in (False, True, False):
            for value, cast in zip(values, casts, strict=True):
                found = a.execute(f"select %s::{cast}", [value], binary=binary).fetchone()[0]
                same(found, value, cast)
        same(one(a, "select %s", Jsonb({"ключ": [1, None, "🐘"]})), {"ключ": [1, None, "🐘"]})
        same(a.execute("select", prepare=True).description, [])


@case("a statement takes two thousand parameters")
def _():
    with connect(prepare_threshold=0) as a:
        marks = ", ".join(["%s::int"] * 2000)
        same(a.execute(f"select array[{marks}]", range(2000)).fetchone()[0], list(range(2000)))


# --- many clients -------------------------------------------------------------------------------------------------


@case("fifty clients over the same servers each get their own rows")
def _():
    def client(number: int) -> None:
        own = f"client {number} {marker()}"
        with connect(prepare_threshold=1) as a:
            for round_number in range(10):
                same(one(a, "select %s::text", own), own)
                with a.transaction():
                    a.execute("select set_config('drivers.own', %s, true)", [own])
                    same(one(a, "select current_setting('drivers.own')"), own)
                if round_number % 4 == 0:
                    with fails_with("22P02"):
                        a.execute("select %s::text::int", [own])

    all_at_once(client, CLIENTS)


@case("clients that come and go in the middle of their work disturb nobody")
def _():
    def client(number: int) -> None:
        for _ in range(5):
            a = connect(autocommit=False)
            same(one(a, "select %s::int", number), number)
            match number % 4:
                case 0:
                    a.execute("select set_config('statement_timeout', '1ms', true)")
                case 1:
                    a.execute("declare c cursor for select 1")
                case 2:
                    a.commit()
                case _:
                    with fails_with("22012"):
                        a.execute("select 1 / 0")
            a.close()

    with connect() as observer:
        usual = one(observer, "show statement_timeout")
        all_at_once(client, 12)
        for _ in range(10):
            same(one(observer, "show statement_timeout"), usual)
            with observer.transaction():
                same(one(observer, "select count(*) from pg_cursors where name = 'c'"), 0)


# --- the session's state ------------------------------------------------------------------------------------------


@case("settings follow their client while others use the same servers")
def _():
    zones = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Tokyo", "Pacific/Auckland"]

    def client(number: int) -> None:
        own = {
            "timezone": zones[number % len(zones)],
            "search_path": f"own_{number}, pg_catalog",
            "application_name": f"client {number}",
            "statement_timeout": f"{100 + number}s",
            "datestyle": ("ISO, MDY", "German, DMY", "SQL, MDY")[number % 3],
            "app.current_user_id": str(uuid.UUID(int=number + 1)),
        }
        with connect() as a:
            for name, value in own.items():
                text = value if name == "search_path" else f"'{value}'"
                a.execute(f"set {name} = {text}")
            for _ in range(8):
                for name, value in own.items():
                    same(one(a, f"show {name}"), value, name)
            same(a.info.parameter_status("TimeZone"), own["timezone"], "reported TimeZone")
            same(a.info.parameter_status("application_name"), own["application_name"], "reported application_name")

    all_at_once(client, 15)


@case("a client that changes no setting sees the usual ones after others have")
def _():
    names = ["timezone", "search_path", "statement_timeout", "datestyle", "lock_timeout", "work_mem"]
    with connect() as a, connect() as b:
        usual = {name: one(b, f"show {name}") for name in names}
        for statement in (
            "set timezone = 'Asia/Kolkata'",
            "set search_path = elsewhere",
            "set statement_timeout = '77s'",
            "set datestyle = 'German'",
            "set lock_timeout = '78s'",
            "set work_mem = '5MB'",
        ):
            a.execute(statement)
            pid = one(a, "select pg_backend_pid()")
            same({name: one(b, f"show {name}") for name in names}, usual)
        with elsewhere(pid):
            same(one(a, "show work_mem"), "5MB")
            same(one(a, "show lock_timeout"), "78s")


@case("a setting that is rolled back was never made, and SET LOCAL ends with its transaction")
def _():
    with connect() as a:
        usual = one(a, "show timezone")
        a.execute("begin; set timezone = 'Asia/Tokyo'; rollback")
        same(one(a, "show timezone"), usual)
        with a.transaction():
            a.execute("set local timezone = 'Asia/Tokyo'")
            same(one(a, "show timezone"), "Asia/Tokyo")
        same(one(a, "show timezone"), usual)
        with a.transaction():
            a.execute("set timezone = 'Asia/Tokyo'")
        same(one(a, "show timezone"), "Asia/Tokyo")


@case("RESET, RESET ALL and DISCARD ALL bring a client's own defaults back")
def _():
    with connect(options="-c statement_timeout=71s", application_name="at the start") as a, connect() as b:
        for reset in ("reset statement_timeout", "reset all", "discard all"):
            a.execute("set statement_timeout = '5s'")
            same(one(a, "show statement_timeout"), "5s")
            a.execute(reset)
            same(one(a, "show statement_timeout"), "71s", f"statement_timeout after {reset}")
            same(one(a, "show application_name"), "at the start")
        assert one(b, "show statement_timeout") != "71s", "the option of one client reached another"


@case("a startup option follows its client from server to server")
def _():
    own = uuid.uuid4()
    with connect(options=f"-c statement_timeout=72s -c search_path=a\\ ,pg_catalog --lock-timeout=73s -capp.current_user_id={own}") as a:
        pid = one(a, "select pg_backend_pid()")
        with elsewhere(pid):
            same(one(a, "show statement_timeout"), "72s")
            same(one(a, "show search_path"), "a ,pg_catalog")
            same(one(a, "show lock_timeout"), "73s")
            same(one(a, "show app.current_user_id"), str(own))


@case("a temporary table is its client's own and goes with it", refusable=True)
def _():
    name = marker()
    with connect() as b:
        with connect() as a:
            a.execute(f"create temp table {name} (n int)")
            a.execute(f"insert into {name} values (1)")
            for _ in range(5):
                same(one(a, f"select count(*) from {name}"), 1)
                same(one(b, "select to_regclass(%s) is null", name), True, "hidden from another client")
        for _ in range(5):
            same(one(b, "select to_regclass(%s) is null", name), True, "gone with its client")


@case("LISTEN hears what another client says", refusable=True)
def _():
    channel = marker()
    with connect() as b, connect() as a:
        a.execute(f"listen {channel}")
        for number in range(3):
            b.execute("select pg_notify(%s, %s)", [channel, f"word {number}"])
        heard = [note.payload for note in a.notifies(timeout=10, stop_after=3)]
        same(heard, ["word 0", "word 1", "word 2"])
        same(one(a, "select 1"), 1)
        a.execute("unlisten *")


@case("nobody hears a channel that only an earlier client listened to", refusable=True)
def _():
    channel = marker()
    with connect() as a:
        a.execute(f"listen {channel}")
    with connect() as b:
        for _ in range(4):
            b.execute("select pg_notify(%s, 'anyone')", [channel])
            same(one(b, "select count(*) from pg_listening_channels()"), 0)
        same(list(b.notifies(timeout=0)), [])


@case("a WITH HOLD cursor stays with its client", refusable=True)
def _():
    with connect() as b:
        with connect() as a:
            a.execute("declare held cursor with hold for select generate_series(1, 10)")
            same(a.execute("fetch 3 from held").fetchall(), [(1,), (2,), (3,)])
            with fails_with("34000"):
                b.execute("fetch 1 from held")
            same(a.execute("fetch 2 from held").fetchall(), [(4,), (5,)])
        with fails_with("34000"):
            b.execute("fetch 1 from held")


@case("SET ROLE, lastval and DISCARD do not reach another client", refusable=True)
def _():
    with connect() as b:
        usual = one(b, "select current_user")
        with connect() as a:
            t = table(a, "n serial")
            a.execute(sql.SQL("insert into {} default values").format(t))
            a.execute("set role none")
            a.execute("set session characteristics as transaction read only")
        for _ in range(4):
            same(one(b, "select current_user"), usual)
            same(one(b, "show transaction_read_only"), "off")


run_all()
