"""PostgreSQL's own programs: psql, pgbench in every mode, pg_dump and pg_restore, vacuumdb, reindexdb.

Environment, besides that of cases.py:
    PG_BIN         the directory of the programs (default: PATH, then the newest installation of the distribution)
    RESTORE_URL    another database to restore dumps into (default: the one under test, once the schema is dropped)
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import psycopg

from cases import DATABASE_URL
from cases import SCHEMA
from cases import all_at_once
from cases import case
from cases import marker
from cases import run_all
from cases import same
from cases import wait_until_running

RESTORE_URL = os.environ.get("RESTORE_URL") or DATABASE_URL
CLIENTS = 20
TRANSACTIONS = 200
SCALE = 2


@cache
def program(name: str) -> str:
    if directory := os.environ.get("PG_BIN"):
        return str(Path(directory) / name)
    if found := shutil.which(name):
        return found
    installed = Path("/usr/lib/postgresql").glob(f"*/bin/{name}")
    newest = max(installed, key=lambda path: float(path.parts[-3]), default=None)
    assert newest, f"{name} is not installed; set PG_BIN"
    return str(newest)


@cache
def major_version(name: str) -> int:
    return int(re.search(r"\(PostgreSQL\) (\d+)", run(name, "--version").stdout)[1])


def run(name: str, *arguments: str, status: int = 0, options: str = "", **more) -> subprocess.CompletedProcess:
    """Runs a program of PostgreSQL's to its end, which must come with `status`."""
    environment = {**os.environ, "PGOPTIONS": options, "PGCONNECT_TIMEOUT": "10", "LC_ALL": "C.UTF-8", "PGCLIENTENCODING": "UTF8"}
    done = subprocess.run([program(name), *arguments], capture_output=True, text=True, env=environment, timeout=60, **more)
    if done.returncode != status:
        raise AssertionError(f"{name} ended with {done.returncode}, not {status}: {done.stderr.strip()[-400:] or done.stdout.strip()[-400:]}")
    return done


def psql(script: str, *arguments: str, status: int = 0, url: str = DATABASE_URL, **more) -> list[str]:
    """Runs a script in psql and returns the lines it printed."""
    done = run("psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", url, *arguments, input=script, status=status, **more)
    return done.stdout.splitlines()


def one(query: str):
    with psycopg.connect(DATABASE_URL, autocommit=True, prepare_threshold=None) as a:
        return a.execute(query).fetchone()[0]


# --- psql ---------------------------------------------------------------------------------------------------------


@case("psql runs a script with transactions, variables, conditions and generated statements")
def _():
    t = f"{SCHEMA}.{marker()}"
    found = psql(
        rf"""
        create table {t} (n int);
        begin; insert into {t} values (1); savepoint s; insert into {t} values (2); rollback to s; commit;
        begin; insert into {t} values (3); rollback;
        select n as first, n + 1 as second from {t} \gset
        \echo :first :second
        \if :first
        select 'yes';
        \endif
        select format('insert into {t} values (%s)', n) from generate_series(10, 19) n \gexec
        select count(*) from {t};
        select 1 \; select 2 \; select 3;
        """
    )
    same(found, ["1 2", "yes", "11", "1", "2", "3"])


@case("psql binds parameters and uses named statements")
def _():
    if major_version("psql") < 16:
        return "skipped: psql before 16 has no \\bind"
    found = psql("select $1::int + $2::int \\bind 1 2 \\g\nselect $1 \\bind 'two words' \\g\n")
    same(found, ["3", "two words"])
    if major_version("psql") >= 18:
        script = "select $1::int + 1 \\parse mine\n" + "".join(f"\\bind_named mine {n} \\g\n" for n in range(5))
        same(psql(script), [str(n + 1) for n in range(5)])


@case("psql \\copy and inline COPY carry every row")
def _():
    t = f"{SCHEMA}.{marker()}"
    with tempfile.TemporaryDirectory() as directory:
        source, target = Path(directory) / "in.csv", Path(directory) / "out.csv"
        source.write_text("".join(f'{n},"grüßt, {n}"\n' for n in range(20_000)))
        script = f"create table {t} (n int, word text);\n\\copy {t} from '{source}' csv\n\\copy (select * from {t} order by n) to '{target}' csv\n"
        psql(script)
        same(target.read_text(), source.read_text())
    found = psql(f"copy {t} from stdin;\n1\\tone\n2\\t\\\\N\n\\.\nselect count(*) from {t};\ncopy (select 7) to stdout;\n".replace("\\t", "\t"))
    same(found, ["20002", "7"])


