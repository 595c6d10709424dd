"""Migrations: Alembic, and the advisory locks that Rails, Flyway, node-pg-migrate and golang-migrate take around theirs."""

import io
import tempfile
import time
import uuid
from contextlib import redirect_stdout
from pathlib import Path

import psycopg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from cases import DATABASE_URL
from cases import SCHEMA
from cases import all_at_once
from cases import case
from cases import fails_with
from cases import marker
from cases import run_all
from cases import same

ENVIRONMENT = '''
import sqlalchemy as sa
from alembic import context

schema = context.config.get_main_option("schema")
engine = sa.create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=sa.NullPool)
with engine.connect() as connection:
    context.configure(
        connection=connection,
        version_table_schema=schema,
        transaction_per_migration=context.config.get_main_option("per_migration") == "yes",
    )
    with context.begin_transaction():
        # As Alembic's own cookbook: several runs at once wait here for each other.
        connection.execute(sa.text("select pg_advisory_xact_lock(:key)"), {"key": int(context.config.get_main_option("key"))})
        context.run_migrations()
engine.dispose()
'''

REVISION = '''
from alembic import op
import sqlalchemy as sa

revision = {number!r}
down_revision = {before!r}
schema = {schema!r}


def upgrade():
{upgrade}


def downgrade():
{downgrade}
'''

REVISIONS = [
    (
        "    op.create_table('person', sa.Column('id', sa.BigInteger, primary_key=True), sa.Column('name', sa.Text), schema=schema)\n"
        "    op.execute(f\"insert into {schema}.person (name) select 'person ' || n from generate_series(1, 1000) n\")",
        "    op.drop_table('person', schema=schema)",
    ),
    (
        "    op.add_column('person', sa.Column('mood', sa.Text, server_default='good', nullable=False), schema=schema)\n"
        "    op.alter_column('person', 'name', nullable=False, schema=schema)",
        "    op.alter_column('person', 'name', nullable=True, schema=schema)\n    op.drop_column('person', 'mood', schema=schema)",
    ),
    (
        "    with op.get_context().autocommit_block():\n"
        "        op.create_index('person_name', 'person', ['name'], schema=schema, postgresql_concurrently=True)",
        "    with op.get_context().autocommit_block():\n"
        "        op.drop_index('person_name', 'person', schema=schema, postgresql_concurrently=True)",
    ),
]


def url(driver: str = "psycopg") -> str:
    return sa.make_url(DATABASE_URL).set(drivername=f"postgresql+{driver}").render_as_string(hide_password=False)


def lock_key() -> int:
    return uuid.uuid4().int % (1 << 60)


def connect(**options) -> psycopg.Connection:
    return psycopg.connect(DATABASE_URL, autocommit=True, **options)


def one(connection: psycopg.Connection, query: str, *parameters):
    return connection.execute(query, parameters or None).fetchone()[0]


class Migrations:
    """A directory of revisions for one schema of its own inside the database."""

    def __init__(self, directory: str, revisions: list[tuple[str, str]] = REVISIONS, driver: str = "psycopg") -> None:
        self.schema = f"{SCHEMA}_{marker()[-6:]}"
        root = Path(directory)
        (root / "versions").mkdir()
        (root / "env.py").write_text(ENVIRONMENT)
        before = None
        for index, (upgrade, downgrade) in enumerate(revisions):
            number = f"{index:04}"
            text = REVISION.format(number=number, before=before, schema=self.schema, upgrade=upgrade, downgrade=downgrade)
            (root / "versions" / f"{number}_step.py").write_text(text)
            before = number
        self.options = {
            "script_location": str(root),
            "path_separator": "os",
            "sqlalchemy.url": url(driver).replace("%", "%%"),
            "schema": self.schema,
            "key": str(lock_key()),
            "per_migration": "yes",
        }

    def config(self, output: io.StringIO | None = None) -> Config:
        config = Config(stdout=output or io.StringIO())
        for name, value in self.options.items():
            config.set_main_option(name, value)
        return config

    def __enter__(self) -> "Migrations":
        with connect() as a:
            a.execute(f"create schema {self.schema}")
        return self

    def __exit__(self, *_: object) -> None:
        with connect() as a:
            a.execute(f"drop schema {self.schema} cascade")

    def version(self, a: psycopg.Connection) -> str | None:
        row = a.execute(f"select version_num from {self.schema}.alembic_version").fetchone()
        return row and row[0]


@case("Alembic goes up, step by step, and down again, with each driver")
def _():
    for driver in ("psycopg", "psycopg2"):
        with tempfile.TemporaryDirectory() as directory, Migrations(directory, driver=driver) as migrations, connect() as a:
            command.upgrade(migrations.config(), "0000")
            same(migrations.version(a), "0000")
            command.upgrade(migrations.config(), "head")
            same(migrations.version(a), "0002")
            same(one(a, f"select count(*) from {migrations.schema}.person where mood = 'good'"), 1000)
            valid = "select indisvalid from pg_index where indexrelid = %s::regclass"
            same(one(a, valid, f"{migrations.schema}.person_name"), True, "index made concurrently")
            output = io.StringIO()
            command.current(migrations.config(output))
            assert "0002" in output.getvalue(), output.getvalue()
            command.downgrade(migrations.config(), "base")
            same(one(a, "select to_regclass(%s) is null", f"{migrations.schema}.person"), True)


