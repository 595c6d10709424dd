#!/usr/bin/env python3
"""pgbench against PostgreSQL itself, PgBouncer and pgusher: one command, one run, one table.

    benches/pgbench/run.py [--quick | --full] [--only PATTERN] [--subject NAME=COMMAND] ...

Everything runs interleaved, so that whatever else the machine does falls on all subjects alike; each figure is the
median of the rounds, each ratio the median of the rounds' own ratios. The poolers share one CPU, to which nothing else
of ours is bound; PostgreSQL and pgbench have the others. Everything is started here, on loopback, without privileges,
and ends with this program. What the figures mean is in benches/README.md.

A COMMAND is a template: {port} is where the subject is to listen, {server_port} where PostgreSQL does; {pool_size},
{database}, {user} and {directory} (an empty one of its own) say the rest. Clients log in without a password.
"""

import argparse
import ctypes
import fcntl
import fnmatch
import json
import os
import platform
import re
import resource
import shlex
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MAJOR = "15"
PROGRAMS = Path("/usr/lib/postgresql", MAJOR, "bin")
DATABASE, USER = "bench", "trusted"
IDENTITY = "6f2b1c3e-8a4d-4f5e-9c7b-0123456789ab"
PINNED, OTHERS = (lambda cpus: (cpus[-1:], cpus[:-1] or cpus))(sorted(os.sched_getaffinity(0)))
BASELINE = "pgbouncer"


# What is run.


class Workload:
    """One thing clients do. `unit` says what a transaction of it is, if it is not one."""

    def __init__(self, name, clients=1, options=(), script=None, copy=None, megabytes=None, is_quick=False, fixed=None):
        self.name, self.clients, self.options, self.script = name, clients, list(options), script
        self.copy, self.megabytes, self.is_quick, self.fixed = copy, megabytes, is_quick, fixed


ROW = "repeat('0123456789', 100)"  # 1,000 bytes


def select(mode, clients, is_quick=False):
    return Workload(f"select-{mode}@{clients}", clients, ["-S", "-M", mode], is_quick=is_quick)


WORKLOADS = [
    select("simple", 1, True),
    select("simple", 16, True),
    select("simple", 64, True),
    select("extended", 1),
    select("extended", 16, True),
    select("extended", 64),
    select("prepared", 1),
    select("prepared", 16, True),
    select("prepared", 64),
    select("simple", 1000, True),
    Workload("tpcb@16", 16, ["-M", "simple"], is_quick=True),
    Workload(
        "pipeline-10@16",
        16,
        ["-M", "extended"],
        script="\\set aid random(1, 100000)\n\\startpipeline\n"
        + "select abalance from pgbench_accounts where aid = :aid;\n" * 10
        + "\\endpipeline\n",
        is_quick=True,
    ),
    Workload(
        "result-1MB@1", 1, script=f"select {ROW} from generate_series(1, 1000);\n", megabytes=1, fixed=50, is_quick=True
    ),
    Workload(
        "result-100MB@1", 1, script=f"select {ROW} from generate_series(1, 100000);\n", megabytes=100, fixed=2
    ),
    Workload(
        "copy-out-100MB@1",
        copy=f"copy (select {ROW} from generate_series(1, 100000)) to stdout",
        megabytes=100,
        is_quick=True,
    ),
    # Nothing is stored: it is the way there that is measured.
    Workload("copy-in-100MB@1", copy="copy sink from stdin where false", megabytes=100, is_quick=True),
    Workload("connect@8", 8, ["-C"], script="select 1;\n", is_quick=True),
]


class Subject:
    """What stands between pgbench and PostgreSQL; `command` is None for nothing."""

    def __init__(self, name, command, environment=None, prepare=None, binary=None):
        self.name, self.command, self.environment, self.prepare = name, command, environment or {}, prepare
        self.binary = binary or (shlex.split(command)[0] if command else None)
        self.port = self.process = None

    def start(self, bench):
        """Runs it until it answers a query; returns how long that took, in milliseconds."""
        if not self.command:
            self.port = bench.server_port
            return None
        self.port = free_port()
        directory = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=bench.directory))
        directory.chmod(0o777)
        words = dict(
            port=self.port,
            server_port=bench.server_port,
            pool_size=bench.pool_size,
            database=DATABASE,
            user=USER,
            directory=directory,
        )
        if self.prepare:
            self.prepare(directory, words)
        command = [word.format(**words) for word in shlex.split(self.command)]
        log = open(directory / "log", "wb")
        began = time.monotonic()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: child(PINNED),
            **bench.account,
        )
        self.pid = self.process.pid
        while True:
            if self.process.poll() is not None or time.monotonic() - began > 15:
                sys.exit(f"{self.name} does not start:\n{(directory / 'log').read_text(errors='replace')[-2000:]}")
            try:
                client = Client(self.port)
                client.query("select 1")
                client.close()
                return (time.monotonic() - began) * 1e3
            except OSError:
                time.sleep(0.0005)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5)
        self.process = None


