"""An app that answers one HTTP connection, on its standard input: what the numbers that are posted to it come to."""

from __future__ import annotations

import json
import socket
import statistics
from http.server import BaseHTTPRequestHandler

MOST = 1 << 20  # bytes of a body


class Calculator(BaseHTTPRequestHandler):
    """POST / with numbers answers their count, sum, mean and median."""

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        if not 0 <= length <= MOST:
            self.send_error(413)
            return
        try:
            numbers = [float(word) for word in self.rfile.read(length).split()]
            found = {
                "count": len(numbers),
                "sum": sum(numbers),
                "mean": statistics.mean(numbers),
                "median": statistics.median(numbers),
            }
        except (ValueError, statistics.StatisticsError) as error:
            self.send_error(400, explain=str(error))
            return
        body = json.dumps(found).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    connection = socket.socket(fileno=0)
    Calculator(connection, connection.getpeername(), None)  # type: ignore[arg-type]
