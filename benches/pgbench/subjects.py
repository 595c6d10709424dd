"""What stands between the clients and PostgreSQL: nothing, PgBouncer, pgusher, or anything that a template starts.

A template's {port} is where the subject is to listen, {server_port} where PostgreSQL does; {pool_size}, {database}, {user}
and {directory} (an empty one of its own) say the rest.
"""

import base64
import hashlib
import hmac
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import DATABASE, PASSWORD, PINNED, USER, Client, ask_for_tls, child, free_port, version_of

IDENTITY = "6f2b1c3e-8a4d-4f5e-9c7b-0123456789ab"


class Setup:
    """How poolers are set up for a workload: each needs a process for each of these."""

    def __init__(self, auth="trust", tls=False, workers=1, databases=0, cold=False):
        self.auth, self.tls, self.workers, self.databases, self.cold = auth, tls, workers, databases, cold

    def cpus(self):
        return PINNED if self.workers == 1 else sorted(os.sched_getaffinity(0))[-self.workers :]

    def key(self):
        return (self.auth, self.tls, self.workers, self.databases, self.cold)


PLAIN = Setup()
SCRAM = Setup(auth="scram-sha-256")
TLS = Setup(tls=True)
TLS_SCRAM = Setup(auth="scram-sha-256", tls=True)
# No pool before the first client: what starting costs the pooler alone.
COLD = Setup(cold=True)