def pgbouncer():
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    if not os.access(program, os.X_OK):
        return None
    version = tuple(map(int, re.findall(r"\d+", version_of([program, "--version"]))[:2]))

    def prepare(directory, words):
        extra = "max_prepared_statements = 200\n" if version >= (1, 21) else ""
        (directory / "users.txt").write_text(f'"{USER}" ""\n')
        (directory / "pgbouncer.ini").write_text(
            f"[databases]\n{DATABASE} = host=127.0.0.1 port={words['server_port']} dbname={DATABASE}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {words['port']}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {directory}/users.txt\npool_mode = transaction\n"
            f"default_pool_size = {words['pool_size']}\nmax_client_conn = 10000\n"
            "ignore_startup_parameters = extra_float_digits\n"
            f"log_connections = 0\nlog_disconnections = 0\nlog_stats = 0\n{extra}"
        )

    return Subject("pgbouncer", f"{program} {{directory}}/pgbouncer.ini", prepare=prepare, binary=program)


def pgusher(binary, identity):
    command = (
        f"env PGUSHER_METRICS_LISTEN=off {shlex.quote(str(binary))} --listen 127.0.0.1:{{port}} --auth trust --pool-size {{pool_size}} "
        f"--upstream postgres://{{user}}@127.0.0.1:{{server_port}}/{{database}} --identity {identity} --log warn"
    )
    environment = {"PGOPTIONS": f"-c app.current_user_id={IDENTITY}"} if identity == "on" else {}
    name = "pgusher" if identity == "off" else "pgusher+identity"
    return Subject(name, command, environment, binary=str(binary))


# The machine.


def child(cpus):
    """In a process of ours: on these CPUs, with descriptors enough, and not outliving us."""
    os.sched_setaffinity(0, cpus)
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def version_of(command):
    return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip().split("\n")[0]


def processor():
    text = Path("/proc/cpuinfo").read_text()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    return found.group(1) if found else platform.machine()


class Bench:
    """A PostgreSQL of our own."""

    def __init__(self, pool_size):
        self.pool_size = pool_size
        self.directory = Path(tempfile.mkdtemp(prefix="pgusher-bench-"))
        self.directory.chmod(0o755)
        self.account, self.server, self.cluster = {}, None, None
        script = str(ROOT / "tests/postgres.sh")
        run = lambda *words: subprocess.run([script, *words], check=True, capture_output=True, text=True, timeout=120).stdout
        state = Path(run("state").strip())
        # While this is locked, tests that end do not remove our cluster.
        self.lease = open(state / "lease", "a")
        fcntl.flock(self.lease, fcntl.LOCK_SH)
        self.cluster = Path(run("private", MAJOR).strip())
        owner = self.cluster.stat()
        if os.geteuid() == 0:
            self.account = dict(user=owner.st_uid, group=owner.st_gid, extra_groups=[])
        self.server_port = free_port()
        settings = dict(
            port=self.server_port, unix_socket_directories="", max_connections=300, shared_buffers="128MB", max_wal_size="1GB"
        )
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self.server = subprocess.Popen(
            [script, "exec", MAJOR, "postgres", "-D", str(self.cluster / "data"), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=open(self.directory / "postgres.log", "wb"),
            preexec_fn=lambda: child(OTHERS),
        )
        self.fill()

    def fill(self):
        began = time.monotonic()
        while True:
            try:
                with Client(self.server_port, "postgres", "postgres") as client:
                    client.query(f"create database {DATABASE} owner {USER}")
                break
            except OSError:
                if self.server.poll() is not None or time.monotonic() - began > 30:
                    sys.exit(f"PostgreSQL does not start:\n{(self.directory / 'postgres.log').read_text()[-2000:]}")
                time.sleep(0.05)
        self.pgbench(self.server_port, ["-i", "-q", "-s", "10"], timeout=120)
        with Client(self.server_port) as client:
            client.query("create table sink (line text)")
        self.lines = self.directory / "lines"
        self.lines.write_bytes(((b"0123456789" * 100)[1:] + b"\n") * 100_000)

    def environment(self, subject=None):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        kept.update(PGHOST="127.0.0.1", PGUSER=USER, PGDATABASE=DATABASE, PGSSLMODE="disable", PGGSSENCMODE="disable")
        kept.update(subject.environment if subject else {})
        return kept

    def client_program(self, program, arguments, port, timeout, subject=None, **streams):
        return subprocess.run(
            [str(PROGRAMS / program), "-p", str(port), *arguments],
            env=self.environment(subject),
            timeout=timeout,
            preexec_fn=lambda: child(OTHERS),
            **({"stdin": subprocess.DEVNULL} | streams),
        )

    def pgbench(self, port, arguments, timeout, subject=None, directory=None):
        done = self.client_program(
            "pgbench", arguments, port, timeout, subject, cwd=directory, text=True, capture_output=True
        )
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if "error" in line.lower() or "fatal" in line.lower()]
            raise Failed(said[0] if said else f"pgbench ended with {done.returncode}")
        return done.stdout

    def stop(self):
        if self.server and self.server.poll() is None:
            self.server.send_signal(signal.SIGQUIT)
            try:
                self.server.wait(10)
            except subprocess.TimeoutExpired:
                self.server.kill()
        for directory in (self.cluster, self.directory):
            if directory:
                shutil.rmtree(directory, ignore_errors=True)


