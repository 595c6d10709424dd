#!/usr/bin/env python3
"""pgbench against PostgreSQL itself, PgBouncer and pgusher: one command, one run, one table.

    benches/pgbench/run.py [--quick | --full] [--only PATTERN] ... [--subject NAME=COMMAND] ...

Everything runs interleaved, so that whatever else the machine does falls on all subjects alike; each figure is the
median of the rounds, each ratio the median of the rounds' own ratios. Everything is started here, on loopback, without
privileges, and ends with this program. What the figures mean is in benches/README.md.

A COMMAND is a template: {port} is where the subject is to listen, {server_port} where PostgreSQL does; {pool_size},
{database}, {user} and {directory} (an empty one of its own) say the rest. Clients log in without a password.
"""

import argparse
import fnmatch
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

from figures import (
    binary_size,
    capacity,
    cpu_seconds,
    footprint,
    measure,
    middle,
    ratios,
    readiness,
    system_calls,
)
from growth import RANGES
from machine import OTHERS, PROGRAMS, ROOT, Bench, Failed, child, free_port, processor, raise_descriptors, say, version_of
from report import markdown, shown, spread, table
from subjects import COLD, IDENTITY, PLAIN, TLS, Setup, Subject, pgbouncer, pgusher
from workloads import BOUNCER, DIRECT, IDENTITY as IDENTIFIED, LEAN, OURS, TWO, WORKERS, WORKLOADS, Workload

# What other programs here use of all this.
__all__ = ["IDENTITY", "OTHERS", "Workload", "child", "cpu_seconds", "free_port", "shown", "spread", "table"]

TROUBLE = (Failed, subprocess.TimeoutExpired, OSError)


class Cast:
    """Who takes part, by name; a process for each setup that is asked for, until the end of the run."""

    def __init__(self, bench, options, binary):
        self.bench, self.running = bench, {}
        self.makers = {DIRECT: lambda _: Subject(DIRECT, None)}
        for name, program in options.pgbouncer or [(BOUNCER, None)]:
            if pgbouncer(program):
                self.makers[name] = lambda setup, name=name, program=program: pgbouncer(program, name, setup)
        for name, program in [(OURS, binary), *options.pgusher]:
            self.makers[name] = lambda setup, name=name, program=program: pgusher(program, "off", name, setup)
        lean = ["PGUSHER_POOL_CLEAN=when-needed"]
        self.makers[LEAN] = lambda setup: pgusher(binary, "off", LEAN, setup, lean)
        self.makers[IDENTIFIED] = lambda setup: pgusher(binary, "on", setup=setup)
        for name, command in options.subject:
            self.makers[name] = lambda setup, name=name, command=command: (
                Subject(name, command) if setup.key() == PLAIN.key() else None
            )
        self.further = [name for name, _ in [*(options.pgbouncer or [])[1:], *options.pgusher, *options.subject]]

    def fresh(self, name, setup=PLAIN):
        """One that has not been started, or none if there is none of this kind."""
        maker = self.makers.get(name)
        return maker(setup) if maker else None

    def find(self, name, setup=PLAIN):
        """One that runs and has been busy."""
        key = (name, *setup.key())
        if key not in self.running:
            subject = self.running[key] = self.fresh(name, setup)
            if subject:
                subject.start(self.bench)
                if subject.command and not setup.databases:
                    warm(self.bench, subject)
        return self.running[key]

    def poolers(self, main_only=False):
        names = [BOUNCER, OURS] if main_only else [BOUNCER, OURS, IDENTIFIED, *self.further]
        return [name for name in names if name in self.makers]

    def stop(self):
        for subject in self.running.values():
            if subject:
                subject.stop()


def warm(bench, subject):
    """Every server is there, and every page has been touched."""
    environment = {**subject.environment, **({"PGSSLMODE": "require"} if subject.setup.tls else {})}
    bench.pgbench(subject.port, ["-n", "-S", "-t", "50", "-c", "64", "-j", "1"], 60, environment)


# What is run.


def ways_of(workload, cast, options):
    """The ways of this run, in order: subjects by name, with ` unix` behind it where clients use the socket."""
    ways = workload.ways if options.full or options.only else workload.quick
    return [*ways, *(cast.further if ways else [])]


