"""psycopg 3: say who the user is when connecting, or on a connection that serves one user after the other."""

from concurrent.futures import ThreadPoolExecutor

import psycopg

from users import REQUESTS
from users import URL
from users import check


def connected_as(user: str) -> list[str]:
    with psycopg.connect(URL, options=f"-c app.current_user_id={user}") as connection:
        return [plan for (plan,) in connection.execute("select plan from billing.subscriptions")]


def on_a_connection_of_all(connection: psycopg.Connection, user: str) -> list[str]:
    # On its own and outside a transaction: it holds until the next one.
    connection.autocommit = True
    connection.execute("select set_config('app.current_user_id', %s, false)", [user])
    return [plan for (plan,) in connection.execute("select plan from billing.subscriptions")]


with ThreadPoolExecutor(8) as threads:
    check(list(zip(REQUESTS, threads.map(connected_as, REQUESTS))))
with psycopg.connect(URL) as shared:
    check([(user, on_a_connection_of_all(shared, user)) for user in REQUESTS])
