"""Guess a number from 1 to a million in 20 guesses; the answer is the flag."""

from __future__ import annotations

import secrets
from pathlib import Path

MOST, GUESSES = 1_000_000, 20


def play() -> str:
    """One try; return what is said at its end."""
    number = 1 + secrets.randbelow(MOST)
    print(f"A number from 1 to {MOST}, {GUESSES} guesses.", flush=True)
    for _ in range(GUESSES):
        try:
            guess = int(input("? "))
        except (EOFError, ValueError):
            return "That is no number."
        if guess == number:
            return Path("/srv/flag.txt").read_text().strip()
        print("higher" if guess < number else "lower", flush=True)
    return f"It was {number}."


if __name__ == "__main__":
    print(play())