def run_workloads(bench, cast, options):
    results = {}
    for workload in WORKLOADS:
        ways = ways_of(workload, cast, options)
        if not ways or not is_wanted(options, workload.name):
            continue
        result = results[workload.name] = {}
        for way in ways:
            if cast.find(way.removesuffix(" unix"), workload.setup):
                result[way] = {"samples": [], "failed": None}
        for turn in range(options.rounds):
            for way, mine in result.items():
                run_once(bench, cast, workload, way, mine, options.seconds)
            say(f"{workload.name}: round {turn + 1} of {options.rounds}")
    return results


def run_once(bench, cast, workload, way, mine, seconds):
    if mine["failed"]:
        return
    subject, by_socket = cast.find(way.removesuffix(" unix"), workload.setup), way.endswith(" unix")
    if by_socket and not subject.has_socket:
        mine["failed"] = "it has no unix socket"
        return
    try:
        mine["samples"].append(measure(bench, subject, workload, seconds, by_socket))
    except TROUBLE as error:
        mine["samples"], mine["failed"] = [], str(error)


def run_system_calls(bench, cast, options):
    if not is_wanted(options, "system-calls"):
        return {}
    results = {}
    modes = ("simple", "extended", "prepared") if options.full else ("simple", "prepared")
    for name in cast.poolers(main_only=not options.full):
        subject = cast.find(name)
        counts = {f"{mode}@{clients}": system_calls(bench, subject, mode, clients) for mode in modes for clients in (1, 64)}
        results[name] = {kind: count for kind, count in counts.items() if count}
        say(f"system calls of {name}")
    return {name: counts for name, counts in results.items() if counts}


def run_footprint(bench, cast, options):
    if not is_wanted(options, "footprint"):
        return {}
    results = {name: {"plain": [], "TLS": []} for name in cast.poolers()}
    rounds = 3
    for turn in range(rounds):
        for name, kinds in results.items():
            for kind, setup in (("plain", PLAIN), ("TLS", TLS)):
                is_brief = not options.full and (name == IDENTIFIED or (kind == "TLS" and turn > 0))
                subject = cast.fresh(name, setup)
                if not subject or (is_brief and not options.only):
                    continue
                try:
                    sample = footprint(bench, subject, options.idle_clients, setup.tls)
                    cold = cast.fresh(name, Setup(tls=setup.tls, cold=COLD.cold))
                    if cold:
                        sample["ready_ms"] = readiness(bench, cold)
                    kinds[kind].append(sample)
                except TROUBLE as error:
                    say(f"footprint of {name}, {kind}: {error}")
        say(f"footprint: round {turn + 1} of {rounds}")
    return {name: {kind: samples for kind, samples in kinds.items() if samples} for name, kinds in results.items()}


def run_workers(bench, cast, options):
    """Two workers against one; of PgBouncer there is one."""
    if not is_wanted(options, "workers") or os.cpu_count() < 2:
        return {}
    results = {}
    for name in [name for name in cast.poolers() if name not in (BOUNCER, IDENTIFIED)]:
        one, two = cast.find(name), cast.find(name, TWO)
        if not two:
            continue
        pairs = results[name] = []
        for _ in range(options.rounds):
            try:
                pairs.append([capacity(bench, subject, WORKERS, count, options.seconds) for subject, count in ((one, 1), (two, 2))])
            except TROUBLE as error:
                say(f"workers of {name}: {error}")
        say(f"workers of {name}")
    return {name: pairs for name, pairs in results.items() if pairs}


def run_growth(bench, cast, options):
    results = {}
    for growing in RANGES:
        if not is_wanted(options, f"growth-{growing.name}"):
            continue
        end = growing.end if options.full else growing.quick
        setup = Setup(databases=end) if growing.name == "pools" else PLAIN
        grown = results[growing.name] = {"end": end, "subjects": {}}
        rounds = 3 if options.full else 2
        for turn in range(rounds):
            for name in cast.poolers(main_only=True):
                try:
                    pair = growing.sample(bench, cast.find(name, setup), end, options.seconds)
                    grown["subjects"].setdefault(name, []).append(pair)
                except TROUBLE as error:
                    say(f"{end} {growing.name}, {name}: {error}")
            say(f"{end} {growing.name}: round {turn + 1} of {rounds}")
    return {name: grown for name, grown in results.items() if grown["subjects"]}