@case("a migration that fails leaves nothing of itself")
def _():
    bad = ("    op.execute(f'create table {schema}.half (n int)')\n    op.execute('select 1 / 0')", "    pass")
    with tempfile.TemporaryDirectory() as directory, Migrations(directory, [*REVISIONS, bad]) as migrations, connect() as a:
        with fails_with("22012"):
            command.upgrade(migrations.config(), "head")
        same(migrations.version(a), "0002")
        same(one(a, "select to_regclass(%s) is null", f"{migrations.schema}.half"), True)


@case("autogenerate finds what has changed")
def _():
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with tempfile.TemporaryDirectory() as directory, Migrations(directory) as migrations:
        command.upgrade(migrations.config(), "head")
        wanted = sa.MetaData(schema=migrations.schema)
        sa.Table("person", wanted, sa.Column("id", sa.BigInteger, primary_key=True), sa.Column("age", sa.Integer))
        engine = sa.create_engine(url(), poolclass=sa.NullPool)
        with engine.connect() as connection, redirect_stdout(io.StringIO()):
            ours = {"include_schemas": True, "include_name": lambda name, kind, _: kind != "schema" or name == migrations.schema}
            context = MigrationContext.configure(connection, opts={**ours, "version_table_schema": migrations.schema})
            changes = compare_metadata(context, wanted)
        kinds = sorted(change[0] for change in changes)
        same(kinds, ["add_column", "remove_column", "remove_column", "remove_index"])


# --- advisory locks -----------------------------------------------------------------------------------------------


def _take_turns(lock, unlock, work, runners: int) -> None:
    """Runs `work` in several connections, each inside its lock, and checks that never two were inside at once."""
    with connect() as a:
        t = f"{SCHEMA}.{marker()}"
        a.execute(f"create table {t} (turn int, who text)")

    def runner(number: int) -> None:
        with connect() as a:
            for turn in range(3):
                lock(a)
                same(one(a, f"select count(*) from {t}"), 0, "somebody else inside the lock")
                work(a, t, turn, f"runner {number}")
                a.execute(f"delete from {t}")
                unlock(a)

    all_at_once(runner, runners)


@case("migrators that try for a session's lock and go away take turns, as in Rails", refusable=True)
def _():
    # Rails: pg_try_advisory_lock on the connection that migrates, pg_advisory_unlock must answer true.
    key = lock_key()

    def lock(a: psycopg.Connection) -> None:
        end = time.monotonic() + 15
        while not one(a, "select pg_try_advisory_lock(%s)", key):
            assert time.monotonic() < end, "never got the lock"

    def unlock(a: psycopg.Connection) -> None:
        same(one(a, "select pg_advisory_unlock(%s)", key), True, "the lock was held where it is given back")

    def work(a: psycopg.Connection, t: str, turn: int, who: str) -> None:
        with a.transaction():
            a.execute(f"insert into {t} values (%s, %s)", [turn, who])
        same(one(a, f"select who from {t}"), who)

    _take_turns(lock, unlock, work, runners=2)


@case("migrators that wait for a session's lock take turns, as in node-pg-migrate and golang-migrate", refusable=True)
def _():
    key = lock_key()

    def work(a: psycopg.Connection, t: str, turn: int, who: str) -> None:
        a.execute(f"begin; insert into {t} values ({turn}, '{who}'); commit")
        # Not CREATE INDEX CONCURRENTLY: it waits for the transaction of whoever waits for this lock, a deadlock anywhere.
        a.execute(f"vacuum {t}")

    _take_turns(
        lambda a: a.execute("select pg_advisory_lock(%s)", [key]),
        lambda a: same(one(a, "select pg_advisory_unlock(%s)", key), True, "the lock was held where it is given back"),
        work,
        runners=2,
    )


@case("a lock on one connection guards work on another, as in Flyway", refusable=True)
def _():
    # Flyway holds the lock in an open transaction on one connection and migrates on a second.
    key = lock_key()
    with connect() as a, connect() as worker:
        t = f"{SCHEMA}.{marker()}"
        with a.transaction():
            same(one(a, "select pg_try_advisory_xact_lock(%s)", key), True)
            worker.execute(f"create table {t} (n int)")
            worker.execute(f"insert into {t} values (1)")
            same(one(worker, "select pg_try_advisory_xact_lock(%s)", key), False)
        same(one(worker, "select pg_try_advisory_xact_lock(%s)", key), True)


@case("a migrator that dies gives its lock to the next", refusable=True)
def _():
    key = lock_key()
    a = connect()
    a.execute("select pg_advisory_lock(%s)", [key])
    a.pgconn.finish()  # without a word
    with connect() as b:
        end = time.monotonic() + 10
        while not one(b, "select pg_try_advisory_lock(%s)", key):
            assert time.monotonic() < end, "the lock outlived its client"
        same(one(b, "select pg_advisory_unlock_all() is not null"), True)


@case("lock_timeout and statement_timeout that a migration sets are its own")
def _():
    with connect() as a, connect() as b:
        names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
        usual = [one(b, f"show {name}") for name in names]
        t = f"{SCHEMA}.{marker()}"
        b.execute(f"create table {t} (n int)")
        for name in names:
            a.execute(f"set {name} = '90ms'")
        with b.transaction():
            b.execute(f"lock table {t}")
            with fails_with("55P03", "57014"):
                a.execute(f"alter table {t} add column m int")
        same([one(b, f"show {name}") for name in names], usual)
        same([one(a, f"show {name}") for name in names], ["90ms"] * 3)


run_all()