class Failed(Exception):
    """A workload that the subject cannot do."""


class Client:
    """A connection that can say one thing after another; for the memory of those who say little."""

    def __init__(self, port, user=USER, database=DATABASE, options=None):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rest = b""
        words = ["user", user, "database", database] + (["options", options] if options else [])
        body = struct.pack("!I", 3 << 16) + b"".join(word.encode() + b"\0" for word in words) + b"\0"
        self.socket.sendall(struct.pack("!I", len(body) + 4) + body)
        self.until_ready()

    def query(self, sql):
        body = sql.encode() + b"\0"
        self.socket.sendall(b"Q" + struct.pack("!I", len(body) + 4) + body)
        self.until_ready()

    def until_ready(self):
        while True:
            while len(self.rest) >= 5:
                tag, length = self.rest[:1], struct.unpack("!I", self.rest[1:5])[0] + 1
                if len(self.rest) < length:
                    break
                body, self.rest = self.rest[5:length], self.rest[length:]
                if tag == b"E":
                    raise ConnectionError(body.decode(errors="replace"))
                if tag == b"Z":
                    return
            received = self.socket.recv(65536)
            if not received:
                raise ConnectionError("closed")
            self.rest += received

    def close(self):
        self.socket.sendall(b"X\0\0\0\4")
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# The figures.


def cpu_seconds(pid):
    """What the process has used so far, exact to the nanosecond: its own CPU-time clock."""
    return time.clock_gettime((~pid << 3) | 2)


def user_and_system(pid):
    """The same in ticks, but told apart."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]), int(fields[12])


def waits(pid):
    """Voluntary context switches of all threads: the times it had nothing to do."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text(), re.M).group(1))
    return total


def resident(pid):
    return int(re.search(r"^VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M).group(1))


def percentile(sorted_values, share):
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * share))]


def measure(bench, subject, workload, seconds):
    """One run of one workload: a dictionary of figures."""
    pid = subject.pid if subject.command else None
    before = (cpu_seconds(pid), *user_and_system(pid), waits(pid)) if pid else None
    began = time.monotonic()
    if workload.copy:
        sample = copy(bench, subject, workload)
    else:
        sample = pgbench(bench, subject, workload, seconds)
    took = time.monotonic() - began
    count = sample["transactions"]
    if workload.megabytes:
        sample["mb_per_second"] = sample["tps"] * workload.megabytes
    if pid:
        cpu, user, system, waited = (now - then for now, then in zip((cpu_seconds(pid), *user_and_system(pid), waits(pid)), before))
        sample["cpu_us"] = cpu / count * 1e6
        sample["cpu_share"] = cpu / took
        sample["user_share"] = user / max(1, user + system)
        sample["waits"] = waited / count
    return sample


