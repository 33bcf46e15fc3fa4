"""Describe the compiled module ``nstool._native`` to cffi: API mode, stable ABI. Used by setup.py."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
SOURCES = ("syscalls.c", "plan.c", "launch.c", "copy.c", "interpreter.c", "letter.c", "proxy.c")
DECLARATIONS = ("syscalls.cdef", "engine.cdef")

# The engine runs in a child made by a raw clone3 with a stack of its own, and the same sources
# make the static nsexec, which has no thread-local storage for a stack protector to read.
FLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fno-stack-protector", "-fcf-protection=none"]

ffibuilder = FFI()
for name in DECLARATIONS:
    ffibuilder.cdef((HERE / name).read_text())
ffibuilder.set_source(
    "nstool._native",
    '#include "nstool.h"\n#include "syscalls.h"',
    sources=[str(HERE / name) for name in SOURCES],
    depends=[str(path) for path in sorted(HERE.glob("*.h"))],
    include_dirs=[str(HERE)],
    extra_compile_args=FLAGS,
    py_limited_api=True,
)
