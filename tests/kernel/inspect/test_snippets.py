"""The Python of docs/inspect.md runs as it stands there, with pids, names and files that there are."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.kernel.inspect.test_diff import living

pytestmark = pytest.mark.needs("root", "native")

TEXT = (Path(__file__).resolve().parents[3] / "docs/inspect.md").read_text("utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_runs_as_it_is_copied(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each says itself what it needs; only the numbers and names in it are put in the place of others."""
    monkeypatch.chdir(tmp_path)
    shutil.copy("/bin/true", "ping")
    Path("web.toml").write_text('command = ["cat"]\n')
    with living("unshare", "--pid", "--ipc", "--net", "--uts", "--fork") as pid:
        code = SNIPPETS[number].replace("400", "3")  # launches; before a pid that has these digits
        code = re.sub(r"(?<![\w:./])(1234|4711|815|32710|22825|6538)\b", str(pid), code)
        code = re.sub(r'"(web|22825)"', f'"{pid}"', code).replace('"/usr"', '"/usr/bin"').replace('"nginx"', '"true"')
        exec(compile(code, f"snippet {number}", "exec"), {})
    assert os.getcwd() == str(tmp_path)
