"""A run in words: one table for each kind of figure, and the judgement of the targets first."""

import statistics

from figures import middle, ratios
from targets import TARGETS
from workloads import BOUNCER


def shown(value, digits=3):
    if value is None:
        return "—"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, digits - len(str(int(value))))}f}"


def spread(values):
    if not values:
        return "—"
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def table(header, rows, left=2):
    rule = "|" + "|".join(" --- " if at < left else " ---: " for at in range(len(header))) + "|"
    return "\n".join(["| " + " | ".join(header) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def markdown(report):
    about = report["about"]
    return "\n".join(
        [
            f"# pgbench, {about['date']}\n",
            f"`{about['command']}`: {about['rounds']} rounds of {about['seconds']} s, interleaved; pool size {about['pool_size']}; "
            f"{about['processor']}, {about['cpus']} CPUs, the pooler on one of them; load average before the run {about['load']}. "
            + "; ".join(about["versions"])
            + ".\n",
            *targets(report),
            *workloads(report),
            *system_calls(report),
            *footprint(report),
            *workers(report),
            *growth(report),
        ]
    )


def targets(report):
    judged = [(target, *target.judge(report)) for target in TARGETS]
    report["targets"] = [
        dict(figure=target.figure, target=f"{target.sense} {target.limit}", values=values, verdict=verdict)
        for target, values, verdict in judged
    ]
    rows = [
        [target.figure, f"{'≤' if target.sense == '<=' else '≥'} {target.limit:g} {target.unit}".strip(), spread(values), verdict]
        for target, values, verdict in judged
        if values
    ]
    if not rows:
        return []
    left_out = sum(1 for _, values, _ in judged if not values)
    count = lambda word: sum(1 for _, _, verdict in judged if verdict.startswith(word))
    summary = f"{count('met')} met, {count('missed')} missed, {left_out} not measured by this run"
    return [
        f"Targets ({summary}); ratios are to {BOUNCER} in the same run unless said, medians (least–most):\n",
        table(["figure", "target", "measured", "verdict"], rows, 1),
    ]


def workloads(report):
    rows, notes = [], []
    for workload, ways in report["workloads"].items():
        baseline = ways.get(BOUNCER, {}).get("samples", [])
        for way, result in ways.items():
            samples = result["samples"]
            if not samples:
                rows.append([workload, way] + ["—"] * 7)
                notes.append(f"- {workload}, {way}: {result['failed'] or 'not run'}")
                continue
            ratio = spread(ratios(samples, baseline, "cpu_us")) if way != BOUNCER else "1"
            times = [shown(middle(samples, key) / 1e3) for key in ("p50_us", "p99_us", "p999_us")]
            rows.append(
                [workload, way, shown(middle(samples, "cpu_us")), ratio if middle(samples, "cpu_us") else "—"]
                + [shown(middle(samples, "waits")), *times, shown(middle(samples, "tps"))]
            )
    if not rows:
        return []
    header = ["workload", "subject", "CPU µs", "ratio", "waits", "p50 ms", "p99 ms", "p99.9 ms", "per second"]
    about = f"CPU is the pooler's own, user and system, per transaction. Ratios are to {BOUNCER}, of the same round:\n"
    return [about, table(header, rows), *(["\n".join(notes) + "\n"] if notes else [])]


def system_calls(report):
    counts = report["system_calls"]
    kinds = list(dict.fromkeys(kind for found in counts.values() for kind in found))
    if not kinds:
        return []
    words = [f"{mode}, {clients} client{'s' if clients != '1' else ''}" for mode, clients in (kind.split("@") for kind in kinds)]
    rows = [[subject, *(shown(found.get(kind)) for kind in kinds)] for subject, found in counts.items()]
    return ["System calls per transaction, select-only:\n", table(["subject", *words], rows, 1)]


def footprint(report):
    rows = []
    for subject, kinds in report["footprint"].items():
        size = report["binaries"][subject]
        for kind, samples in kinds.items():
            ready, started, rest, client, peak = (
                middle(samples, key) for key in ("ready_ms", "start_ms", "rest_kb", "client_kb", "peak_kb")
            )
            rows.append(
                [subject, kind, shown(ready), shown(started), shown(rest and rest / 1024), shown(client)]
                + [shown(peak and peak / 1024), shown(size["file"] / 2**20), shown(size["stripped"] and size["stripped"] / 2**20)]
            )
    if not rows:
        return []
    header = ["subject", "clients", "start to ready ms", "to first answer ms", "at rest MB", "per idle client kB"]
    header += ["at peak MB", "binary MB", "stripped MB"]
    idle = report["about"]["idle_clients"]
    return [f"Footprint, fresh processes; an idle client has run one query ({idle:,} of them):\n", table(header, rows)]


def workers(report):
    rows = []
    for subject, pairs in report["workers"].items():
        gains = [two["capacity"] / one["capacity"] for one, two in pairs]
        one, two = ([pair[at] for pair in pairs] for at in (0, 1))
        rows.append([subject, *(shown(middle(samples, "cpu_us")) for samples in (one, two))])
        rows[-1] += [shown(middle(two, "balance")), spread(gains)]
    if not rows:
        return []
    header = ["subject", "CPU µs, one", "CPU µs, two", "balance", "capacity, two to one"]
    about = "Two workers on two CPUs against one on one, 256 clients; capacity is workers × balance ÷ CPU per transaction:\n"
    return [about, table(header, rows, 1)]


def growth(report):
    rows = []
    for name, grown in report["growth"].items():
        for subject, pairs in grown["subjects"].items():
            few, many = ([pair[at] for pair in pairs] for at in (0, 1))
            quotients = [more["cpu_us"] / less["cpu_us"] for less, more in pairs]
            rows.append([f"{grown['end']:,} {name}", subject, *(shown(middle(samples, "cpu_us")) for samples in (few, many))])
            rows[-1].append(spread(quotients))
    if not rows:
        return []
    header = ["with", "subject", "CPU µs, none", "CPU µs, all", "ratio"]
    return ["CPU per transaction when there is more of everything else:\n", table(header, rows)]
