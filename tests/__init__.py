"""The tests of nstool: unit (no build, no root), native (the shim), kernel (real)."""