# One run.


def named(text):
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise argparse.ArgumentTypeError("NAME=… is expected")
    return name, value


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help="what matters most, about five minutes (the default)")
    length.add_argument("--full", action="store_true", help="everything, about half an hour")
    parser.add_argument(
        "--only",
        metavar="PATTERN",
        action="append",
        help="these workloads, or system-calls, footprint, workers, growth-pools and so on; such as 'select-*'; again for more",
    )
    parser.add_argument("--subject", metavar="NAME=COMMAND", type=named, action="append", default=[], help="one more subject")
    parser.add_argument("--binary", type=Path, help="the pgusher to measure (default: the release build)")
    parser.add_argument(
        "--pgusher", metavar="NAME=FILE", type=named, action="append", default=[], help="another pgusher, in all of its setups"
    )
    parser.add_argument(
        "--pgbouncer",
        metavar="FILE",
        action="append",
        default=[os.environ["PGBOUNCER"]] if "PGBOUNCER" in os.environ else [],
        help="the PgBouncer to measure against (default: $PGBOUNCER, or the system's); again, as NAME=FILE, for another one",
    )
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=int, help="of each run")
    parser.add_argument("--pool-size", type=int, default=20)
    parser.add_argument("--idle-clients", type=int, default=1000)
    parser.add_argument("--output", type=Path, help="directory of the reports (default: target/bench)")
    options = parser.parse_args()
    options.rounds = options.rounds or (5 if options.full else 3)
    options.seconds = options.seconds or (2 if options.full else 1)
    programs = [(BOUNCER, program) if at == 0 else named(program) for at, program in enumerate(options.pgbouncer)]
    options.pgbouncer = [(name, shutil.which(program) or program) for name, program in programs]
    return options


def is_wanted(options, name):
    return not options.only or any(fnmatch.fnmatch(name.replace(" ", "-"), pattern) for pattern in options.only)


def target_directory():
    said = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--no-deps"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    return Path(json.loads(said.stdout)["target_directory"]) if said.returncode == 0 else ROOT / "target"


def reachable(binary, directory, name="pgusher"):
    """A copy that an account without privileges may run, wherever the repository is."""
    copied = Path(directory, name)
    shutil.copy(binary, copied)
    copied.chmod(0o755)
    return copied


def about(options, cast, load):
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(["benches/pgbench/run.py", *map(shlex.quote, sys.argv[1:])]),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "pool_size": options.pool_size,
        "idle_clients": options.idle_clients,
        "processor": processor(),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "load": load,
        "versions": versions(cast),
    }


def versions(cast):
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True, timeout=10
    ).stdout.strip()
    found = [f"pgusher {commit}" if commit else "pgusher", version_of([str(PROGRAMS / "postgres"), "--version"])]
    bouncer = cast.fresh(BOUNCER)
    if bouncer:
        found.append(version_of([bouncer.binary, "--version"]))
    return [version for version in found if version]


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    raise_descriptors()
    target = target_directory()
    given = options.binary or target / "release/pgusher"
    if not given.is_file():
        sys.exit(f"{given} is not there: cargo build --release")
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    bench, cast = None, None
    try:
        bench = Bench(options.pool_size)
        options.pgusher = [(name, reachable(file, bench.directory, name)) for name, file in options.pgusher]
        cast = Cast(bench, options, reachable(given, bench.directory))
        binaries = {name: binary_size(cast.fresh(name).binary) for name in cast.poolers()}
        report = {"about": about(options, cast, load), "binaries": binaries}
        report["footprint"] = run_footprint(bench, cast, options)
        report["workloads"] = run_workloads(bench, cast, options)
        report["workers"] = run_workers(bench, cast, options)
        report["growth"] = run_growth(bench, cast, options)
        report["system_calls"] = run_system_calls(bench, cast, options)
    finally:
        if cast:
            cast.stop()
        if bench:
            bench.stop()
    output = options.output or target / "bench"
    output.mkdir(parents=True, exist_ok=True)
    text = markdown(report)
    (output / "pgbench.md").write_text(text)
    (output / "pgbench.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    print(text)
    say(f"written to {output}/pgbench.md and pgbench.json")


if __name__ == "__main__":
    main()
