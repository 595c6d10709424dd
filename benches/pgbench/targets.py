"""What we want to be true, and whether this run says it is.

A target is judged by the median of the rounds. One whose spread has the limit inside is "met" or "missed" by chance, and says
so: measure it for longer.
"""

import statistics

from figures import ratios
from workloads import BOUNCER, BOUNCER_SOCKET, IDENTITY, LEAN, LEAN_SOCKET, OURS, OURS_SOCKET


class Target:
    """A figure, found in a report by `values`, and the limit it has to keep."""

    def __init__(self, figure, sense, limit, values, unit=""):
        self.figure, self.sense, self.limit, self.values, self.unit = figure, sense, limit, values, unit

    def judge(self, report):
        """The values of the rounds, and what they say of the target."""
        values = self.values(report)
        if not values:
            return [], "not measured"
        keeps = (lambda value: value <= self.limit) if self.sense == "<=" else (lambda value: value >= self.limit)
        verdict = "met" if keeps(statistics.median(values)) else "missed"
        is_certain = all(map(keeps, values)) or not any(map(keeps, values))
        return values, verdict if is_certain else f"{verdict}, within the spread"


def against(workload, key="cpu_us", ours=OURS, theirs=BOUNCER, is_rate=False):
    """Ratios within a workload, round by round; of a rate, ours to theirs as transactions per CPU second."""

    def values(report):
        ways = report["workloads"].get(workload, {})
        mine, other = (ways.get(way, {}).get("samples", []) for way in (ours, theirs))
        return ratios(other, mine, key) if is_rate else ratios(mine, other, key)

    return values


def calls(mode, clients):
    def values(report):
        count = report["system_calls"].get(OURS, {}).get(f"{mode}@{clients}")
        return [count] if count else []

    return values


def of_footprint(kind, key, divisor=1):
    def values(report):
        samples = report["footprint"].get(OURS, {}).get(kind, [])
        return [sample[key] / divisor for sample in samples if sample.get(key)]

    return values


def binary(report):
    size = report["binaries"].get(OURS, {}).get("stripped")
    return [size / 2**20] if size else []


def workers(report):
    pairs = report["workers"].get(OURS, [])
    return [two["capacity"] / one["capacity"] for one, two in pairs]


def growth(name):
    def values(report):
        pairs = report["growth"].get(name, {}).get("subjects", {}).get(OURS, [])
        return [many["cpu_us"] / few["cpu_us"] for few, many in pairs]

    return values


def cpu(figure, workload, limit, **ways):
    return Target(f"pooler CPU per transaction, {figure}", "<=", limit, against(workload, **ways))


# As it is delivered; and as PgBouncer does it, which cleans no server because another client comes.
WORDS = ", clean = when-needed"
HOWEVER = [(OURS, ""), (LEAN, WORDS)]
HOWEVER_BY_SOCKET = [(OURS_SOCKET, ""), (LEAN_SOCKET, WORDS)]

TARGETS = [
    *(
        cpu(f"{mode}, {clients} clients, TCP{words}", f"select-{mode}@{clients}", limit, ours=ours)
        for mode, limit in [("simple", 0.90), ("extended", 0.90), ("prepared", 0.80)]
        for clients in (16, 64)
        for ours, words in HOWEVER
    ),
    *(
        cpu(f"simple, {clients} clients on our unix socket, {other}{words}", f"select-simple@{clients}", limit, ours=ours, theirs=theirs)
        for other, limit, theirs in [("theirs on TCP", 0.70, BOUNCER), ("theirs too", 0.90, BOUNCER_SOCKET)]
        for clients in (16, 64)
        for ours, words in HOWEVER_BY_SOCKET
    ),
    *(
        cpu(f"simple, {clients:,} clients, TCP{words}", f"select-simple@{clients}", 0.85, ours=ours)
        for clients in (1000, 5000)
        for ours, words in HOWEVER
    ),
    *(
        Target(f"system calls per transaction, {mode}, {words}", "<=", limit, calls(mode, clients))
        for mode in ("simple", "prepared")
        for clients, words, limit in [(1, "1 client", 6.05), (64, "64 clients", 4.5)]
    ),
    Target("p50, simple, 1 client", "<=", 1.00, against("select-simple@1", "p50_us")),
    *(
        Target(f"p99, simple, {clients:,} clients{words}", "<=", 0.80, against(f"select-simple@{clients}", "p99_us", ours=ours))
        for clients in (64, 1000)
        for ours, words in HOWEVER
    ),
    *(
        Target(f"pooler CPU per megabyte, {words}", "<=", limit, against(workload))
        for words, workload, limit in [
            ("results of 10 MB", "result-10MB@1", 0.40),
            ("results of 100 MB", "result-100MB@1", 0.40),
            ("COPY out", "copy-out-100MB@1", 0.40),
            ("COPY in", "copy-in-100MB@1", 0.40),
            ("100,000 small rows", "rows-100000@1", 0.60),
        ]
    ),
    *(
        cpu(f"simple, {clients} clients, TLS{words}", f"select-tls@{clients}", 0.80, ours=ours)
        for clients in (16, 64)
        for ours, words in HOWEVER
    ),
    *(
        Target(f"connect-query-disconnect per CPU second, {words}", ">=", limit, against(workload, is_rate=True))
        for words, workload, limit in [
            ("trust", "connect@8", 1.2),
            ("SCRAM", "connect-scram@8", 1.5),
            ("TLS + SCRAM", "connect-tls-scram@8", 1.5),
        ]
    ),
    Target("resident per idle client", "<=", 2.0, of_footprint("plain", "client_kb"), "kB"),
    Target("resident per idle client, TLS", "<=", 12, of_footprint("TLS", "client_kb"), "kB"),
    Target("two workers against one, 256 clients", ">=", 1.8, workers),
    *(
        Target(f"pooler CPU with identities against without, {mode}, 16 clients", "<=", 1.25, against(workload, ours=IDENTITY, theirs=OURS))
        for mode, workload in [("simple", "select-simple@16"), ("extended", "select-extended@16"), ("prepared", "select-prepared@16")]
    ),
    Target("start to ready, no pools", "<=", 30, of_footprint("plain", "ready_ms"), "ms"),
    Target("resident at rest", "<=", 8, of_footprint("plain", "rest_kb", 1024), "MB"),
    Target("binary, stripped", "<=", 10, binary, "MB"),
    *(
        Target(f"CPU per transaction, all {name} against none", "<=", 1.15, growth(name))
        for name in ("pools", "idle clients", "waiters")
    ),
]