@case("psql's exit status and variables tell of errors")
def _():
    psql("select 1 / 0;", status=3)
    psql("\\copy no_such_table from stdin\n", status=3)
    found = psql(
        "\\set ON_ERROR_STOP 0\nselect 1 / 0;\n\\echo :ERROR :SQLSTATE :LAST_ERROR_SQLSTATE\nselect 1;\n\\echo :ERROR :SQLSTATE :ROW_COUNT\n"
    )
    same(found, ["true 22012 22012", "1", "false 00000 1"])
    done = run("psql", "-X", "-d", DATABASE_URL, "-v", "VERBOSITY=verbose", "-c", "select nonsense", status=1)
    assert "42703" in done.stderr and "LINE 1: select nonsense" in done.stderr, done.stderr
    run("psql", "-X", "-d", DATABASE_URL, "-c", "select 1; select 1 / 0", status=1)


@case("psql in a single transaction keeps all or nothing, and rolls single statements back if it is told to")
def _():
    t = f"{SCHEMA}.{marker()}"
    psql(f"create table {t} (n int primary key);")
    psql(f"insert into {t} values (1); insert into {t} values (2); insert into {t} values (1);", "-1", status=3)
    same(one(f"select count(*) from {t}"), 0)
    script = f"begin; insert into {t} values (1);\ninsert into {t} values (1);\ninsert into {t} values (2);\ncommit;"
    psql(script, "-v", "ON_ERROR_ROLLBACK=on", "-v", "ON_ERROR_STOP=0")
    same(one(f"select count(*) from {t}"), 2)


@case("psql reads a large result by cursor and describes what it finds")
def _():
    found = psql("\\set FETCH_COUNT 1000\nselect generate_series(1, 100000);")
    same((len(found), found[-1]), (100_000, "100000"))
    name = marker()
    psql(f"create table {SCHEMA}.{name} (n int primary key, word text); create view {SCHEMA}.{name}_v as select 1 as one;")
    described = "\n".join(psql(f"\\d {SCHEMA}.{name}\n\\d+ {SCHEMA}.{name}_v\n\\dn\n\\df pg_catalog.now\n\\l\n"))
    assert "n|integer||not null" in described and SCHEMA in described, described[:400]


@case("psql's settings last for its session and reach nobody else")
def _():
    def client(number: int) -> None:
        script = f"set timezone = 'Etc/GMT+{number + 1}';\nset application_name = 'psql {number}';\nset search_path = own_{number};\n"
        show = "show timezone;\nshow application_name;\nshow search_path;\n"
        same(psql(script + show * 10), [f"Etc/GMT+{number + 1}", f"psql {number}", f"own_{number}"] * 10)

    usual = one("show timezone")
    all_at_once(client, 8)
    same(one("show timezone"), usual)


