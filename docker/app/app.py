"""A service whose users see only their own rows, because PostgreSQL sees to it.

It keeps connections and uses whichever is free for whoever asks, as applications do, and says who its user is before it queries. With a
pooler that shares servers between transactions that would be somebody else's identity sooner or later; with pgusher it is not.

    DATABASE_URL   where pgusher is
    LISTEN         address and port, 127.0.0.1:8000 if not set

    GET /me        the user in the header X-User, as the database shows it; 401 without one
    GET /health    200 if one can log in
"""

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, LifoQueue

import psycopg
from psycopg.rows import dict_row

IDLE = LifoQueue()


def connect() -> psycopg.Connection:
    return psycopg.connect(os.environ["DATABASE_URL"], autocommit=True, row_factory=dict_row)


def twice(work):
    """A pooler that drains, or a primary that is demoted, ends connections: whoever tries again is served."""
    try:
        return once(work, IDLE.get_nowait())
    except (Empty, psycopg.OperationalError):
        return once(work, connect())


def once(work, database: psycopg.Connection):
    try:
        return work(database)
    finally:
        if not (database.closed or database.broken):
            IDLE.put(database)


def me(user: str):
    def work(database: psycopg.Connection):
        # Answered by pgusher itself, and sent along with the next statement.
        database.execute("select set_config('app.current_user_id', %s, false)", [user])
        users = database.execute("select id::text, email, full_name from users.users").fetchall()
        plans = database.execute("select plan, status from billing.subscriptions order by plan").fetchall()
        return {"users": users, "subscriptions": plans}

    return twice(work)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        try:
            self.answer(*self.route())
        except psycopg.Error as error:
            self.answer(503, {"error": str(error).strip(), "sqlstate": error.sqlstate})

    def route(self):
        if self.path == "/health":
            connect().close()
            return 200, {"status": "ok"}
        if self.path != "/me":
            return 404, {"error": "there is only /me"}
        user = self.headers.get("X-User", "")
        if not user:
            return 401, {"error": "say who you are: X-User"}
        return 200, me(user)

    def answer(self, status: int, body: dict):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format, *arguments):
        pass


def main():
    host, port = os.environ.get("LISTEN", "127.0.0.1:8000").rsplit(":", 1)
    server = ThreadingHTTPServer((host, int(port)), Handler)
    # Shutting down waits for the loop, which runs in this thread.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"listening on {host}:{port}", file=sys.stderr, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
