"""What the clients do.

A workload is run by each of its `ways` in turn: a subject, and the door its clients come in by. `quick` says what the default
run has of it: nothing, all, or these ways.
"""

from subjects import PLAIN, SCRAM, TLS, TLS_SCRAM, Setup

ROW = "repeat('0123456789', 100)"  # 1,000 bytes
DIRECT, BOUNCER, OURS, IDENTITY = "direct", "pgbouncer", "pgusher", "pgusher+identity"
BOUNCER_SOCKET, OURS_SOCKET = "pgbouncer unix", "pgusher unix"
# Servers cleaned as PgBouncer does it: not because another client comes.
LEAN, LEAN_SOCKET = "pgusher when-needed", "pgusher when-needed unix"

POOLERS = (BOUNCER, OURS)
LIKE = (*POOLERS, LEAN)
ALL = (DIRECT, BOUNCER, OURS, LEAN, IDENTITY)
SOCKETS = (BOUNCER_SOCKET, OURS_SOCKET, LEAN_SOCKET)
DOORS = (*LIKE, *SOCKETS)


class Workload:
    """One thing clients do. `unit` says what a transaction of it is, if it is not one."""

    def __init__(
        self,
        name,
        clients=1,
        options=(),
        script=None,
        copy=None,
        megabytes=None,
        fixed=None,
        setup=PLAIN,
        ways=POOLERS,
        quick=(),
        seconds=0,
    ):
        self.name, self.clients, self.options, self.script = name, clients, list(options), script
        self.copy, self.megabytes, self.fixed, self.setup = copy, megabytes, fixed, setup
        self.ways, self.quick, self.seconds = ways, quick, seconds

    def logs_in_anew(self):
        return "-C" in self.options


def select(mode, clients, **more):
    return Workload(f"select-{mode}@{clients}", clients, ["-S", "-M", mode], **more)


def rows(name, sql, **more):
    return Workload(name, 1, script=sql + ";\n", **more)


def connect(name, setup, **more):
    return Workload(f"{name}@8", 8, ["-C"], script="select 1;\n", setup=setup, **more)


def pipeline(clients, **more):
    asked = "select abalance from pgbench_accounts where aid = :aid;\n" * 10
    script = f"\\set aid random(1, 100000)\n\\startpipeline\n{asked}\\endpipeline\n"
    return Workload(f"pipeline-10@{clients}", clients, ["-M", "extended"], script=script, **more)


WORKLOADS = [
    select("simple", 1, ways=ALL, quick=(BOUNCER, OURS)),
    select("simple", 16, ways=(*ALL, *SOCKETS), quick=(*DOORS, IDENTITY)),
    select("simple", 64, ways=(*ALL, *SOCKETS), quick=DOORS),
    select("simple", 256),
    # With so many clients a second is one transaction of each.
    select("simple", 1000, ways=LIKE, quick=LIKE, seconds=3),
    select("simple", 5000, ways=LIKE, seconds=6),
    Workload("select-1@1", 1, script="select 1;\n"),
    Workload("select-1@16", 16, script="select 1;\n"),
    Workload("select-1@64", 64, script="select 1;\n"),
    select("extended", 1),
    select("extended", 16, ways=(*LIKE, IDENTITY), quick=LIKE),
    select("extended", 64, ways=LIKE, quick=LIKE),
    select("prepared", 1),
    select("prepared", 16, ways=(*LIKE, IDENTITY), quick=LIKE),
    select("prepared", 64, ways=LIKE, quick=LIKE),
    Workload("tpcb@16", 16, ["-M", "simple"], ways=ALL, quick=POOLERS),
    pipeline(1),
    pipeline(16, ways=LIKE, quick=LIKE),
    pipeline(64, ways=LIKE),
    Workload("select-tls@16", 16, ["-S"], setup=TLS, ways=LIKE, quick=LIKE),
    Workload("select-tls@64", 64, ["-S"], setup=TLS, ways=LIKE),
    rows("result-1MB@1", f"select {ROW} from generate_series(1, 1000)", megabytes=1, fixed=50),
    rows("result-10MB@1", f"select {ROW} from generate_series(1, 10000)", megabytes=10, fixed=10, quick=POOLERS),
    rows("result-100MB@1", f"select {ROW} from generate_series(1, 100000)", megabytes=100, fixed=2),
    rows("rows-100000@1", "select i from generate_series(1, 100000) i", megabytes=1.7, fixed=10, quick=POOLERS),
    Workload(
        "copy-out-100MB@1",
        copy=f"copy (select {ROW} from generate_series(1, 100000)) to stdout",
        megabytes=100,
        quick=POOLERS,
    ),
    # Nothing is stored: it is the way there that is measured.
    Workload("copy-in-100MB@1", copy="copy sink from stdin where false", megabytes=100, quick=POOLERS),
    connect("connect", PLAIN, ways=(*LIKE, IDENTITY), quick=LIKE),
    connect("connect-scram", SCRAM, quick=POOLERS),
    # What this costs more than `connect` is the handshake.
    connect("connect-tls", TLS),
    connect("connect-tls-scram", TLS_SCRAM, quick=POOLERS),
    select("simple", 20),
]

WORKERS = Workload("workers@256", 256, ["-S"], seconds=2)
TWO = Setup(workers=2)
