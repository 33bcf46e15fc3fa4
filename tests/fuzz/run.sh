#!/bin/sh
# Fuzz what C does with compiled plans: tests/fuzz/run.sh [SECONDS] [LIBFUZZER OPTIONS].
# Everything that it makes lies below $FUZZ_DIR (default: build/fuzz). Exit status 77: no clang with libFuzzer.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
dir=${FUZZ_DIR:-$root/build/fuzz}
python=${PYTHON:-$root/.venv/bin/python}
seconds=${1:-60}
[ $# -eq 0 ] || shift

mkdir -p "$dir/found" "$dir/seeds"
if ! echo 'int LLVMFuzzerTestOneInput(const char *d, long n) { return d && n < 0; }' |
	clang -fsanitize=fuzzer,address -x c - -o "$dir/probe" 2> "$dir/probe.log"; then
	echo "no clang with libFuzzer and AddressSanitizer: $(tail -n 1 "$dir/probe.log")" >&2
	exit 77
fi
clang -g -O1 -std=gnu11 -Wall -Wextra -Werror -DNST_FUZZ -fsanitize=fuzzer,address,undefined \
	-fno-sanitize-recover=undefined -I"$root/csrc" -o "$dir/plan_fuzzer" "$root/tests/fuzz/plan_fuzzer.c" \
	"$root/csrc/plan.c" "$root/csrc/launch.c" "$root/csrc/init.c" "$root/csrc/answer.c" \
	"$root/csrc/nsexec.c" "$root/csrc/supervise.c" "$root/csrc/letter.c" "$root/csrc/proxy.c" "$root"/csrc/serve/*.c
PYTHONPATH="$root" "$python" "$root/tests/fuzz/make_corpus.py" "$dir/seeds"
cd "$dir" # where a crash is written
exec ./plan_fuzzer -max_total_time="$seconds" -timeout=10 -max_len=65536 -print_final_stats=1 "$@" found seeds "$root/tests/fuzz/corpus"
