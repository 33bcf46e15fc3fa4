"""What pyproject.toml cannot say: the compiled module and the nsexec binary."""

import subprocess

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithNsexec(build_py):
    """Compile nstool/nsexec by the Makefile's rule before the package's files are collected."""

    def run(self) -> None:
        subprocess.run(["make", "--no-print-directory", "nstool/nsexec"], check=True)
        # The list of data files may have been made before there was a binary to list.
        self.__dict__.pop("data_files", None)
        super().run()


setup(
    cffi_modules=["csrc/build.py:ffibuilder"],
    cmdclass={"build_py": BuildWithNsexec},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