class Subject:
    """One process, or none: `command` is None for PostgreSQL itself."""

    def __init__(self, name, command, environment=None, prepare=None, binary=None, setup=PLAIN):
        self.name, self.command, self.environment, self.prepare = name, command, environment or {}, prepare
        self.binary = binary or (shlex.split(command)[0] if command else None)
        self.setup, self.cpus = setup, setup.cpus()
        self.port = self.process = self.directory = None
        self.has_socket = False

    def start(self, bench):
        """Runs it until it answers a query; returns how long that took, in milliseconds."""
        return self.launch(bench, self.ask)

    def launch(self, bench, attempt):
        """Runs it until an attempt does not fail; returns how long that took, in milliseconds."""
        if not self.command:
            self.port = bench.server_port
            return None
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix=f"{self.name}-".replace(" ", "-"), dir=bench.directory))
        self.directory.chmod(0o777)
        words = dict(
            port=self.port,
            server_port=bench.server_port,
            pool_size=bench.pool_size,
            database=DATABASE,
            user=USER,
            directory=self.directory,
            certificate=bench.certificate,
            key=bench.key,
        )
        if self.prepare:
            self.prepare(self.directory, words)
        command = [word.format(**words) for word in shlex.split(self.command)]
        log = open(self.directory / "log", "wb")
        began = time.monotonic()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: child(self.cpus),
            **bench.account,
        )
        self.pid = self.process.pid
        while True:
            if self.process.poll() is not None or time.monotonic() - began > 15:
                said = (self.directory / "log").read_text(errors="replace")
                sys.exit(f"{self.name} does not start:\n{said[-2000:]}")
            try:
                attempt()
                break
            except OSError:
                time.sleep(0.0005)
        took = (time.monotonic() - began) * 1e3
        self.has_socket = (self.directory / f".s.PGSQL.{self.port}").exists()
        return took

    def ask(self):
        if self.setup.auth != "trust":
            return self.shake()
        with Client(self.port) as client:
            client.query("select 1")

    def shake(self):
        """The least that tells that somebody serves: whether there is TLS."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            if not ask_for_tls(connection):
                raise ConnectionError("closed")

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5)
        self.process = None


def verifier():
    """What a server keeps of the password, so that no pooler has to derive it."""
    salt, rounds = b"0123456789abcdef", 4096
    salted = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), salt, rounds)
    keyed = lambda word: hmac.new(salted, word, hashlib.sha256).digest()
    encoded = lambda value: base64.b64encode(value).decode()
    stored = hashlib.sha256(keyed(b"Client Key")).digest()
    return f"SCRAM-SHA-256${rounds}:{encoded(salt)}${encoded(stored)}:{encoded(keyed(b'Server Key'))}"


def database(number):
    """The name of one of many databases, which are all the same."""
    return f"bench{number:04}"


def pgbouncer(program=None, name="pgbouncer", setup=PLAIN):
    program = str(program or shutil.which("pgbouncer") or "/usr/sbin/pgbouncer")
    if not os.access(program, os.X_OK):
        return None

    def prepare(directory, words):
        server = f"host=127.0.0.1 port={words['server_port']} dbname={DATABASE}"
        names = [DATABASE, *map(database, range(setup.databases))]
        extra = ""
        if has_prepared_statements(program):
            extra += "max_prepared_statements = 200\n"
        if setup.tls:
            extra += f"client_tls_sslmode = allow\nclient_tls_cert_file = {words['certificate']}\nclient_tls_key_file = {words['key']}\n"
        (directory / "users.txt").write_text(f'"{USER}" "{verifier()}"\n')
        (directory / "pgbouncer.ini").write_text(
            "[databases]\n"
            + "".join(f"{name} = {server}\n" for name in names)
            + f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {words['port']}\nunix_socket_dir = {directory}\n"
            f"auth_type = {setup.auth}\nauth_file = {directory}/users.txt\npool_mode = transaction\n"
            f"default_pool_size = {words['pool_size']}\nmax_client_conn = 10100\nlisten_backlog = 4096\n"
            "ignore_startup_parameters = extra_float_digits\nserver_tls_sslmode = disable\n"
            f"log_connections = 0\nlog_disconnections = 0\nlog_stats = 0\n{extra}"
        )

    return Subject(name, f"{program} {{directory}}/pgbouncer.ini", prepare=prepare, binary=program, setup=setup)


def has_prepared_statements(program):
    return tuple(map(int, re.findall(r"\d+", version_of([program, "--version"]))[:2])) >= (1, 21)


def pgusher(binary, identity, name=None, setup=PLAIN, more=()):
    variables = [*more, "PGUSHER_METRICS_LISTEN=off", "PGUSHER_UNIX_SOCKET_DIR={directory}", "PGUSHER_LISTEN_MAX_CLIENTS=10100"]
    if setup.auth != "trust":
        variables.append("PGUSHER_LISTEN_AUTH_FILE={directory}/users.txt")
    if setup.cold:
        variables.append("PGUSHER_POOL_MIN=0")
    if setup.tls:
        variables += ["PGUSHER_TLS_CLIENT_MODE=allow", "PGUSHER_TLS_CLIENT_CERT_FILE={certificate}"]
        variables += ["PGUSHER_TLS_CLIENT_KEY_FILE={key}"]
    upstream = "postgres://{user}@127.0.0.1:{server_port}/{database}?sslmode=disable"
    command = (
        f"env {' '.join(variables)} {shlex.quote(str(binary))} --listen 127.0.0.1:{{port}} --auth {setup.auth} "
        f"--pool-size {{pool_size}} --upstream {upstream} --identity {identity} --log warn"
    )
    if setup.workers > 1:
        command += f" --workers {setup.workers}"

    def prepare(directory, words):
        (directory / "users.txt").write_text(f'"{USER}" "{verifier()}"\n')
        if setup.databases:
            server = f'host = "127.0.0.1"\nport = {words["server_port"]}\ndbname = "{DATABASE}"\nuser = "{USER}"\nmin = 0\n'
            tables = "".join(f"[databases.{database(number)}]\n{server}" for number in range(setup.databases))
            (directory / "pgusher.toml").write_text(tables)

    if setup.databases:
        command += " --config {directory}/pgusher.toml"
    environment = {"PGOPTIONS": f"-c app.current_user_id={IDENTITY}"} if identity == "on" else {}
    name = (name or "pgusher") + ("+identity" if identity == "on" else "")
    return Subject(name, command, environment, prepare, str(binary), setup)
