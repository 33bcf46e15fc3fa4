"""Keeps notes and greets, for one connection on standard input. On purpose a client can run commands: never do so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NOTES = Path("/tmp/notes")


def do(line: str) -> None:
    """Do what a line says: "note TEXT", "notes", "greet NAME"."""
    word, _, rest = line.partition(" ")
    if word == "note":
        with NOTES.open("a") as file:
            file.write(rest + "\n")
        print("noted")
    elif word == "notes":
        print(NOTES.read_text() if NOTES.exists() else "", end="")
        print("end")
    elif word == "greet":
        sys.stdout.flush()
        subprocess.run(f"echo Hello {rest}", shell=True)  # the hole: a name is whatever a shell makes of it
    else:
        print("note TEXT, notes or greet NAME")
    sys.stdout.flush()


if __name__ == "__main__":
    for each in sys.stdin:
        do(each.rstrip("\n"))
