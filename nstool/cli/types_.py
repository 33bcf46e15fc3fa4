"""The option --types of enter and pin."""

from __future__ import annotations

from nstool.errors import SpecError
from nstool.spec import values


def read(text: str | None) -> tuple[str, ...]:
    """Return the words of "net,mnt", each once; none if the option was not given. Raises SpecError for "" or ","."""
    words = values.words(text or "")
    if text is not None and not words:
        raise SpecError("names no namespace type; leave it away for the default", "--types")
    return tuple(dict.fromkeys(words))
