"""A client whose machine goes away: its connection is forgotten here, and its peer is not told.

    vanish.py HOST PORT USER DATABASE [SQL]

Logs in, runs SQL, and then drops the socket as a crash would: no FIN, no RST. Needs the right to administer the network.
"""

import socket
import struct
import sys

TCP_REPAIR = 19


def startup(user: str, database: str) -> bytes:
    words = ["user", user, "database", database, ""]
    body = struct.pack("!i", 3 << 16) + b"".join(word.encode() + b"\0" for word in words)
    return struct.pack("!i", len(body) + 4) + body


def query(sql: str) -> bytes:
    body = sql.encode() + b"\0"
    return b"Q" + struct.pack("!i", len(body) + 4) + body


def until_ready(peer: socket.socket) -> None:
    frames = peer.makefile("rb")
    while True:
        tag, length = struct.unpack("!ci", frames.read(5))
        body = frames.read(length - 4)
        if tag == b"E":
            sys.exit(f"refused: {body!r}")
        if tag == b"Z":
            return


host, port, user, database, *sql = sys.argv[1:]
client = socket.create_connection((host, int(port)))
client.sendall(startup(user, database))
until_ready(client)
for text in sql:
    client.sendall(query(text))
    until_ready(client)
client.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # or the peer hears of it by sending its last words again
client.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)  # what is closed now is closed silently
client.close()
print("gone")
