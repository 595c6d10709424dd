"""Figures of one run: what the pooler's process used, by its own accounts, and what the clients saw.

What is counted lies between two looks at the accounts while all clients are in: their logins and their leaving are outside,
unless a workload is about them.
"""

import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from bisect import bisect_right
from pathlib import Path

from machine import DATABASE, OTHERS, Client, Failed, child, say, trusting
from workloads import Workload

LOOK = 0.02  # seconds between two looks


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


def thread_seconds(pid):
    """CPU of each thread, in seconds: the first number of its scheduler's statistics."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {task.name: int((task / "schedstat").read_text().split()[0]) / 1e9 for task in tasks}


def memory(pid, key):
    return int(re.search(rf"^{key}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M).group(1))


def resident(pid):
    return memory(pid, "VmRSS")


def percentile(sorted_values, share):
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * share))]


class Accounts:
    """The accounts of a process, looked at again and again while something else runs."""

    def __init__(self, pid):
        self.pid, self.looks, self.ended = pid, [], threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def __enter__(self):
        self.look()
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()
        self.look()

    def look(self):
        if self.pid:
            self.looks.append((time.time(), cpu_seconds(self.pid), *user_and_system(self.pid), waits(self.pid)))
        else:
            self.looks.append((time.time(), 0, 0, 0, 0))

    def watch(self):
        while not self.ended.wait(LOOK):
            self.look()

    def between(self, earliest, latest):
        """The first look after the one and the last before the other, or the whole if there is hardly anything in between."""
        inside = [look for look in self.looks if earliest <= look[0] <= latest]
        if len(inside) < 5:
            return self.looks[0], self.looks[-1]
        return inside[0], inside[-1]


def measure(bench, subject, workload, seconds, by_socket=False):
    """One run of one workload: a dictionary of figures."""
    seconds = max(seconds, workload.seconds) + connecting(workload)
    with Accounts(subject.pid if subject.command else None) as accounts:
        if workload.copy:
            done = copy(bench, subject, workload)
        else:
            done = pgbench(bench, subject, workload, seconds, by_socket)
    is_whole = workload.fixed or workload.copy or workload.logs_in_anew()
    # The first transaction of each comes at once with all others; the last ends while others are already gone.
    settled = done[min(workload.clients, len(done) // 2)][0]
    window = (0, 0) if is_whole else (settled, accounts.looks[0][0] + seconds - LOOK)
    begin, end = accounts.between(*window)
    times = [ended for ended, _ in done]
    inside = done[bisect_right(times, begin[0]) : bisect_right(times, end[0])] or done
    latencies, count = sorted(took for _, took in inside), len(inside)
    took, cpu, user, system, waited = (now - then for now, then in zip(end, begin))
    sample = {
        "transactions": count,
        "tps": count / took,
        "p50_us": percentile(latencies, 0.50),
        "p99_us": percentile(latencies, 0.99),
        "p999_us": percentile(latencies, 0.999),
    }
    if workload.megabytes:
        sample["mb_per_second"] = sample["tps"] * workload.megabytes
    if subject.command:
        sample["cpu_us"] = cpu / count * 1e6
        sample["cpu_share"] = cpu / took
        sample["user_share"] = user / max(1, user + system)
        sample["waits"] = waited / count
    return sample


def connecting(workload):
    """Seconds until all clients are in, for which pgbench has no others: a handshake costs it a lot."""
    return math.ceil(workload.clients / 16) if workload.setup.tls else workload.clients // 250


def pgbench(bench, subject, workload, seconds, by_socket=False):
    """When each transaction ended, in seconds, and how long it took, in microseconds; in that order."""
    with tempfile.TemporaryDirectory(dir=bench.directory) as directory:
        how_long = ["-t", str(workload.fixed)] if workload.fixed else ["-T", str(seconds)]
        arguments = ["-n", "-c", str(workload.clients), "-j", "1", "--log", *how_long, *workload.options]
        if workload.script:
            script = Path(directory, "script.sql")
            script.write_text(workload.script)
            arguments += ["-f", str(script)]
        environment = dict(subject.environment)
        if by_socket:
            environment["PGHOST"] = str(subject.directory)
        if workload.setup.tls:
            environment["PGSSLMODE"] = "require"
        said = bench.pgbench(subject.port, arguments, seconds + 60, environment, directory)
        done = sorted(map(transaction, lines(directory)))
    failed = re.search(r"number of failed transactions: (\d+)", said)
    if failed and failed.group(1) != "0":
        raise Failed(f"{failed.group(1)} transactions failed")
    if not done:
        raise Failed("no transaction came to its end in time")
    return done


def lines(directory):
    for log in Path(directory).glob("pgbench_log.*"):
        with log.open("rb") as opened:
            yield from opened


def transaction(line):
    _, _, took, _, seconds, micros = line.split(b" ", 6)[:6]
    return int(seconds) + int(micros) / 1e6, int(took)


def copy(bench, subject, workload):
    began = time.time()
    with open(bench.lines, "rb") as lines:
        done = bench.client_program(
            "psql",
            ["-X", "-q", "-c", workload.copy],
            subject.port,
            120,
            subject.environment,
            stdin=lines,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    if done.returncode != 0:
        raise Failed(done.stderr.decode(errors="replace").split("\n")[0])
    return [(time.time(), (time.time() - began) * 1e6)]


def system_calls(bench, subject, mode, clients):
    """System calls per transaction, counted by strace, which slows what it counts; logins are counted too, and subtracted."""
    totals = []
    # Counted, not timed: enough of them, however slow the machine is.
    for each in (max(10, 100 // clients), max(110, 1_100 // clients)):
        workload = Workload("system-calls", clients, ["-S", "-M", mode], fixed=each)
        totals.append((each * clients, counted(bench, subject, workload)))
    (few, less), (many, more) = totals
    return (more - less) / (many - few) if less and more else None


def counted(bench, subject, workload):
    strace = shutil.which("strace")
    if not strace:
        return None
    with tempfile.NamedTemporaryFile(dir=bench.directory) as report:
        command = [strace, "-f", "-c", "-o", report.name, "-p", str(subject.pid)]
        counter = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until_traced(subject.pid, counter)
            pgbench(bench, subject, workload, 1)
        except (Failed, subprocess.TimeoutExpired) as error:
            say(f"system calls of {subject.name}: {error}")
            return None
        finally:
            if counter.poll() is None:
                counter.send_signal(signal.SIGINT)
            counter.wait(10)
        text = Path(report.name).read_text(errors="replace")
        found = re.search(r"^\s*100\.00\s+\S+\s+\S+\s+(\d+)", text, re.M)
        return int(found.group(1)) if found else None


def until_traced(pid, counter):
    deadline = time.monotonic() + 5
    while "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text():
        if counter.poll() is not None or time.monotonic() > deadline:
            raise Failed("strace may not look at it")
        time.sleep(0.01)


def footprint(bench, subject, clients, tls=False):
    """A fresh process: its memory at rest, what each idle client adds, and the most it ever had."""
    started = subject.start(bench)
    try:
        rest = resident(subject.pid)
        # The pool's servers are there before the clients are counted, and have been busy.
        busy = ["-n", "-S", "-t", "20", "-c", str(bench.pool_size * 2), "-j", "1"]
        bench.pgbench(subject.port, busy, 60, subject.environment)
        warm = resident(subject.pid)
        with idle(subject, clients, tls):
            full = resident(subject.pid)
        return {
            "start_ms": started,
            "rest_kb": rest,
            "client_kb": (full - warm) / clients,
            "peak_kb": memory(subject.pid, "VmHWM"),
        }
    finally:
        subject.stop()


def readiness(bench, subject):
    """Milliseconds from the start of the process until it answers: a question that needs no server."""
    try:
        return subject.launch(bench, subject.shake)
    finally:
        subject.stop()


class idle:
    """Clients that have run one query each and say nothing more."""

    def __init__(self, subject, count, tls=False, name=lambda _: DATABASE):
        self.subject, self.count, self.name, self.clients = subject, count, name, []
        self.context = trusting() if tls else None

    def __enter__(self):
        options = self.subject.environment.get("PGOPTIONS")
        try:
            for number in range(self.count):
                client = Client(self.subject.port, database=self.name(number), options=options, tls=self.context)
                self.clients.append(client)
                client.query("select 1")
        except OSError as error:
            self.__exit__()
            raise Failed(f"client {len(self.clients) + 1}: {error}") from error
        return self

    def __exit__(self, *_):
        for client in self.clients:
            try:
                client.close()
            except OSError:
                pass


def capacity(bench, subject, workload, workers, seconds):
    """Transactions a second if nothing but the pooler's CPUs were the limit.

    Each worker can do as much as a CPU second pays for; all together what the busiest lets them. On a machine with few CPUs
    clients and PostgreSQL take turns with the workers, so that a rate that was seen would say more of those.
    """
    before = thread_seconds(subject.pid)
    sample = measure(bench, subject, workload, seconds)
    spent = [used - before.get(thread, 0) for thread, used in thread_seconds(subject.pid).items()]
    busiest = sorted(spent)[-workers:]
    balance = statistics.mean(busiest) / max(busiest)
    return {**sample, "balance": balance, "capacity": workers * balance / sample["cpu_us"] * 1e6}


def binary_size(binary):
    """Of the file, and without symbols."""
    size, stripped = os.path.getsize(binary), None
    if shutil.which("strip"):
        with tempfile.NamedTemporaryFile() as copied:
            done = subprocess.run(["strip", "-o", copied.name, binary], capture_output=True, timeout=60)
            stripped = os.path.getsize(copied.name) if done.returncode == 0 else None
    return {"file": size, "stripped": stripped}


def middle(samples, key):
    values = [sample[key] for sample in samples if sample.get(key) is not None]
    return statistics.median(values) if values else None


def ratios(samples, baseline, key):
    """Of each round, so that both halves of a ratio had the same weather."""
    return [
        ours[key] / theirs[key] for ours, theirs in zip(samples, baseline) if ours.get(key) and theirs.get(key)
    ]
