"""asyncpg: the pool says who the user is whenever a connection is taken from it."""

import asyncio
from contextvars import ContextVar

import asyncpg

from users import REQUESTS
from users import URL
from users import check

current_user: ContextVar[str] = ContextVar("current_user")


async def say_who(connection: asyncpg.Connection) -> None:
    await connection.execute("select set_config('app.current_user_id', $1, false)", current_user.get())


async def request(pool: asyncpg.Pool, user: str) -> tuple[str, list[str]]:
    current_user.set(user)
    rows = await pool.fetch("select plan from billing.subscriptions")
    return user, [row["plan"] for row in rows]


async def main() -> None:
    async with asyncpg.create_pool(URL, min_size=1, max_size=8, setup=say_who) as pool:
        check(await asyncio.gather(*(request(pool, user) for user in REQUESTS)))


asyncio.run(main())