def pgbench(bench, subject, workload, seconds):
    with tempfile.TemporaryDirectory(dir=bench.directory) as directory:
        how_long = ["-t", str(workload.fixed)] if workload.fixed else ["-T", str(seconds)]
        arguments = ["-n", "-c", str(workload.clients), "-j", "1", "--log", *how_long, *workload.options]
        if workload.script:
            script = Path(directory, "script.sql")
            script.write_text(workload.script)
            arguments += ["-f", str(script)]
        said = bench.pgbench(subject.port, arguments, seconds + 60, subject, directory)
        latencies = sorted(
            int(line.split(b" ", 3)[2]) for log in Path(directory).glob("pgbench_log.*") for line in log.open("rb")
        )
    failed = re.search(r"number of failed transactions: (\d+)", said)
    if failed and failed.group(1) != "0":
        raise Failed(f"{failed.group(1)} transactions failed")
    if not latencies:
        raise Failed("no transaction came to its end in time")
    return {
        "transactions": len(latencies),
        "tps": float(re.search(r"^tps = ([\d.]+)", said, re.M).group(1)),
        "p50_us": percentile(latencies, 0.50),
        "p99_us": percentile(latencies, 0.99),
    }


def copy(bench, subject, workload):
    began = time.monotonic()
    with open(bench.lines, "rb") as lines:
        done = bench.client_program(
            "psql",
            ["-X", "-q", "-c", workload.copy],
            subject.port,
            120,
            subject,
            stdin=lines,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    took = time.monotonic() - began
    if done.returncode != 0:
        raise Failed(done.stderr.decode(errors="replace").split("\n")[0])
    return {"transactions": 1, "tps": 1 / took, "p50_us": took * 1e6, "p99_us": took * 1e6}


def system_calls(bench, subject, clients):
    """System calls per transaction, counted by perf, or by strace, which slows what it counts."""
    perf, strace = shutil.which("perf"), shutil.which("strace")
    pid = str(subject.pid)
    # Counted, not timed: enough of them, however slow the machine or strace is.
    workload = Workload(f"system-calls@{clients}", clients, ["-S"], fixed=max(50, 1_000 // clients))
    with tempfile.NamedTemporaryFile(dir=bench.directory) as report:
        attempts = []
        if perf:
            attempts.append([perf, "stat", "-x", ";", "-o", report.name, "-e", "raw_syscalls:sys_enter", "-p", pid])
        if strace:
            attempts.append([strace, "-f", "-c", "-o", report.name, "-p", pid])
        for command in attempts:
            counter = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                time.sleep(0.3)  # neither says when it has begun
                if counter.poll() is not None:
                    continue
                sample = pgbench(bench, subject, workload, 1)
            except (Failed, subprocess.TimeoutExpired) as error:
                say(f"system calls of {subject.name}: {error}")
                continue
            finally:
                if counter.poll() is None:
                    counter.send_signal(signal.SIGINT)
                counter.wait(10)
            text = Path(report.name).read_text(errors="replace")
            found = re.search(r"^(\d+);", text, re.M) or re.search(r"^\s*100\.00\s+\S+\s+\S+\s+(\d+)", text, re.M)
            if found:
                return int(found.group(1)) / sample["transactions"]
    return None


def footprint(bench, subject, clients):
    """A fresh process: how long it takes to start, its memory at rest, and what each idle client adds."""
    started = subject.start(bench)
    try:
        options = subject.environment.get("PGOPTIONS")
        rest = resident(subject.pid)
        # The pool's servers are there before the clients are counted.
        bench.pgbench(subject.port, ["-n", "-S", "-t", "20", "-c", str(bench.pool_size * 2), "-j", "1"], 60, subject)
        warm = resident(subject.pid)
        connections = []
        try:
            for _ in range(clients):
                connections.append(Client(subject.port, options=options))
                connections[-1].query("select 1")
            full = resident(subject.pid)
        finally:
            for connection in connections:
                connection.close()
        return {
            "start_ms": started,
            "rest_kb": rest,
            "warm_kb": warm,
            "client_kb": (full - warm) / clients,
        }
    finally:
        subject.stop()


def binary_size(binary):
    """Of the file, and without symbols."""
    size, stripped = os.path.getsize(binary), None
    if shutil.which("strip"):
        with tempfile.NamedTemporaryFile() as copy:
            done = subprocess.run(["strip", "-o", copy.name, binary], capture_output=True, timeout=60)
            stripped = os.path.getsize(copy.name) if done.returncode == 0 else None
    return {"file": size, "stripped": stripped}


# The report.


def middle(samples, key):
    values = [sample[key] for sample in samples if sample.get(key) is not None]
    return statistics.median(values) if values else None


def ratios(samples, baseline, key):
    """Of each round, so that both halves of a ratio had the same weather."""
    return [
        ours[key] / theirs[key] for ours, theirs in zip(samples, baseline) if ours.get(key) and theirs.get(key)
    ]


def shown(value, digits=3):
    if value is None:
        return "—"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, digits - len(str(int(value))))}f}"


