"""A short run of the fuzzer: what it finds in seconds must not be there. `make fuzz` runs it longer."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("nstool._native", reason="nstool._native is not built; run make build")

RUN = Path(__file__).with_name("run.sh")
NO_LIBFUZZER = 77  # exit status of run.sh
SECONDS = 8


@pytest.mark.needs("clang")
def test_no_plan_harms_memory(tmp_path: Path) -> None:
    """Damaged plans neither crash the check nor, when it takes them, what runs them: launcher, init, nsexec.

    AddressSanitizer and UndefinedBehaviorSanitizer watch; the kernel is simulated.
    """
    environment = {**os.environ, "FUZZ_DIR": str(tmp_path)}
    done = subprocess.run(
        [RUN, str(SECONDS)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=300
    )
    if done.returncode == NO_LIBFUZZER:
        pytest.skip("clang has no libFuzzer; install libclang-rt-dev")
    assert done.returncode == 0, done.stderr[-6000:]
    # The seeds alone run hundreds of plans; a run that stops before is no run.
    units = [line for line in done.stderr.splitlines() if line.startswith("stat::number_of_executed_units:")]
    assert int(units[0].split()[1]) > 500
