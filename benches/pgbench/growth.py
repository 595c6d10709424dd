"""What a transaction costs when there is more of everything else: pools, idle clients, clients that wait.

Each round measures the beginning of a range and its end with one process; what counts is the ratio of the two.
"""

from figures import idle, measure
from subjects import Subject, database
from workloads import Workload, select

BUSY = select("simple", 16)


class Range:
    """Something there is more and more of; `end` in a full run, `quick` in a short one."""

    def __init__(self, name, end, quick, sample):
        self.name, self.end, self.quick, self.sample = name, end, quick, sample


def pools(bench, subject, count, seconds):
    """One pool is busy; the others have a server each, and nothing to do."""
    first = Workload("pools", 16, ["-S"])
    named = Named(subject, database(0))
    alone = measure(bench, named, first, seconds)
    with idle(subject, count - 1, name=lambda number: database(number + 1)):
        return alone, measure(bench, named, first, seconds)


def idle_clients(bench, subject, count, seconds):
    alone = measure(bench, subject, BUSY, seconds)
    with idle(subject, count):
        return alone, measure(bench, subject, BUSY, seconds)


def waiters(bench, subject, count, seconds):
    """As many clients as servers, so that nobody waits; then these more."""
    alone = measure(bench, subject, select("simple", bench.pool_size), seconds)
    # Each of them has a turn in about a second.
    return alone, measure(bench, subject, select("simple", bench.pool_size + count), max(seconds, count // 800))


RANGES = [
    Range("pools", 1000, 100, pools),
    Range("idle clients", 10000, 2000, idle_clients),
    Range("waiters", 5000, 1000, waiters),
]


class Named(Subject):
    """A subject whose clients ask for another database."""

    def __init__(self, subject, name):
        self.__dict__.update(subject.__dict__)
        self.environment = {**subject.environment, "PGDATABASE": name}