def spread(values):
    if not values:
        return "—"
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join(" --- " if i < 2 else " ---: " for i in range(len(header))) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def markdown(report):
    about = report["about"]
    parts = [
        f"# pgbench, {about['date']}\n",
        f"`{about['command']}`: {about['rounds']} rounds of {about['seconds']} s, interleaved; pool size {about['pool_size']}; "
        f"{about['processor']}, {about['cpus']} CPUs, the pooler on one of them; load average before the run {about['load']}. "
        + "; ".join(about["versions"])
        + ".\n",
        f"CPU is the pooler's own, user and system, per transaction. Ratios are to {BASELINE}, of the same round: median (least–most).\n",
    ]
    rows, notes = [], []
    for workload, subjects in report["workloads"].items():
        baseline = subjects.get(BASELINE, {}).get("samples", [])
        for subject, result in subjects.items():
            samples = result["samples"]
            if not samples:
                rows.append([workload, subject] + ["—"] * 6)
                notes.append(f"- {workload}, {subject}: {result['failed'] or 'not run'}")
                continue
            ratio = spread(ratios(samples, baseline, "cpu_us")) if subject != BASELINE else "1"
            rows.append(
                [workload, subject, shown(middle(samples, "cpu_us")), ratio if middle(samples, "cpu_us") else "—"]
                + [shown(middle(samples, "waits")), shown(middle(samples, "p50_us") / 1e3)]
                + [shown(middle(samples, "p99_us") / 1e3)]
                + [shown(middle(samples, "tps"))]
            )
    header = ["workload", "subject", "CPU µs", "ratio", "waits", "p50 ms", "p99 ms", "per second"]
    if rows:
        parts.append(table(header, rows))
    if notes:
        parts.append("\n".join(notes) + "\n")
    if report["system_calls"]:
        parts.append("System calls per transaction, `select-simple`:\n")
        counts = sorted({int(clients) for calls in report["system_calls"].values() for clients in calls})
        rows = [
            [subject, *(shown(calls.get(clients)) for clients in counts)]
            for subject, calls in report["system_calls"].items()
        ]
        parts.append(table(["subject", *(f"{clients} clients" if clients > 1 else "1 client" for clients in counts)], rows))
    if report["footprint"]:
        parts.append(f"Footprint, fresh processes; an idle client has run one query ({about['idle_clients']:,} of them):\n")
        rows = []
        for subject, result in report["footprint"].items():
            samples, size = result["samples"], result["binary"]
            rest = middle(samples, "rest_kb")
            rows.append(
                [subject, shown(middle(samples, "start_ms")), shown(rest and rest / 1024)]
                + [shown(middle(samples, "client_kb")), shown(size["file"] / 2**20)]
                + [shown(size["stripped"] and size["stripped"] / 2**20)]
            )
        header = ["subject", "start to first answer ms", "resident at rest MB", "per idle client kB", "binary MB", "stripped MB"]
        parts.append(table(header, rows))
    return "\n".join(parts)


# One run.


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help="what matters most, about three minutes (the default)")
    length.add_argument("--full", action="store_true", help="everything, about half an hour")
    parser.add_argument("--only", metavar="PATTERN", help="workloads, `system-calls` or `footprint`, such as 'select-*'")
    parser.add_argument("--subject", metavar="NAME=COMMAND", action="append", default=[], help="one more subject")
    parser.add_argument("--binary", type=Path, help="the pgusher to measure (default: the release build)")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=int, help="of each run")
    parser.add_argument("--pool-size", type=int, default=20)
    parser.add_argument("--idle-clients", type=int, default=1000)
    parser.add_argument("--output", type=Path, help="directory of the reports (default: target/bench)")
    options = parser.parse_args()
    options.rounds = options.rounds or (5 if options.full else 3)
    options.seconds = options.seconds or (5 if options.full else 1)
    return options


