"""One HTML page of its template, style and script, which loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources


def page(package: str, name: str, /, **words: object) -> str:
    """Return templates/NAME.html of a package, with NAME.css and NAME.js and the style that all pages have.

    words: what else the template names; they are escaped, but for those that are Markup.
    """
    import jinja2
    from markupsafe import Markup

    files = resources.files(package) / "templates"
    base = resources.files(__package__) / "templates/base.css"
    style = base.read_text("utf-8") + "\n" + (files / f"{name}.css").read_text("utf-8")
    script = (files / f"{name}.js").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string((files / f"{name}.html").read_text("utf-8")).render(
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        **words,
    )


def _hash(text: str) -> str:
    """Return the text's name in a Content-Security-Policy, which lets nothing else run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
