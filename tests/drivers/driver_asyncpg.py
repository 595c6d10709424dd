"""asyncpg: the extended protocol in binary, its cache of named statements, COPY, cursors, timeouts, its own pool."""

import asyncio
import datetime
import decimal
import functools
import io
import ipaddress
import uuid
from contextlib import asynccontextmanager

import asyncpg

from cases import DATABASE_URL
from cases import SCHEMA
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


@asynccontextmanager
async def connect(**options):
    connection = await asyncpg.connect(DATABASE_URL, **options)
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


async def table(connection: asyncpg.Connection, columns: str) -> str:
    """Creates a table that no other case uses."""
    name = marker()
    await connection.execute(f"create table {SCHEMA}.{name} ({columns})")
    return name


async def all_of(client, count: int) -> list:
    """Runs client(0) to client(count - 1) at once."""
    return await asyncio.gather(*(client(number) for number in range(count)))


@asynccontextmanager
async def moved(pid: int):
    """`elsewhere`, without stopping the event loop."""
    block = elsewhere(pid)
    await asyncio.to_thread(block.__enter__)
    try:
        yield
    finally:
        await asyncio.to_thread(functools.partial(block.__exit__, None, None, None))


# --- transactions -------------------------------------------------------------------------------------------------


@case("a committed transaction stays and a rolled back one does not")
async def _():
    async with connect() as a, connect() as b:
        t = f"{SCHEMA}.{await table(a, 'n int')}"
        async with a.transaction():
            await a.execute(f"insert into {t} values ($1)", 1)
        with fails_with("22012"):
            async with a.transaction():
                await a.execute(f"insert into {t} values ($1)", 2)
                await a.execute("select 1 / 0")
        same(await b.fetch(f"select n from {t}"), [(1,)])


@case("a savepoint takes back its own part of the transaction only")
async def _():
    async with connect() as a:
        t = f"{SCHEMA}.{await table(a, 'n int primary key')}"
        async with a.transaction():
            await a.execute(f"insert into {t} values ($1)", 1)
            with fails_with("23505"):
                async with a.transaction():
                    await a.execute(f"insert into {t} values ($1)", 2)
                    await a.execute(f"insert into {t} values ($1)", 1)
            await a.execute(f"insert into {t} values ($1)", 3)
        same(await a.fetch(f"select n from {t} order by 1"), [(1,), (3,)])


@case("the isolation level of one client is not another's")
async def _():
    async with connect() as a, connect() as b:
        async with a.transaction(isolation="serializable", readonly=True, deferrable=True):
            same(await a.fetchval("show transaction_isolation"), "serializable")
            same(await b.fetchval("show transaction_isolation"), "read committed")
        same(await a.fetchval("show transaction_isolation"), "read committed")


# --- prepared statements ------------------------------------------------------------------------------------------


@case("a prepared statement works on whichever server comes next")
async def _():
    async with connect() as a:
        explicit = await a.prepare("select pg_backend_pid(), $1::int + 1")
        # asyncpg ends `prepare` with Flush and no Sync: until the first use it may hold its server.
        pid, _ = await explicit.fetchrow(0)
        seen = {pid}
        for number in range(6):
            async with moved(pid):
                pid, answer = await explicit.fetchrow(number)
                same(answer, number + 1)
                same(await a.fetchval("select $1::text || '!'", "cached"), "cached!")
                seen.add(pid)
        return f"{len(seen)} servers"


@case("many clients with the same cached statements each get their own answers")
async def _():
    async def client(number: int) -> None:
        async with connect() as a:
            for round_number in range(15):
                same(await a.fetchval("select $1::int * 1000 + $2::int", number, round_number), number * 1000 + round_number)
                same(await a.fetchval("select $1::text", f"client {number}"), f"client {number}")

    await all_of(client, 20)


@case("clients whose statements have one name and different texts are not confused")
async def _():
    # asyncpg numbers its statements per process: two processes use the same names, and so do these.
    async def client(number: int) -> None:
        async with connect() as a:
            statement = await a.prepare(f"select {number} + $1::int", name="one_name")
            for _ in range(15):
                same(await statement.fetchval(1), number + 1)

    await all_of(client, 20)


@case("statements that the driver evicts are closed, the others stay")
async def _():
    async with connect(statement_cache_size=3) as a, connect() as b:
        for round_number in range(3):
            for statement in range(8):
                same(await a.fetchval(f"select {statement} + $1::int", round_number), statement + round_number)
                same(await b.fetchval(f"select {statement} + $1::int", round_number), statement + round_number)


