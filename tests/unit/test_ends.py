"""What is said of sandboxes that have not ended as they should, where more end than are remembered."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from nstool.service.board import End
from nstool.service.ends import Ends
from nstool.service.said import Said


class Board:
    """Has so many failed ends, and remembers the last of them."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.failed = 0

    def ends(self, since: int = 0, most: int | None = None) -> tuple[int, tuple[End, ...]]:
        first = max(since, self.failed - (self.most if most is None else most))
        found = [End(n, 0.0, 1.0, 0, "failed", 3 << 8, -1, "", (0, 0, 0, 0)) for n in range(first, self.failed)]
        return self.failed, tuple(found)

    def places(self) -> tuple[Any, ...]:
        return ()


def generation(board: Board) -> Any:
    return SimpleNamespace(
        name="web.1",
        title="1",
        board=board,
        groups=[],
        blueprint=None,
        sandbox_plan=None,
        counts=lambda: SimpleNamespace(causes={"failed": board.failed, "exited": 7, "busy": 9}),
    )


def test_all_are_counted_though_not_all_are_remembered() -> None:
    said: list[str] = []
    board = Board(10)
    told = Said(said.append)
    one, ends = generation(board), Ends(told)
    board.failed = 4
    ends.look(one)
    assert len(said) == 1
    board.failed += 10
    ends.look(one)
    board.failed += 25
    ends.look(one)
    ends.look(one)
    told.look(float("inf"))
    assert [line.partition(": ")[2].partition(";")[0] for line in said] == [
        "the command ended with status 3",
        "15 sandboxes more ended as they should not, too fast to be told of",
        "generation 1: the command ended with status 3",
    ]
    assert said[2].startswith("23 times more, the last: ")


def test_of_a_generation_of_before_only_what_ends_from_now_on_is_told() -> None:
    said: list[str] = []
    board = Board(10)
    one, ends = generation(board), Ends(Said(said.append))
    board.failed = 50
    ends.adopt(one)
    ends.look(one)
    assert said == []
