"""Holds deploy/ and docker/ against the schemas of Kubernetes and against each other, without a network.

    validate.py ROOT OUT

Prints each mistake, and ends with 1 if there is any. Writes to OUT what only pgusher can judge: `<name>.toml`, a configuration as it is
mounted, `<name>.env` and `<name>.args`, the variables and arguments that go with it, a line each.
"""

import configparser
import fnmatch
import re
import sys
import tomllib
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema

# The first with everything that is used (`preStop.sleep`), and the last.
VERSIONS = ["1.30", kubernetes_validate.latest_version()]

# What is for old clusters.
OLD, OLD_VERSIONS = "deploy/kubernetes/container/", ["1.28", *VERSIONS]

# What a Dockerfile may say.
INSTRUCTIONS = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "LABEL", "RUN", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"}

DRAIN = ["/usr/local/bin/pgusher", "drain", "--wait"]

ROOT, OUT = Path(sys.argv[1]), Path(sys.argv[2])
MISTAKES = []


def check(holds, where, what):
    if not holds:
        MISTAKES.append(f"{where}: {what}")
    return holds


def relative(path):
    return str(path.relative_to(ROOT))


def documents(path):
    try:
        return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]
    except yaml.YAMLError as error:
        check(False, relative(path), error)
        return []


def seconds(duration):
    parts = re.findall(r"(\d+)(h|m|s)", duration)
    return sum(int(number) * {"h": 3600, "m": 60, "s": 1}[unit] for number, unit in parts)


def hand_over(name, toml, variables, arguments=()):
    (OUT / f"{name}.args").write_text("".join(f"{argument}\n" for argument in arguments))
    (OUT / f"{name}.toml").write_text(toml)
    (OUT / f"{name}.env").write_text("".join(f"{key}={value}\n" for key, value in variables.items()))


# Kubernetes


def kubernetes():
    found = {}
    for path in sorted((ROOT / "deploy").rglob("*.yaml")):
        for document in documents(path):
            if "kind" not in document:
                continue  # rules of Prometheus, without Kubernetes around them
            kind = document["kind"]
            found.setdefault(kind, []).append((path, document))
            if kind == "Kustomization":
                kustomization(path, document)
            elif kind not in ("PodMonitor", "PrometheusRule"):
                schema(path, document)
    for path, document in found.get("PrometheusRule", []):
        check(document["spec"]["groups"], relative(path), "a PrometheusRule without groups")
    maps = {document["metadata"]["name"]: document for _, document in found.get("ConfigMap", [])}
    deployments = found.get("Deployment", [])
    check(len(deployments) == 3, "deploy/kubernetes", "expected the sidecar, the container and the shared socket")
    for path, document in deployments:
        deployment(path, document, maps)
    monitors = found.get("PodMonitor", [])
    check(monitors, "deploy/kubernetes", "there is no PodMonitor")
    for path, monitor in monitors:
        pod_monitor(path, monitor, deployments)