@case("without a statement cache the unnamed statement is used, between two round trips")
async def _():
    # Parse, Describe and Flush first; Bind and Execute in another round trip, perhaps on another server.
    async def client(number: int) -> None:
        async with connect(statement_cache_size=0) as a:
            for round_number in range(15):
                same(await a.fetchval(f"select {number} * 1000 + $1::int", round_number), number * 1000 + round_number)

    await all_of(client, 12)


@case("a statement that fails to parse is not remembered")
async def _():
    async with connect() as a:
        name = f"{SCHEMA}.{marker()}"
        for _ in range(2):
            with fails_with("42P01"):
                await a.fetch(f"select n from {name} where n = $1", 1)
        await a.execute(f"create table {name} (n int)")
        same(await a.fetch(f"select n from {name} where n = $1", 1), [])


@case("a prepared statement whose result type changes is healed")
async def _():
    async with connect() as a, connect() as b:
        t = f"{SCHEMA}.{await table(b, 'n int')}"
        await b.execute(f"insert into {t} values (1)")
        query = f"select * from {t} where true or $1"
        for column in ("second", "third"):
            await a.fetchrow(query, True)
            await b.execute(f"alter table {t} add column {column} text default '{column}'")
            same((await a.fetchrow(query, True))[column], column)
        await b.execute(f"alter table {t} alter column n type text")
        same((await a.fetchrow(query, True))["n"], "1")
        async with a.transaction():
            await a.fetchrow(query, True)
        await b.execute(f"alter table {t} drop column second")
        try:
            async with a.transaction():
                same(len(await a.fetchrow(query, True)), 2)
            return "at once"
        except (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError):
            same(len(await a.fetchrow(query, True)), 2)
            return "in a transaction after an error, as without a pooler"


@case("prepared statements are made anew after DISCARD ALL and after DEALLOCATE ALL")
async def _():
    async with connect() as a, connect() as b:
        for forget in ("deallocate all", "discard all"):
            explicit = await a.prepare("select $1::int")
            same(await explicit.fetchval(1), 1)
            same(await b.fetchval("select $1::int", 2), 2)
            await a.execute(forget)
            with fails_with("26000"):
                await explicit.fetchval(3)
            await a.reload_schema_state()
            same(await a.fetchval("select $1::int", 4), 4)
            same(await b.fetchval("select $1::int", 5), 5)


@case("types that the driver must look up are looked up, on whichever server")
async def _():
    async with connect() as a:
        mood, pair = f"{SCHEMA}.{marker()}", f"{SCHEMA}.{marker()}"
        await a.execute(f"create type {mood} as enum ('sad', 'happy'); create type {pair} as (m {mood}, n int)")
        same(await a.fetchval(f"select $1::{mood}[]", ["sad", "happy"]), ["sad", "happy"])
        same(await a.fetchval(f"select $1::{pair}", ("happy", 7)), ("happy", 7))


# --- batches and copy ---------------------------------------------------------------------------------------------


@case("executemany writes all or nothing")
async def _():
    async with connect() as a:
        t = f"{SCHEMA}.{await table(a, 'n int primary key, word text')}"
        insert = f"insert into {t} values ($1, $2)"
        await a.executemany(insert, [(number, f"word {number}") for number in range(5000)])
        with fails_with("23505"):
            await a.executemany(insert, [(number, None) for number in (9000, 9001, 7, 9002)])
        same(await a.fetchval(f"select count(*) from {t}"), 5000)
        found = await a.fetchmany("select $1::int + 1", [(number,) for number in range(100)])
        same([row[0] for row in found], list(range(1, 101)))


@case("COPY in and out carries every row")
async def _():
    async with connect() as a:
        name = await table(a, "n int, word text, at timestamptz")
        at = datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC)
        rows = [(number, None if number % 10 == 0 else f"grüßt {number}", at) for number in range(50_000)]
        same(await a.copy_records_to_table(name, schema_name=SCHEMA, records=rows), "COPY 50000")
        out = io.BytesIO()
        await a.copy_from_query(f"select n, word from {SCHEMA}.{name} where n < $1", 1000, output=out, format="csv")
        same(out.getvalue().count(b"\n"), 1000)
        out.seek(0)
        same(await a.copy_to_table(name, schema_name=SCHEMA, columns=["n", "word"], source=out, format="csv"), "COPY 1000")
        out = io.BytesIO()
        await a.copy_from_table(name, schema_name=SCHEMA, output=out, format="binary")
        same(out.getvalue()[:11], b"PGCOPY\n\xff\r\n\0")


