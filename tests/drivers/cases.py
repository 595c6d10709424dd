"""What the Python driver tests share: named cases, a runner, and a way to make the pooler change servers.

A script registers its cases with `@case("sentence")` and ends with `run_all()`. Each case prints `ok <sentence>` or
`FAILED <sentence>: <reason>`; what follows ` # ` on an `ok` line is a remark. The exit status is 1 if any case failed.

Environment:
    DATABASE_URL     the database under test, through pgusher in transaction mode with at least two servers, or direct
    ADMIN_URL        a direct connection to the same database (optional): sets up, observes, and tidies
    ALLOW_REFUSED    1: a feature that is refused with 0A000 counts as ok, where the case says that it may be refused
    ONLY             run only the cases whose sentence contains this

Cases keep to two servers: never more than two connections in a transaction or pinned at the same moment.
"""

import asyncio
import inspect
import os
import secrets
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

FEATURE_NOT_SUPPORTED = "0A000"

DATABASE_URL = os.environ.get("DATABASE_URL") or sys.exit("DATABASE_URL is not set: it names the database under test")
ADMIN_URL = os.environ.get("ADMIN_URL") or DATABASE_URL
SCHEMA = f"{Path(sys.argv[0]).stem}_{secrets.token_hex(4)}"


@dataclass(frozen=True)
class Case:
    sentence: str
    body: Callable
    deadline: float
    refusable: bool


_cases: list[Case] = []


def case(sentence: str, *, deadline: float = 20, refusable: bool = False) -> Callable:
    """Registers a function, plain or async, as the test of `sentence`. It fails by raising; what it returns is a remark."""

    def register(body: Callable) -> Callable:
        _cases.append(Case(sentence, body, deadline, refusable))
        return body

    return register


def run_all(*, schema: bool = True) -> None:
    """Runs the registered cases in order, inside a schema of this run's own, and exits."""
    wanted = [each for each in _cases if os.environ.get("ONLY", "") in each.sentence]
    if schema:
        _administer(f"create schema {SCHEMA}")
    try:
        outcomes = [_run(each) for each in wanted]
    finally:
        if schema:
            # A failed case may have left a lock behind; tidying up does not wait for it.
            _administer(f"set lock_timeout = '3s'; drop schema if exists {SCHEMA} cascade")
    sys.stdout.flush()
    # Not sys.exit: the thread of a case that never ended would keep the interpreter.
    os._exit(0 if all(outcomes) else 1)


def _run(one: Case) -> bool:
    outcome: list[tuple[str, object]] = []

    def body() -> None:
        try:
            result = one.body()
            if inspect.iscoroutine(result):
                result = asyncio.run(result)
            outcome.append(("ok", result))
        except BaseException as error:
            outcome.append(("refused" if _is_refusal(one, error) else "failed", error))

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(one.deadline)
    verdict, detail = outcome[0] if outcome else ("failed", f"did not end within {one.deadline:g} s")
    match verdict:
        case "ok":
            print(f"ok {one.sentence}" + (f" # {detail}" if detail else ""), flush=True)
        case "refused":
            print(f"ok {one.sentence} # refused: {_in_one_line(detail)}", flush=True)
        case _:
            print(f"FAILED {one.sentence}: {_in_one_line(detail)}", flush=True)
            if isinstance(detail, BaseException):
                traceback.print_exception(detail, file=sys.stderr)
    return verdict != "failed"


def _is_refusal(one: Case, error: BaseException) -> bool:
    return one.refusable and os.environ.get("ALLOW_REFUSED") == "1" and sqlstate_of(error) == FEATURE_NOT_SUPPORTED


def _in_one_line(detail: object) -> str:
    kind = f"{type(detail).__name__}: " if isinstance(detail, BaseException) else ""
    return kind + " ".join(str(detail).split())[:500]


def _administer(sql: str) -> None:
    try:
        with psycopg.connect(ADMIN_URL, autocommit=True, prepare_threshold=None) as connection:
            connection.execute(sql)
    except psycopg.Error as error:
        print(f"FAILED to set up or tidy up: {_in_one_line(error)}", flush=True)
        os._exit(1)


# --- what cases say -----------------------------------------------------------------------------------------------


def sqlstate_of(error: BaseException) -> str | None:
    """The SQLSTATE of any driver's error, also when SQLAlchemy wraps it."""
    inner = getattr(error, "orig", None) or error
    return getattr(inner, "sqlstate", None) or getattr(inner, "pgcode", None)


@contextmanager
def fails_with(*sqlstates: str) -> Iterator[None]:
    """The block must raise an error of the database with one of these SQLSTATEs."""
    try:
        yield
    except Exception as error:
        if sqlstate_of(error) not in sqlstates:
            raise
        return
    raise AssertionError(f"should have failed with {' or '.join(sqlstates)}, and did not")


def same(found: object, expected: object, what: str = "value") -> None:
    """Like assertEqual, with values short enough to print."""
    if found != expected:
        raise AssertionError(f"{what}: expected {expected!r:.200}, found {found!r:.200}")


def all_at_once(work: Callable[[int], object], count: int) -> list:
    """Runs work(0) to work(count - 1), each in a thread of its own, and returns what they return or raises what they raise."""
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(work, range(count)))


def wait_until_running(marker: str, within: float = 10) -> None:
    """Returns once a server is executing a statement that contains `marker`; asks the database, over and over."""
    ask = (
        "select count(*) from pg_stat_activity"
        " where state = 'active' and pid <> pg_backend_pid() and query like '%%' || %s || '%%'"
    )
    end = time.monotonic() + within
    with psycopg.connect(ADMIN_URL, autocommit=True, prepare_threshold=None) as observer:
        while observer.execute(ask, [marker]).fetchone() == (0,):
            if time.monotonic() > end:
                raise AssertionError(f"no server began to run {marker} within {within} s")


def marker() -> str:
    """A word that occurs nowhere else, to be found in pg_stat_activity or in a row."""
    return f"marker_{secrets.token_hex(6)}"


@contextmanager
def elsewhere(pid: int) -> Iterator[None]:
    """Inside the block the next transaction of anybody runs on another server than `pid`.

    Holds two servers in transactions, so a pool of two is full, and lets go of one that is not `pid`. Nobody else may be
    in a transaction or pinned. In a larger pool, and without a pooler, nothing is forced and nothing breaks.
    """
    with (
        psycopg.connect(DATABASE_URL, prepare_threshold=None) as first,
        psycopg.connect(DATABASE_URL, prepare_threshold=None) as second,
    ):
        pids = [holder.execute("select pg_backend_pid()").fetchone()[0] for holder in (first, second)]
        freed, held = (second, first) if pids[0] == pid else (first, second)
        freed.rollback()
        yield
        held.rollback()
