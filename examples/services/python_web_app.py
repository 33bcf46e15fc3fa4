"""A web app of the standard library alone: it counts the words that are posted to it, and keeps the sums in SQLite."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DATABASE = "/tmp/words.db"


def database() -> contextlib.closing[sqlite3.Connection]:
    """A connection to the database; one a request, because a thread may not use another's."""
    return contextlib.closing(sqlite3.connect(DATABASE, timeout=30))


class Words(BaseHTTPRequestHandler):
    """POST / with a text answers how many words it has; GET / answers the sums of all texts."""

    protocol_version = "HTTP/1.1"  # connections are kept alive
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        with database() as connection:
            texts, words = connection.execute("SELECT count(*), coalesce(sum(words), 0) FROM texts").fetchone()
        self.answer({"texts": texts, "words": words})

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        words = len(text.split())
        with database() as connection, connection:
            connection.execute("INSERT INTO texts VALUES (?)", (words,))
        self.answer({"words": words})

    def answer(self, value: dict[str, int]) -> None:
        body = json.dumps(value).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    with database() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS texts (words INTEGER)")
    ThreadingHTTPServer(("", 8080), Words).serve_forever()