@case("a COPY that the client gives up or the server refuses leaves nothing and the connection usable")
async def _():
    async with connect() as a:
        name = await table(a, "n int")

        async def broken():
            yield b"1\n" * 1000
            raise OSError("the file is broken")

        async def refused():
            yield b"not a number\n"
            for _ in range(100):
                yield b"1\n" * 10_000

        try:
            await a.copy_to_table(name, schema_name=SCHEMA, source=broken())
        except (OSError, asyncpg.QueryCanceledError):
            pass
        else:
            raise AssertionError("the COPY should have failed")
        with fails_with("22P02"):
            await a.copy_to_table(name, schema_name=SCHEMA, source=refused())
        same(await a.fetchval(f"select count(*) from {SCHEMA}.{name}"), 0)


# --- errors and cancel --------------------------------------------------------------------------------------------


@case("errors come with their SQLSTATE and the connection is usable after each")
async def _():
    async with connect() as a:
        t = f"{SCHEMA}.{await table(a, 'n int primary key check (n > 0), word text not null')}"
        insert = f"insert into {t} values ($1, $2)"
        await a.execute(insert, 1, "one")
        for sqlstate, query, parameters in [
            ("42601", "selec 1", []),
            ("22012", "select 1 / 0", []),
            ("22012", "select 1 / $1::int", [0]),
            ("42703", "select no_such_column", []),
            ("23505", insert, [1, "again"]),
            ("23514", insert, [-1, "negative"]),
            ("23502", insert, [2, None]),
        ]:
            for _ in range(2):
                with fails_with(sqlstate):
                    await a.execute(query, *parameters)
                same(await a.fetchval("select 1"), 1)


@case("an error inside a transaction fails the rest until ROLLBACK")
async def _():
    async with connect() as a:
        await a.execute("begin")
        with fails_with("22012"):
            await a.fetchval("select 1 / $1::int", 0)
        with fails_with("25P02"):
            await a.fetchval("select 1")
        await a.execute("rollback")
        same(await a.fetchval("select 1"), 1)


@case("a task that is cancelled cancels its query")
async def _():
    async with connect() as a:
        for _ in range(3):
            word = marker()
            task = asyncio.create_task(a.execute(f"select pg_sleep(30) /* {word} */"))
            await asyncio.to_thread(wait_until_running, word)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                pass
            same(await a.fetchval("select 1"), 1)


@case("a timeout of the driver cancels its query")
async def _():
    async with connect() as a:
        for _ in range(3):
            try:
                await a.fetchval("select pg_sleep(30)", timeout=0.1)
            except TimeoutError:
                pass
            else:
                raise AssertionError("should have run into the timeout")
            same(await a.fetchval("select $1::int", 1), 1)


@case("a storm of timeouts never cancels anybody else's query")
async def _():
    async def hurried(number: int) -> None:
        async with connect() as a:
            for _ in range(3):
                try:
                    # asyncpg closes a connection whose cancel has not gone through when the next timeout strikes.
                    await a.fetchval("select pg_sleep(30)", timeout=1)
                except TimeoutError:
                    pass

    async def patient(number: int) -> None:
        async with connect() as a:
            for round_number in range(40):
                found = await a.fetchval("select $1::int + count(*) from generate_series(1, 1000)", number)
                same(found, number + 1000)

    await asyncio.gather(*(hurried(number) if number % 3 == 0 else patient(number) for number in range(9)))


# --- large --------------------------------------------------------------------------------------------------------


