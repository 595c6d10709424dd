#!/usr/bin/env python3
"""What the identity costs, and against what people do without it.

    benches/pgbench/identity.py [--binary FILE] [--rounds N] [--seconds N] [--clients N] [--delay MILLISECONDS]

Two tables. The first: one primary-key SELECT through pgusher with the identity off, bound, literal, by statements that the
server has prepared (`trusted_sql`), and by the login tier; the CPU of the pooler and of the backends for each transaction. The second: the same SELECT
as its user, with a network of so many milliseconds each way before PostgreSQL, against what is done through PgBouncer today,
`BEGIN; SELECT set_config(..., true); SELECT ...; COMMIT`. Runs are interleaved, figures are medians of the rounds. It ends with
an error if pgusher does not make three times the transactions.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import run
from machine import DATABASE, ROOT, Client

LEAST = 3.0
KEY = "a-key-that-guards-nothing-but-a-bench"
SELECT = "\\set aid random(1, 100000)\nselect abalance from pgbench_accounts where aid = :aid;\n"
TODAY = (
    "\\set aid random(1, 100000)\nbegin;\n"
    f"select set_config('app.current_user_id', '{run.IDENTITY}', true);\n"
    "select abalance from pgbench_accounts where aid = :aid;\ncommit;\n"
)


class Network:
    """A network before PostgreSQL: every byte arrives so much later, in order; a process of its own."""

    def __init__(self, server_port, milliseconds):
        self.port = run.free_port()
        words = [sys.executable, __file__, "--network", str(self.port), str(server_port), str(milliseconds)]
        self.process = subprocess.Popen(words, preexec_fn=lambda: run.child(run.OTHERS))

    def stop(self):
        self.process.terminate()
        self.process.wait(5)


async def network(port, server_port, milliseconds):
    async def pipe(reader, writer):
        loop, queue = asyncio.get_running_loop(), asyncio.Queue()

        async def deliver():
            while (item := await queue.get()) is not None:
                due, data = item
                await asyncio.sleep(max(0, due - loop.time()))
                writer.write(data)
            writer.close()

        task = asyncio.create_task(deliver())
        while data := await reader.read(1 << 16):
            queue.put_nowait((loop.time() + milliseconds / 1e3, data))
        queue.put_nowait(None)
        await task

    async def serve(reader, writer):
        there, back = await asyncio.open_connection("127.0.0.1", server_port)
        await asyncio.gather(pipe(reader, back), pipe(there, writer), return_exceptions=True)

    async with await asyncio.start_server(serve, "127.0.0.1", port) as server:
        await server.serve_forever()


def backends(bench):
    """CPU seconds of all processes of our PostgreSQL."""
    total = 0.0
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            parent = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == bench.server.pid:
                total += run.cpu_seconds(int(process.name))
        except OSError:
            continue
    return total


def pgusher(binary, name, identity="on", variables=()):
    subject = run.pgusher(binary, identity)
    words = " ".join(f"{variable}={value}" for variable, value in variables)
    subject.name, subject.command = name, f"env {words} {subject.command}" if words else subject.command
    return subject


def sample(bench, subject, workload, seconds):
    before = backends(bench)
    figures = run.measure(bench, subject, workload, seconds)
    figures["backend_us"] = (backends(bench) - before) / figures["transactions"] * 1e6
    return figures


def rounds(bench, pairs, options):
    """Every subject with its workload, interleaved; the samples of each."""
    samples = {subject.name: [] for subject, _ in pairs}
    for _ in range(options.rounds):
        for subject, workload in pairs:
            samples[subject.name].append(sample(bench, subject, workload, options.seconds))
    return samples


def shown(samples, names):
    header = ["subject", "pooler CPU µs", "backend CPU µs", "p50 ms", "per second"]
    rows = []
    for name in names:
        values = [run.middle(samples[name], key) for key in ("cpu_us", "backend_us", "p50_us", "tps")]
        values[2] = values[2] and values[2] / 1e3
        rows.append([name, *map(run.shown, values)])
    return run.table(header, rows, left=1)


def cost(bench, binary, options):
    """The first table."""
    subjects = [
        pgusher(binary, "off", "off"),
        pgusher(binary, "bound"),
        pgusher(binary, "literal", variables=[("PGUSHER_IDENTITY_FORM", "literal")]),
    ]
    trusted = [("PGUSHER_IDENTITY_TRUSTED_SQL", "on")]
    login = [("PGUSHER_IDENTITY_FORM", "login"), ("PGUSHER_IDENTITY_LOGIN_KEY", KEY)]
    for name, variables in [("trusted_sql", trusted), ("login", login), ("login, trusted_sql", login + trusted)]:
        if knows(binary, variables):
            subjects.append(pgusher(binary, name, variables=variables))
    install_tier(bench)
    workload = run.Workload("select", options.clients, ["-M", "extended"], script=SELECT)
    try:
        for subject in subjects:
            subject.start(bench)
        samples = rounds(bench, [(subject, workload) for subject in subjects], options)
    finally:
        for subject in subjects:
            subject.stop()
    print(f"One SELECT by primary key, {options.clients} clients, pool of {bench.pool_size}:\n")
    print(shown(samples, samples))


def install_tier(bench):
    """What the login tier needs in the database; the others do not see it."""
    with Client(bench.server_port, "postgres", DATABASE) as client:
        client.query((ROOT / "deploy/sql/identity.sql").read_text())
        client.query(f"select ident.add_key('{KEY}')")


def knows(binary, variables):
    """Whether this build has the setting: an older one may be measured too."""
    environment = {**os.environ, **dict(variables), "PGUSHER_UPSTREAM": "postgres://a:b@127.0.0.1:1/c"}
    return subprocess.run([binary, "check"], env=environment, capture_output=True, timeout=10).returncode == 0


def against_today(bench, binary, options):
    """The second table; gives the ratio of the transactions per second."""
    today, ours = run.pgbouncer(), pgusher(binary, "pgusher, identity bound")
    if not today:
        sys.exit("pgbouncer is not installed: tests/setup.sh installs it")
    today.name = "pgbouncer, BEGIN; set_config; SELECT; COMMIT"
    workloads = {
        today: run.Workload("today", options.clients, ["-M", "simple"], script=TODAY),
        ours: run.Workload("ours", options.clients, ["-M", "simple"], script=SELECT),
    }
    server_port, there = bench.server_port, Network(bench.server_port, options.delay)
    try:
        bench.server_port = there.port
        time.sleep(0.5)  # a process of Python begins
        for subject in workloads:
            subject.start(bench)
        samples = rounds(bench, list(workloads.items()), options)
    finally:
        bench.server_port = server_port
        for subject in workloads:
            subject.stop()
        there.stop()
    ratios = run.ratios(samples[ours.name], samples[today.name], "tps")
    print(f"The same as its user, {options.delay:g} ms each way between pooler and PostgreSQL, {options.clients} clients:\n")
    print(shown(samples, samples))
    print(f"Transactions per second, ratio: {run.spread(ratios)}\n")
    return statistics.median(ratios)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, help="the pgusher to measure (default: the release build)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of each run")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--delay", type=float, default=1.0, help="milliseconds, each way")
    parser.add_argument("--pool-size", type=int, default=8)
    parser.add_argument("--network", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    options = arguments()
    if options.network:
        port, server_port, milliseconds = options.network
        asyncio.run(network(int(port), int(server_port), float(milliseconds)))
        return
    binary = options.binary or run.target_directory() / "release" / "pgusher"
    if not binary.exists():
        sys.exit(f"{binary} is not there: cargo build --release")
    bench = run.Bench(options.pool_size)
    try:
        binary = run.reachable(binary, bench.directory)
        cost(bench, binary, options)
        ratio = against_today(bench, binary, options)
    finally:
        bench.stop()
    if ratio < LEAST:
        sys.exit(f"{ratio:.2f} times the transactions per second; expected at least {LEAST:g}")


if __name__ == "__main__":
    main()
