"""libpq 18, as psycopg's binary package has it, in TLS: every sslmode, both negotiations, and what it must not accept.

Environment, besides that of cases.py:
    CA, OTHER_CA     the CA of the pooler's certificate, and one that did not sign it
    CERT, KEY        a certificate of the user `trusted`, and its key
"""

import os

import psycopg
from cases import DATABASE_URL, case, run_all

CA, OTHER_CA, CERT, KEY = (os.environ[name] for name in ("CA", "OTHER_CA", "CERT", "KEY"))
os.chmod(KEY, 0o600)


def connect(**parameters: str) -> psycopg.Connection:
    parameters = {"sslrootcert": CA, "gssencmode": "disable", "connect_timeout": "10", **parameters}
    return psycopg.connect(DATABASE_URL, autocommit=True, **parameters)


def served(**parameters: str) -> None:
    with connect(**parameters) as connection:
        assert connection.pgconn.ssl_in_use
        assert connection.execute("select 7").fetchone() == (7,)


def refused(words: str, **parameters: str) -> None:
    try:
        connect(**parameters).close()
    except psycopg.OperationalError as error:
        assert words in str(error), str(error)
    else:
        raise AssertionError(f"let in: {parameters}")


@case("libpq is 18")
def _():
    assert psycopg.pq.version() >= 180000, psycopg.pq.version()


for mode in ("allow", "prefer", "require", "verify-ca", "verify-full"):

    @case(f"sslmode={mode} is encrypted")
    def _(mode=mode):
        served(sslmode=mode)


for mode in ("require", "verify-ca", "verify-full"):

    @case(f"sslmode={mode} begins with TLS")
    def _(mode=mode):
        served(sslmode=mode, sslnegotiation="direct")


for version in ("TLSv1.2", "TLSv1.3"):

    @case(f"{version} is spoken and bound to")
    def _(version=version):
        limits = {"ssl_min_protocol_version": version, "ssl_max_protocol_version": version}
        served(sslmode="verify-full", channel_binding="require", require_auth="scram-sha-256", **limits)


@case("sslmode=disable is refused")
def _():
    refused("TLS is required", sslmode="disable")


@case("another CA is not believed")
def _():
    for negotiation in ("postgres", "direct"):
        for mode in ("verify-ca", "verify-full"):
            words = "certificate verify failed"
            refused(words, sslmode=mode, sslrootcert=OTHER_CA, sslnegotiation=negotiation)


@case("another host name is not believed by verify-full alone")
def _():
    elsewhere = {"host": "elsewhere.example", "hostaddr": "127.0.0.1"}
    refused("elsewhere.example", sslmode="verify-full", **elsewhere)
    served(sslmode="verify-ca", **elsewhere)


@case("a certificate is a login")
def _():
    owning = {"sslmode": "verify-full", "user": "trusted", "password": "unused", "sslcert": CERT, "sslkey": KEY}
    for negotiation in ("postgres", "direct"):
        with connect(sslnegotiation=negotiation, require_auth="none", **owning) as connection:
            assert connection.execute("select session_user").fetchone() == ("trusted",)


@case("without the certificate it is none")
def _():
    refused("valid client certificate", sslmode="verify-full", user="trusted", password="unused", sslcertmode="disable")


@case("a query is cancelled in TLS")
def _():
    with connect(sslmode="verify-full", sslnegotiation="direct") as connection:
        connection.execute("set statement_timeout = '15s'")
        connection.pgconn.send_query(b"select pg_sleep(60)")
        connection.cancel_safe()
        result = connection.pgconn.get_result()
        assert result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"57014", result.error_message
        while connection.pgconn.get_result():
            pass


run_all(schema=False)