@case("a million rows stream through a cursor")
async def _():
    async with connect() as a, a.transaction():
        total = 0
        async for row in a.cursor("select n, n % 7 from generate_series(1, $1) n", MILLION, prefetch=20_000):
            total += row[0]
        same(total, MILLION * (MILLION + 1) // 2)


@case("a portal is read a few rows at a time between other statements")
async def _():
    async with connect() as a, connect() as b, a.transaction():
        cursor = await a.cursor("select generate_series(1, $1::int)", 1000)
        same([row[0] for row in await cursor.fetch(3)], [1, 2, 3])
        same(await a.fetchval("select 'between'"), "between")
        same(await b.fetchval("select 'beside'"), "beside")
        same(await cursor.forward(10), 10)
        same((await cursor.fetchrow())[0], 14)


@case("one value of 50 MB comes and goes", deadline=30)
async def _():
    async with connect() as a:
        same(len(await a.fetchval("select repeat('x', $1)", LARGE)), LARGE)
        same(await a.fetchval("select length($1::bytea)", b"\x00" * LARGE), LARGE)
        same(await a.fetchval("select 1"), 1)


@case("values of many types go there and back")
async def _():
    async with connect() as a:
        for value, cast in [
            (True, "bool"),
            (-(1 << 15), "int2"),
            ((1 << 63) - 1, "int8"),
            (1.5, "float8"),
            (decimal.Decimal("-12345678901234567890.000000001"), "numeric"),
            ("Grüße, 世界 🐘 'quoted' \\ $1 -- %", "text"),
            ("", "text"),
            (b"\x00\xff\\x", "bytea"),
            (datetime.date(2024, 2, 29), "date"),
            (datetime.datetime(2024, 2, 29, 12, 0, 0, 1, datetime.UTC), "timestamptz"),
            (datetime.timedelta(days=-3, seconds=7), "interval"),
            (uuid.UUID(int=7), "uuid"),
            (ipaddress.ip_address("2001:db8::1"), "inet"),
            ([[1, 2], [3, None]], "int4[]"),
            (asyncpg.Range(1, 10), "int4range"),
            ('{"ключ": "🐘"}', "jsonb"),
            (None, "text"),
        ]:
            same(await a.fetchval(f"select $1::{cast}", value), value, cast)


# --- many clients and the session's state -------------------------------------------------------------------------


@case("fifty clients over the same servers each get their own rows")
async def _():
    async def client(number: int) -> None:
        own = f"client {number} {marker()}"
        async with connect() as a:
            for round_number in range(10):
                same(await a.fetchval("select $1::text", own), own)
                async with a.transaction():
                    await a.execute("select set_config('drivers.own', $1, true)", own)
                    same(await a.fetchval("select current_setting('drivers.own')"), own)
                if round_number % 4 == 0:
                    with fails_with("22P02"):
                        await a.fetchval("select $1::text::int", own)

    await all_of(client, CLIENTS)


@case("asyncpg's own pool works, with its reset after each use")
async def _():
    async with asyncpg.create_pool(DATABASE_URL, min_size=2, max_size=10) as pool:

        async def client(number: int) -> None:
            async with pool.acquire() as a:
                usual = await a.fetchval("show statement_timeout")
                await a.execute("set statement_timeout = '33s'")
                same(await a.fetchval("show statement_timeout"), "33s")
            async with pool.acquire() as a:
                same(await a.fetchval("show statement_timeout"), usual)
                same(await a.fetchval("select $1::int", number), number)

        await all_of(client, 40)


@case("settings follow their client while others use the same servers")
async def _():
    zones = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Tokyo"]

    async def client(number: int) -> None:
        own = {
            "timezone": zones[number % len(zones)],
            "application_name": f"client {number}",
            "statement_timeout": f"{100 + number}s",
            "search_path": f"own_{number}",
            "app.current_user_id": str(uuid.UUID(int=number + 1)),
        }
        at_start = {"application_name": "at the start", "jit": "off"}
        async with connect(server_settings=at_start) as a:
            for name, value in own.items():
                await a.execute(f"set {name} to '{value}'")
            for _ in range(8):
                for name, value in own.items():
                    same(await a.fetchval(f"select current_setting('{name}')"), value, name)
                same(await a.fetchval("show jit"), "off")
            await a.execute("reset application_name")
            same(await a.fetchval("show application_name"), "at the start")

    await all_of(client, 20)


@case("LISTEN hears what another client says", refusable=True)
async def _():
    channel = marker()
    async with connect() as b, connect() as a:
        heard: asyncio.Queue[str] = asyncio.Queue()
        await a.add_listener(channel, lambda _connection, _pid, _channel, payload: heard.put_nowait(payload))
        for number in range(3):
            await b.execute("select pg_notify($1, $2)", channel, f"word {number}")
        same([await asyncio.wait_for(heard.get(), 10) for _ in range(3)], ["word 0", "word 1", "word 2"])
        same(await a.fetchval("select 1"), 1)


@case("temporary tables and advisory locks stay with their client and go with it", refusable=True)
async def _():
    name, key = marker(), uuid.uuid4().int % (1 << 60)
    async with connect() as b:
        async with connect() as a:
            await a.execute(f"create temp table {name} as select 1 as n")
            await a.execute("select pg_advisory_lock($1)", key)
            for _ in range(5):
                same(await a.fetchval(f"select n from {name}"), 1)
                same(await b.fetchval("select to_regclass($1) is null", name), True)
                same(await b.fetchval("select pg_try_advisory_xact_lock($1)", key), False)
            same(await a.fetchval("select pg_advisory_unlock($1)", key), True)
        for _ in range(5):
            same(await b.fetchval("select to_regclass($1) is null", name), True)
            same(await b.fetchval("select pg_try_advisory_xact_lock($1)", key), True)


run_all()
