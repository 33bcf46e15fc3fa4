#!/bin/sh
# Build the programs that nstool is measured against, and a small root directory, into $1 (default: build/bench).
# Needs gcc and a static busybox.
set -eu
cd "$(dirname "$0")"
out=${1:-../build/bench}
busybox=${BUSYBOX:-$(command -v busybox)}
flags="-O2 -Wall -Wextra -Wno-unused-function"
mkdir -p "$out/bin"
for directory in bin proc dev sys tmp etc run usr root; do mkdir -p "$out/rootfs/$directory"; done
gcc $flags -o "$out/bin/floor_spawn" floor_spawn.c
gcc $flags -o "$out/bin/floor_hardening" floor_hardening.c
gcc $flags -o "$out/bin/launch_time" launch_time.c
gcc $flags -static -o "$out/bin/floor_launch" floor_launch.c
gcc $flags -o "$out/bin/floor_server" floor_server.c
gcc $flags -pthread -o "$out/bin/load_conn" load_conn.c
gcc -O2 -static -o "$out/rootfs/bin/tiny_http" tiny_http.c
for program in tiny_true tiny_sleep; do gcc -O2 -static -nostdlib -o "$out/rootfs/bin/$program" $program.c; done
cp -f "$busybox" "$out/rootfs/bin/busybox"
for applet in true sh cat sleep ls; do ln -sf busybox "$out/rootfs/bin/$applet"; done
touch "$out/rootfs/etc/resolv.conf" "$out/rootfs/etc/hosts"
chmod 755 "$out" "$out/rootfs"