def schema(path, document):
    for version in OLD_VERSIONS if relative(path).startswith(OLD) else VERSIONS:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            at = ".".join(str(part) for part in error.path)
            check(False, relative(path), f"Kubernetes {version}: {at}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError:
            check(False, relative(path), f"Kubernetes {version} has no {document['kind']}")


def kustomization(path, document):
    for resource in document.get("resources", []):
        target = path.parent / resource
        if target.is_dir():
            target /= "kustomization.yaml"
        check(target.is_file(), relative(path), f"{resource} is not there")


def deployment(path, document, maps):
    where = relative(path)
    template = document["spec"]["template"]
    pod = template["spec"]
    first, rest = pod.get("initContainers", []), pod["containers"]
    named = {container["name"]: container for container in first + rest}
    order = [container["name"] for container in first]
    is_native = named["pgusher"].get("restartPolicy") == "Always"

    check(order[:1] == ["doctor"], where, "doctor comes before everything else")
    check(is_native == ("pgusher" in order), where, "a native sidecar is an init container, and restarts always")
    check(document["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items(), where, "selector")
    check(pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0, where, "not as root")
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for container in named.values():
        at = f"{where}: {container['name']}"
        security = container["securityContext"]
        check(security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"], at, "read-only, unprivileged")
        check(security["capabilities"]["drop"] == ["ALL"], at, "without capabilities")
        check("limits" in container["resources"] and "requests" in container["resources"], at, "no resources")
        ports = {port["name"] for port in container.get("ports", [])}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if probe in container:
                check(container[probe]["httpGet"]["port"] in ports, at, f"{probe}: no such port")
        for mount in container.get("volumeMounts", []):
            check(mount["name"] in volumes, at, f"no volume {mount['name']}")

    pgusher = named["pgusher"]
    paths = [pgusher[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")]
    check(paths == ["/startupz", "/livez", "/readyz"], where, f"probes: {paths}")
    variables = {entry["name"]: entry.get("value", "secret") for entry in pgusher["env"]}
    check(variables.get("PGUSHER_METRICS_LISTEN") == "0.0.0.0:9930", where, "kubelet cannot reach the probes")
    check(9930 in [port["containerPort"] for port in pgusher["ports"]], where, "no port 9930")
    toml = configuration(where, pgusher, volumes, maps, variables)
    if toml is None:
        return
    hand_over(path.parent.name, toml, variables)
    doctor = {entry["name"]: entry.get("value", "secret") for entry in named["doctor"]["env"]}
    hand_over(path.parent.name + "-doctor", toml, doctor, named["doctor"]["args"])
    config = tomllib.loads(toml)
    secrets(where, config, pgusher, volumes)

    grace, drain = draining(config, variables)
    theirs = max(pre_stop(where, container) for container in rest if container is not pgusher)
    wait = pre_stop(where, pgusher)
    check(is_native or wait + grace > theirs, where, "an ordinary container must serve the application until it ends: drain_grace")
    before = theirs if is_native else wait
    total = before + grace + drain
    check(pod["terminationGracePeriodSeconds"] > total, where, "preStop, drain_grace and drain_timeout take longer than the grace")


def draining(config, variables):
    """How long newcomers are let in, and the last transactions may take."""
    listen = config["listen"]
    said = lambda key, default: variables.get(f"PGUSHER_LISTEN_{key.upper()}", listen.get(key, default))
    return seconds(said("drain_grace", "0s")), seconds(said("drain_timeout", "20s"))


def pre_stop(where, container):
    """How long it waits before it hears of its end."""
    hook = container.get("lifecycle", {}).get("preStop", {})
    if "exec" not in hook:
        return hook.get("sleep", {}).get("seconds", 0)
    command = hook["exec"]["command"]
    if command[0] == "sleep":
        return int(command[1])
    check(command == DRAIN, where, f"preStop: {command}")
    return 0


def configuration(where, container, volumes, maps, variables):
    """The file that PGUSHER_CONFIG names, out of the ConfigMap that is mounted there."""
    config = Path(variables["PGUSHER_CONFIG"])
    for mount in container["volumeMounts"]:
        if Path(mount["mountPath"]) == config.parent:
            name = volumes[mount["name"]]["configMap"]["name"]
            toml = maps.get(name, {}).get("data", {}).get(config.name)
            check(toml is not None, where, f"ConfigMap {name} has no {config.name}")
            return toml
    check(False, where, f"nothing is mounted at {config.parent}")
    return None


def secrets(where, config, container, volumes):
    """Every password file is an item of a Secret that is mounted there."""
    mounted = set()
    for mount in container["volumeMounts"]:
        secret = volumes[mount["name"]].get("secret")
        for item in (secret or {}).get("items", []):
            check(secret["secretName"] == "postgres-secret", where, "the Secret is postgres-secret")
            mounted.add(f"{mount['mountPath']}/{item['path']}")
    tables = [table for section in ("databases", "users") for table in config.get(section, {}).values()]
    files = {table["password_file"] for table in tables if "password_file" in table}
    check(files, where, "no password comes from a Secret")
    check(files <= mounted, where, f"not mounted: {files - mounted}")
    check(not any("password" in table for table in tables), where, "a password in a ConfigMap")


def pod_monitor(path, monitor, deployments):
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    for at, document in deployments:
        template = document["spec"]["template"]
        check(wanted <= template["metadata"]["labels"].items(), relative(path), f"does not select {relative(at)}")
        containers = template["spec"].get("initContainers", []) + template["spec"]["containers"]
        ports = {port["name"] for container in containers for port in container.get("ports", [])}
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            check(endpoint["port"] in ports, relative(path), f"no port {endpoint['port']} in {relative(at)}")


# Docker


def compose():
    path = ROOT / "docker/compose.yaml"
    where = relative(path)
    document = documents(path)[0]
    for error in jsonschema.Draft7Validator(get_builtin_schema("vendor.compose-spec")).iter_errors(document):
        check(False, where, f"{'.'.join(str(part) for part in error.path)}: {error.message}")
    services = document["services"]
    check({"postgres", "pgusher", "app", "prometheus", "grafana"} <= services.keys(), where, "a service is missing")
    for name, service in services.items():
        at = f"{where}: {name}"
        check("image" in service or "build" in service, at, "neither image nor build")
        for other in service.get("depends_on", []):
            check(other in services, at, f"depends on {other}, which is not there")
        for volume in service.get("volumes", []):
            source = path.parent / volume.split(":")[0]
            check(source.exists(), at, f"{volume}: there is no such file")
        for port in service.get("ports", []):
            check(port.startswith("127.0.0.1:"), at, f"{port}: published to everybody")
        health_check = service.get("healthcheck", {}).get("test", ["CMD"])
        check(health_check[0] == "CMD", at, "a healthcheck that needs a shell")
        if "build" in service:
            context = path.parent / service["build"]["context"]
            dockerfile(context, context / service["build"].get("dockerfile", "Dockerfile"))
    pgusher = services["pgusher"]
    toml = (path.parent / "pgusher.toml").read_text()
    hand_over("compose", toml, pgusher["environment"])
    health = pgusher["healthcheck"]["test"]
    check(health[:2] == ["CMD", "/usr/local/bin/pgusher"], where, "pgusher: a healthcheck that needs a shell")
    hand_over("compose-health", toml, pgusher["environment"], health[2:])
    check(pgusher["read_only"] and pgusher["cap_drop"] == ["ALL"], where, "pgusher: read-only, without capabilities")
    drain = sum(draining(tomllib.loads(toml), pgusher["environment"]))
    check(seconds(pgusher["stop_grace_period"]) > drain, where, "pgusher is killed before its drain_timeout")
    provisioning(path, services)
    for other in sorted((ROOT / "docker").rglob("*.yaml")):
        check(documents(other), relative(other), "is empty")


def provisioning(path, services):
    """Grafana reads the dashboard that is mounted, from the Prometheus that is there; Prometheus the alerts, from pgusher's port."""
    where = relative(path)
    mounted = {}
    for name in ("grafana", "prometheus"):
        for volume in services[name]["volumes"]:
            source, target, *_ = volume.split(":")
            mounted[name, target] = (path.parent / source).resolve()
    folder = path.parent / "grafana"
    providers = documents(folder / "dashboards.yaml")[0]["providers"]
    dashboard = (ROOT / "deploy/dashboard.json").resolve()
    homes = {str(Path(target).parent) for (_, target), source in mounted.items() if source == dashboard}
    check(homes == {provider["options"]["path"] for provider in providers}, where, "the dashboard is not where Grafana looks")
    sources = {source["uid"]: source for source in documents(folder / "datasource.yaml")[0]["datasources"]}
    wanted = set(re.findall(r'"uid": "(\w+)"', re.sub(r"\s+", " ", dashboard.read_text())))
    check(sources["prometheus"]["url"] == "http://prometheus:9090", where, "Grafana asks another Prometheus")
    check(sources["prometheus"]["isDefault"] or "prometheus" in wanted, where, "the dashboard has no source")
    prometheus = documents(path.parent / "prometheus.yaml")[0]
    for rules in prometheus["rule_files"]:
        check(("prometheus", rules) in mounted, where, f"{rules} is not mounted")
    targets = {target for job in prometheus["scrape_configs"] for config in job["static_configs"] for target in config["targets"]}
    port = services["pgusher"]["environment"]["PGUSHER_METRICS_LISTEN"].split(":")[1]
    check(targets == {f"pgusher:{port}"}, where, f"Prometheus scrapes {targets}")


def dockerfile(context, path):
    where = relative(path.resolve())
    text = re.sub(r"\\\n", " ", path.read_text())
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    ignored = path.with_name(path.name + ".dockerignore")
    patterns = [line for line in ignored.read_text().splitlines() if line and line[0] != "#"] if ignored.exists() else []
    stages = {line[3] for line in lines if line[0] == "FROM" and len(line) == 4}
    for line in lines:
        check(line[0] in INSTRUCTIONS, where, f"{line[0]}: no such instruction")
        for stage in [word.removeprefix("--from=") for word in line if word.startswith("--from=")]:
            check(stage in stages, where, f"COPY --from={stage}: there is no such stage")
    for line in lines:
        if line[0] != "COPY" or any(word.startswith("--from") for word in line):
            continue
        for source in [word for word in line[1:-1] if not word.startswith("--")]:
            check((context / source).exists(), where, f"COPY {source}: there is no such file")
            check(not is_ignored(source, patterns), where, f"COPY {source}: .dockerignore leaves it out")
    users = [line[1].split(":")[0] for line in lines if line[0] == "USER"]
    check(users and users[-1].isdigit() and users[-1] != "0", where, "it runs as root, or as a name kubelet cannot check")
    entry = [line for line in lines if line[0] in ("ENTRYPOINT", "CMD")]
    check(entry and entry[-1][1].startswith("["), where, "it is started by a shell")


def is_ignored(source, patterns):
    ignored = False
    for pattern in patterns:
        if fnmatch.fnmatch(source, pattern.lstrip("!")):
            ignored = not pattern.startswith("!")
    return ignored


# systemd


def unit():
    path = ROOT / "deploy/pgusher.service"
    where = relative(path)
    parsed = configparser.RawConfigParser(strict=False, delimiters="=", comment_prefixes="#")
    parsed.optionxform = str
    parsed.read(path)
    service = parsed["Service"]
    check(parsed.sections() == ["Unit", "Service", "Install"], where, parsed.sections())
    check(service["DynamicUser"] == "yes" and service["ProtectSystem"] == "strict", where, "not hardened")
    text = path.read_text()
    variables = dict(re.findall(r"^Environment=(\w+)=(.*)$", text, re.M))
    hand_over("systemd", (ROOT / "config/minimal.toml").read_text(), variables)
    defaults = (ROOT / "config/pgusher.toml").read_text()
    drain = sum(seconds(found) for found in re.findall(r'^# drain_(?:grace|timeout) = "(.*)"$', defaults, re.M))
    check(int(service["TimeoutStopSec"]) > drain, where, "it is killed before its drain_timeout")


kubernetes()
compose()
unit()
for mistake in MISTAKES:
    print(mistake)
sys.exit(1 if MISTAKES else 0)