def target_directory():
    said = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--no-deps"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    return Path(json.loads(said.stdout)["target_directory"]) if said.returncode == 0 else ROOT / "target"


def reachable(binary, directory):
    """A copy that an account without privileges may run, wherever the repository is."""
    copy = Path(directory, "pgusher")
    shutil.copy(binary, copy)
    copy.chmod(0o755)
    return copy


def subjects_of(options, binary):
    subjects = [Subject("direct", None), pgbouncer(), pgusher(binary, "off"), pgusher(binary, "on")]
    for given in options.subject:
        name, _, command = given.partition("=")
        if not command:
            sys.exit(f"--subject {given}: NAME=COMMAND is expected")
        subjects.append(Subject(name, command))
    return [subject for subject in subjects if subject]


def is_wanted(options, name):
    return not options.only or fnmatch.fnmatch(name, options.only)


def run_workloads(bench, subjects, options):
    results = {}
    for workload in WORKLOADS:
        wanted = is_wanted(options, workload.name) and (options.full or options.only or workload.is_quick)
        if not wanted:
            continue
        result = results[workload.name] = {subject.name: {"samples": [], "failed": None} for subject in subjects}
        if workload.clients > 200:
            del result["direct"]  # PostgreSQL has max_connections
        for turn in range(options.rounds):
            for subject in subjects:
                mine = result.get(subject.name)
                if mine is None or mine["failed"]:
                    continue
                try:
                    mine["samples"].append(measure(bench, subject, workload, options.seconds))
                except (Failed, subprocess.TimeoutExpired) as error:
                    mine["samples"], mine["failed"] = [], str(error)
            say(f"{workload.name}: round {turn + 1} of {options.rounds}")
    return results


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    target = target_directory()
    given = options.binary or target / "release/pgusher"
    if not given.is_file():
        sys.exit(f"{given} is not there: cargo build --release")
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    bench, subjects = None, []
    try:
        bench = Bench(options.pool_size)
        subjects = subjects_of(options, reachable(given, bench.directory))
        poolers = [subject for subject in subjects if subject.command]
        report = {
            "about": {
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
                "versions": versions(poolers),
            },
            "workloads": {},
            "system_calls": {},
            "footprint": {},
        }
        if is_wanted(options, "footprint"):
            report["footprint"] = {
                subject.name: {"samples": [], "binary": binary_size(subject.binary)} for subject in poolers
            }
            for turn in range(3):
                for subject in poolers:
                    try:
                        sample = footprint(bench, subject, options.idle_clients)
                        report["footprint"][subject.name]["samples"].append(sample)
                    except (Failed, subprocess.TimeoutExpired, OSError) as error:
                        say(f"footprint of {subject.name}: {error}")
                say(f"footprint: round {turn + 1} of 3")
        for subject in subjects:
            subject.start(bench)
        for subject in poolers:  # every server is there, and every page has been touched
            bench.pgbench(subject.port, ["-n", "-S", "-t", "50", "-c", "64", "-j", "1"], 60, subject)
        report["workloads"] = run_workloads(bench, subjects, options)
        if is_wanted(options, "system-calls"):
            for subject in poolers:
                counted = {clients: system_calls(bench, subject, clients) for clients in (1, 64)}
                report["system_calls"][subject.name] = {k: v for k, v in counted.items() if v is not None}
            report["system_calls"] = {k: v for k, v in report["system_calls"].items() if v}
            say("system calls")
    finally:
        for subject in subjects:
            subject.stop()
        if bench:
            bench.stop()
    output = options.output or target / "bench"
    output.mkdir(parents=True, exist_ok=True)
    text = markdown(report)
    (output / "pgbench.md").write_text(text)
    (output / "pgbench.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    print(text)
    say(f"written to {output}/pgbench.md and pgbench.json")


def versions(poolers):
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True, timeout=10
    ).stdout.strip()
    found = [f"pgusher {commit}" if commit else "pgusher", version_of([str(PROGRAMS / "postgres"), "--version"])]
    for subject in poolers:
        if subject.name == "pgbouncer":
            found.append(version_of([subject.binary, "--version"]))
    return [version for version in found if version]


if __name__ == "__main__":
    main()