@case("an interrupt makes psql cancel its query")
def _():
    word = marker()
    command = [program("psql"), "-X", "-d", DATABASE_URL, "-c", f"select pg_sleep(30) /* {word} */"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until_running(word)
        process.send_signal(signal.SIGINT)
        try:
            _, stderr = process.communicate(timeout=10)
        finally:
            process.kill()
    assert "canceling statement due to user request" in stderr, stderr


@case("psql listens, and holds temporary tables and cursors through its session", refusable=True)
def _():
    channel, name = marker(), marker()
    found = psql(
        f"""
        listen {channel};
        create temp table {name} as select 1 as n;
        declare held cursor with hold for select generate_series(1, 3);
        select n from {name};
        fetch 2 from held;
        notify {channel}, 'to myself';
        discard all;
        select to_regclass('{name}') is null;
        """
    )
    same(found[:3], ["1", "1", "2"])
    same(found[-1], "t")
    assert any("to myself" in line for line in found), found


# --- pgbench ------------------------------------------------------------------------------------------------------


def pgbench(*arguments: str, script: str | None = None, settings: str = "") -> str:
    options = f"-c search_path={SCHEMA} {settings}"
    if script is None:
        return run("pgbench", "-n", *arguments, DATABASE_URL, options=options).stdout
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        return run("pgbench", "-n", "-f", file.name, *arguments, DATABASE_URL, options=options).stdout


def processed(report: str) -> str:
    return re.search(r"actually processed: (\S+)", report)[1]


def speed(report: str) -> str:
    return f"{float(re.search(r'tps = ([0-9.]+)', report)[1]):.0f} tps"


def bench_tables() -> None:
    if one(f"select to_regclass('{SCHEMA}.pgbench_accounts') is null"):
        run("pgbench", "-i", "-s", str(SCALE), "-q", DATABASE_URL, options=f"-c search_path={SCHEMA}")


def balances_agree() -> None:
    """Each transaction adds one amount to one row of each table, so the sums differ if any was lost or done twice."""
    sums = one(
        f"""select array[(select sum(abalance) from {SCHEMA}.pgbench_accounts), (select sum(bbalance) from {SCHEMA}.pgbench_branches),
                         (select sum(tbalance) from {SCHEMA}.pgbench_tellers), (select sum(delta) from {SCHEMA}.pgbench_history)]"""
    )
    same(len(set(sums)), 1, f"different sums among {sums}")


@case("pgbench initialises, by client and by server")
def _():
    run("pgbench", "-i", "-I", "dtGvp", "-s", "1", "-q", DATABASE_URL, options=f"-c search_path={SCHEMA}")
    run("pgbench", "-i", "-I", "dtgvpf", "-s", str(SCALE), "-q", DATABASE_URL, options=f"-c search_path={SCHEMA}")
    same(one(f"select count(*) from {SCHEMA}.pgbench_accounts"), 100_000 * SCALE)


def _mode(mode: str) -> None:
    @case(f"pgbench -M {mode} loses no transaction", deadline=30)
    def _():
        bench_tables()
        before = one(f"select count(*) from {SCHEMA}.pgbench_history")
        report = pgbench("-M", mode, "-c", str(CLIENTS), "-j", "2", "-t", str(TRANSACTIONS))
        expected = CLIENTS * TRANSACTIONS
        same(processed(report), f"{expected}/{expected}")
        same(one(f"select count(*) from {SCHEMA}.pgbench_history") - before, expected)
        balances_agree()
        return speed(report)


for each in ("simple", "extended", "prepared"):
    _mode(each)


def _pipeline(mode: str) -> None:
    @case(f"pgbench -M {mode} runs pipelines, with transactions in them")
    def _():
        if major_version("pgbench") < 14:
            return "skipped: pgbench before 14 has no \\startpipeline"
        bench_tables()
        report = pgbench(
            *("-M", mode, "-c", str(CLIENTS), "-j", "2", "-t", "50"),
            script="""
            \\set account random(1, 100000)
            \\startpipeline
            select abalance from pgbench_accounts where aid = :account;
            begin;
            update pgbench_accounts set filler = 'x' where aid = :account;
            select abalance from pgbench_accounts where aid = :account;
            commit;
            select 1;
            \\endpipeline
            begin;
            \\startpipeline
            select abalance from pgbench_accounts where aid = :account;
            select count(*) from pgbench_branches;
            \\endpipeline
            end;
            """,
        )
        same(processed(report), f"{CLIENTS * 50}/{CLIENTS * 50}")
        return speed(report)


for each in ("extended", "prepared"):
    _pipeline(each)


@case("pgbench with a connection for each transaction")
def _():
    bench_tables()
    report = pgbench("-S", "-C", "-c", "4", "-t", "50")
    same(processed(report), "200/200")


@case("pgbench reads its own variables back from results")
def _():
    bench_tables()
    report = pgbench(
        *("-M", "prepared", "-c", "10", "-t", "40"),
        script="""
        \\set mine :client_id + 1000
        select :mine as found, :mine + 1 as next \\gset
        \\if :found != :mine or :next != :mine + 1
        select 1 / 0;
        \\endif
        select :client_id as one \\aset
        """,
    )
    same(processed(report), "400/400")


@case("pgbench repeats serialization failures until none is left")
def _():
    if major_version("pgbench") < 15:
        return "skipped: pgbench before 15 has no --max-tries"
    bench_tables()
    report = pgbench(
        *("-c", "8", "-j", "2", "-t", "25", "--max-tries", "1000"),
        settings="-c default_transaction_isolation=repeatable\\ read",
    )
    same(processed(report), "200/200")
    balances_agree()
    if retried := re.search(r"transactions retried: (\d+)", report):
        return f"{retried[1]} retried"


# --- dump and restore ---------------------------------------------------------------------------------------------


def furnished_schema() -> str:
    """Makes a schema with a little of everything that an owner may create, and data in it."""
    name = f"{SCHEMA}_{marker()[-6:]}"
    psql(
        f"""
        create schema {name};
        set search_path = {name};
        create type mood as enum ('sad', 'happy');
        create domain positive as int check (value > 0);
        create sequence numbers start 7;
        create table parent (id bigint generated always as identity primary key, m mood, p positive, at timestamptz default now(), words text[]);
        create table child (id int primary key, parent_id bigint references parent, doc jsonb, bytes bytea) partition by range (id);
        create table child_low partition of child for values from (0) to (1000);
        create table child_rest partition of child default;
        create index on child using gin (doc);
        create function twice(n int) returns int language sql immutable as 'select n * 2';
        create function audit() returns trigger language plpgsql as 'begin return new; end';
        create trigger audited before insert on parent for each row execute function audit();
        create view both_of_them as select p.id, c.doc from parent p join child c on c.parent_id = p.id;
        create materialized view counted as select count(*) from parent;
        alter table parent enable row level security;
        alter table parent force row level security;
        create policy own on parent using (true);
        comment on table parent is 'It''s a “table”';
        insert into parent (m, p, words) select 'happy', n, array['grüßt', null, E'a\\tb\\n\\\\'] from generate_series(1, 5000) n;
        insert into child select n, n, jsonb_build_object('n', n), decode(md5(n::text), 'hex') from generate_series(1, 3000) n;
        select nextval('numbers') \\gset
        refresh materialized view counted;
        """
    )
    return name


def dump(url: str, schema: str, *arguments: str) -> str:
    return run("pg_dump", "-d", url, "-n", schema, "--no-owner", *arguments).stdout


def comparable(plain: str) -> list[str]:
    """The lines of a plain dump without the random key that newer versions write into it."""
    return [line for line in plain.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]


def _drop(url: str, schema: str) -> None:
    psql(f"set client_min_messages = warning; drop schema if exists {schema} cascade;", url=url)


def _round_trip(kind: str, arguments: list[str], restore: Callable[[str], object]) -> None:
    @case(f"what pg_dump writes as {kind} is restored without a difference")
    def _():
        schema = furnished_schema()
        try:
            # Row-level security hides rows from dumps of owners too, unless they say that they want what they may see.
            before = dump(DATABASE_URL, schema, "--enable-row-security", "--inserts")
            with tempfile.TemporaryDirectory() as directory:
                path = str(Path(directory) / "dump")
                dump(DATABASE_URL, schema, "--enable-row-security", "-f", path, *arguments)
                _drop(DATABASE_URL, schema)
                restore(path)
            after = dump(RESTORE_URL, schema, "--enable-row-security", "--inserts")
            same(len(comparable(after)), len(comparable(before)), "lines")
            same(comparable(after), comparable(before), "dump of what was restored")
        finally:
            for url in {DATABASE_URL, RESTORE_URL}:
                _drop(url, schema)


def _by_psql(path: str) -> None:
    run("psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-d", RESTORE_URL, "-f", path)


def _by_pg_restore(*arguments: str) -> Callable[[str], object]:
    return lambda path: run("pg_restore", "--exit-on-error", "--no-owner", "--enable-row-security", "-d", RESTORE_URL, *arguments, path)


_round_trip("plain text with COPY", [], _by_psql)
_round_trip("plain text with INSERTs", ["--inserts", "--rows-per-insert=100"], _by_psql)
_round_trip("custom format", ["-Fc"], _by_pg_restore())
_round_trip("custom format, in a single transaction", ["-Fc"], _by_pg_restore("--single-transaction"))
_round_trip("a directory, by two jobs", ["-Fd"], _by_pg_restore("--jobs=2"))
_round_trip("tar", ["-Ft"], _by_pg_restore())


@case("a dump sees one snapshot while others write")
def _():
    name = marker()
    t = f"{SCHEMA}.{name}"
    psql(f"create table {t} (n int); insert into {t} select generate_series(1, 1000);")
    with tempfile.TemporaryDirectory() as directory, psycopg.connect(DATABASE_URL, autocommit=True) as writer:
        path = Path(directory) / "dump"
        command = [program("pg_dump"), "-d", DATABASE_URL, "-t", t, "--data-only", "-f", str(path)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            end = time.monotonic() + 15
            try:
                while process.poll() is None:
                    assert time.monotonic() < end, "pg_dump did not end within 15 s"
                    writer.execute(f"insert into {t} select generate_series(1, 1000)")
            finally:
                process.kill()
            same(process.returncode, 0, process.stderr.read())
        rows = sum(line.isdigit() for line in path.read_text().splitlines())
        same(rows % 1000, 0, "rows of half a transaction")
        return f"{rows} of {writer.execute(f'select count(*) from {t}').fetchone()[0]} rows"


# --- the rest -----------------------------------------------------------------------------------------------------


@case("vacuumdb, reindexdb and clusterdb do their work outside of transactions")
def _():
    t = f"{SCHEMA}.{marker()}"
    psql(f"create table {t} (n int primary key); insert into {t} select generate_series(1, 10000); cluster {t} using {t.split('.')[1]}_pkey;")
    run("vacuumdb", "-q", "--analyze", "-t", t, "-d", DATABASE_URL)
    run("vacuumdb", "-q", "--full", "-t", t, "-d", DATABASE_URL)
    run("reindexdb", "-q", "--concurrently", "-t", t, "-d", DATABASE_URL)
    run("clusterdb", "-q", "-t", t, "-d", DATABASE_URL)


@case("pg_isready says that connections are accepted")
def _():
    run("pg_isready", "-q", "-d", DATABASE_URL)


run_all()
