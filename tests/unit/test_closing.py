"""What holds a file lets go of it, once."""

from __future__ import annotations

import os

import pytest

from nstool.closing import ByFd


class Null(ByFd):
    def __init__(self) -> None:
        self.fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)


def is_open(fd: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{fd}")


def test_it_is_closed_at_the_end_of_its_block_also_by_an_error() -> None:
    null = Null()
    fd = null.fd
    assert is_open(fd)
    with pytest.raises(KeyError), null:
        raise KeyError
    assert not is_open(fd)
    assert null.fd == -1


def test_closing_again_leaves_the_next_file_open() -> None:
    null = Null()
    null.close()
    with Null() as next_one:
        null.close()
        assert is_open(next_one.fd)
