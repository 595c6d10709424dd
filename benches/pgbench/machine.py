"""The machine and what runs on it: CPUs, child processes, a PostgreSQL of our own, and a client that says little.

The poolers share one CPU, the last, to which nothing else of ours is bound; PostgreSQL and the clients have the others.
"""

import ctypes
import fcntl
import os
import platform
import re
import resource
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MAJOR = "15"
PROGRAMS = Path("/usr/lib/postgresql", MAJOR, "bin")
DATABASE, USER, PASSWORD = "bench", "trusted", "as long as a password should be"
PINNED, OTHERS = (lambda cpus: (cpus[-1:], cpus[:-1] or cpus))(sorted(os.sched_getaffinity(0)))


class Failed(Exception):
    """A workload that the subject cannot do."""


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def raise_descriptors():
    """As many as may be; children have them too."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    return limit


def child(cpus):
    """In a process of ours: on these CPUs, and not outliving us."""
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
    """A PostgreSQL of our own, without TLS: the way from a pooler to its server is plain for all of them."""

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
        self.owner = self.cluster.stat()
        if os.geteuid() == 0:
            self.account = dict(user=self.owner.st_uid, group=self.owner.st_gid, extra_groups=[])
        self.server_port = free_port()
        settings = dict(
            port=self.server_port,
            unix_socket_directories="",
            # Tests have it on, and then a pooler that asks for TLS gets it and one that does not is spared.
            ssl="off",
            # A thousand pools have a server each.
            max_connections=1300,
            shared_buffers="128MB",
            max_wal_size="1GB",
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
        self.certify()

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

    def certify(self):
        """A certificate for poolers that are to encrypt their clients: P-256, as most are."""
        self.certificate, self.key = self.directory / "server.crt", self.directory / "server.key"
        words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost".split()
        command = ["openssl", *words, "-keyout", str(self.key), "-out", str(self.certificate)]
        subprocess.run(command, check=True, capture_output=True, timeout=30)
        if self.account:
            os.chown(self.key, self.owner.st_uid, self.owner.st_gid)

    def environment(self, extra=None):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        kept.update(PGHOST="127.0.0.1", PGUSER=USER, PGDATABASE=DATABASE, PGPASSWORD=PASSWORD)
        kept.update(PGSSLMODE="disable", PGGSSENCMODE="disable")
        kept.update(extra or {})
        return kept

    def client_program(self, program, arguments, port, timeout, environment=None, **streams):
        return subprocess.run(
            [str(PROGRAMS / program), "-p", str(port), *arguments],
            env=self.environment(environment),
            timeout=timeout,
            preexec_fn=lambda: child(OTHERS),
            **({"stdin": subprocess.DEVNULL} | streams),
        )

    def pgbench(self, port, arguments, timeout, environment=None, directory=None):
        done = self.client_program(
            "pgbench", arguments, port, timeout, environment, cwd=directory, text=True, capture_output=True
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


class Client:
    """A connection that can say one thing after another; for the cost of those who say little."""

    def __init__(self, port, user=USER, database=DATABASE, options=None, tls=None):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rest = b""
        if tls:
            if ask_for_tls(self.socket) != b"S":
                raise ConnectionError("no TLS")
            self.socket = tls.wrap_socket(self.socket)
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
        try:
            self.socket.sendall(b"X\0\0\0\4")
        finally:
            self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def ask_for_tls(connection):
    """What the pooler says to that: it serves, if it says anything."""
    connection.sendall(struct.pack("!II", 8, 80877103))
    return connection.recv(1)


def trusting():
    """TLS as `sslmode=require` has it: whoever it is, encrypted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
