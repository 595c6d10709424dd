"""The console through drivers as they are: psycopg 3, psycopg2, asyncpg.

Each shows a table in the protocols it has, prepared, in binary and some rows at a time. DATABASE_URL is the console's.
"""

import asyncio
import os
from decimal import Decimal

import asyncpg
import psycopg
import psycopg2

URL = os.environ["DATABASE_URL"]
LISTS = 14


def with_psycopg() -> None:
    with psycopg.connect(URL) as connection:
        [pool] = connection.execute("SHOW POOLS", binary=True).fetchall()
        assert isinstance(pool[2], int) and pool[15] == "transaction" and pool[16] is None, pool
        [stats] = connection.execute("SHOW STATS", prepare=True, binary=True).fetchall()
        assert isinstance(stats[2], Decimal), stats
        assert len(connection.execute("SHOW LISTS;").fetchall()) == LISTS


def with_psycopg2() -> None:
    connection = psycopg2.connect(URL)
    with connection, connection.cursor() as cursor:
        cursor.execute("SHOW LISTS")
        assert len(cursor.fetchall()) == LISTS
    connection.close()


async def with_asyncpg() -> None:
    connection = await asyncpg.connect(URL)
    statement = await connection.prepare("SHOW LISTS")
    for _ in range(2):
        assert len(await statement.fetch()) == LISTS
    assert isinstance(await connection.fetchval("SHOW POOLS", column=2), int)
    async with connection.transaction():
        rows = [row["list"] async for row in connection.cursor("SHOW LISTS", prefetch=5)]
    assert len(rows) == LISTS and rows[0] == "databases", rows
    assert (await connection.fetch("SHOW LISTS"))[0]["items"] >= 1
    try:
        await connection.fetch("SHOW NOTHING")
    except asyncpg.PostgresSyntaxError as error:
        assert "SHOW HELP" in str(error), error
    else:
        raise AssertionError("it knows SHOW NOTHING")
    assert await connection.fetchval("SHOW VERSION") == "PgBouncer 1.25.2"
    await connection.close()


with_psycopg()
with_psycopg2()
asyncio.run(with_asyncpg())
