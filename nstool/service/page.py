"""The page that shows a service live: it reads /status.json each second, and loads nothing else."""

from __future__ import annotations

from nstool.inspect import html


def page(name: str) -> str:
    """Return the page of the service of this name."""
    return html.page("nstool.service", "service", name=name)
