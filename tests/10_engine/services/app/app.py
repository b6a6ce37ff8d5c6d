"""A web application: it counts visits in redis, and keeps a line of each in PostgreSQL."""

import contextlib
import socket
from pathlib import Path
from wsgiref.simple_server import make_server

import psycopg2

VERSION = Path("/srv/version").read_text().strip()
ADD = "CREATE TABLE IF NOT EXISTS visits (number int); INSERT INTO visits VALUES (%s); SELECT count(*) FROM visits"


def visit(_environment, start):
    database = psycopg2.connect(host="db", user="postgres")  # both are asked for before one is changed
    with contextlib.closing(database), socket.create_connection(("cache", 6379)) as redis:
        redis.sendall(b"INCR visits\r\n")
        number = int(redis.makefile().readline()[1:])
        with database, database.cursor() as cursor:
            cursor.execute(ADD, (number,))
            rows = cursor.fetchone()[0]
    start("200 OK", [("Content-Type", "text/plain")])
    return [f"version {VERSION}: visit {number}, {rows} rows\n".encode()]


print("ready", flush=True)
make_server("0.0.0.0", 8000, visit).serve_forever()
