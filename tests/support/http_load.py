"""A client of HTTP with many connections, each kept alive: ``python3 http_load.py URL CONNECTIONS REQUESTS [BODY]``.

A program of the standard library alone, so that it runs in another network namespace as well. Prints JSON: connections,
how many were opened; bodies, the different answers. Fails when one is not 200, or when a connection was not kept.
"""

from __future__ import annotations

import http.client
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from urllib.parse import urlsplit

SECONDS = 10.0


def ask(url: str, requests: int, body: str = "") -> set[str]:
    """Return the different answers to so many requests over one connection. With a body it is posted."""
    where = urlsplit(url)
    answers = set()
    with closing(http.client.HTTPConnection(where.hostname or "", where.port, timeout=SECONDS)) as connection:
        connection.connect()
        kept = connection.sock
        for _ in range(requests):
            connection.request("POST" if body else "GET", where.path or "/", body or None)
            answer = connection.getresponse()
            answers.add(answer.read().decode())
            if answer.status != 200:
                raise ValueError(f"{url}: {answer.status} {answer.reason}")
            if connection.sock is not kept:
                raise ValueError(f"{url}: the connection was not kept alive")
    return answers


def load(url: str, connections: int, requests: int, body: str = "") -> dict[str, object]:
    """Return how many connections were open at once and the different answers of all."""
    with ThreadPoolExecutor(connections) as pool:
        answers = list(pool.map(lambda _: ask(url, requests, body), range(connections)))
    return {"connections": len(answers), "bodies": sorted(set().union(*answers))}


if __name__ == "__main__":
    print(json.dumps(load(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])))
