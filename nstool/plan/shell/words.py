"""Pieces of text of a shell script: quoting, files written by it, and its own functions."""

from __future__ import annotations

import shlex

from nstool.plan.steps import Step

Lines = list[str]

CHECK = "# shellcheck shell=sh disable=SC1091,SC2016,SC2034,SC2086,SC2154 # $old is several words"


def numbers(step: Step, *positions: int) -> list[int]:
    """Return the arguments at these positions, which are numbers."""
    found = []
    for position in positions:
        value = step.args[position]
        assert isinstance(value, int), (step.call, position)
        found.append(value)
    return found


def in_quotes(text: str) -> str:
    return "".join(f"\\{char}" if char in '"$`\\' else char for char in text)


def exec_chain(programs: list[str]) -> Lines:
    """Return the exec of programs that exec one another, one a line."""
    first, *rest = [*(f"{program} \\" for program in programs[:-1]), programs[-1]]
    return [f"exec {first}", *(f"    {program}" for program in rest)]


def here_file(name: str, lines: Lines) -> Lines:
    """Write a part of the script to a file: the delimiter is a line that the part has not."""
    text = "\n".join([CHECK, *lines]).split("\n")
    while text and not text[-1]:
        text.pop()
    end = f"END_OF_{name.upper()}"
    while end in text:
        end += "_"
    return [f"cat >\"$work/{name}\" <<'{end}'", *text, end]


def define(name: str, lines: Lines) -> Lines:
    body = [f"    {line}" if line else "" for line in lines]
    while body and not body[-1]:
        body.pop()
    return [f"{name}() {{", *body, "    :", "}", ""]


def ranges(numbers: list[int]) -> str:
    """Return numbers as "3, 5-7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def printf(data: object) -> str:
    """Return the printf command that writes these bytes."""
    raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    assert isinstance(raw, bytes)
    escapes = {0x0A: "\\n", 0x09: "\\t", 0x25: "%%", 0x5C: "\\\\"}
    form = "".join(escapes.get(b) or (chr(b) if 0x20 <= b < 0x7F else f"\\{b:03o}") for b in raw)
    return f"printf {'-- ' if form.startswith('-') else ''}{shlex.quote(form)}"


FINISH = """\
finish() {
    status=$?
    trap - EXIT
    trap '' HUP INT TERM
    set +e
    if [ -n "$sandbox" ]; then
        # Init rather than unshare(1), its parent, which so reaps it. Its pid may be another's by now.
        case $(cat "/proc/$pid/stat" 2>/dev/null) in
        "$pid ("*") "?" $sandbox "*) kill -KILL "$pid" ;;
        *) kill -KILL "$sandbox" 2>/dev/null ;;
        esac
        wait "$sandbox" 2>/dev/null
    fi
    undo
    # Nothing is mounted here outside the sandbox's own mount namespaces, and rmdir takes empty directories only.
    for entry in "$work"/*; do
        if [ -d "$entry" ]; then rmdir "$entry"; else rm -f "$entry"; fi
    done
    rmdir "$work"
    exit "$status"
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM"""

END = """
# All parts are written and the launcher's steps are done: let init go on, and wait for its end.
echo go >&5
status=0
wait "$sandbox" || status=$?
sandbox=''
exit "$status\""""

MAIN_FUNCTIONS = {
    "remove_cgroup": """\
# What has just died in a cgroup keeps it busy for a moment.
remove_cgroup() {
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        [ -d "$1" ] || return 0
        rmdir "$1" 2>/dev/null && return 0
        sleep 0.1
    done
    echo "$0: cannot remove $1" >&2
}""",
    "place": """\
# place SOURCE NAME: make a directory or a file below $work to mount the source on.
place() {
    if [ -d "$1" ]; then mkdir "$work/$2"; else : >"$work/$2"; fi
}""",
    "forward": """\
# forward 4|6: let packets through; what that changes of the host is kept to be put back.
forward() {
    case $1 in
    4) switch=/proc/sys/net/ipv4/ip_forward conf=/proc/sys/net/ipv4/conf ;;
    6) switch=/proc/sys/net/ipv6/conf/all/forwarding conf=/proc/sys/net/ipv6/conf ;;
    esac
    [ "$(cat "$switch")" = 0 ] || return 0
    echo "$switch 0" >>"$work/sysctls"
    [ "$1" = 6 ] || echo "$conf/all/accept_redirects $(cat "$conf/all/accept_redirects")" >>"$work/sysctls"
    for file in "$conf"/*/forwarding "$conf"/*/accept_ra; do
        case $file in */all/* | */default/accept_ra) continue ;; esac
        if [ ! -e "$file" ] || [ "$(cat "$file")" != 1 ]; then continue; fi
        echo "$file 1" >>"$work/sysctls"
        # A host that takes its routes from router advertisements goes on to do so only with 2.
        case $file in */accept_ra) echo 2 >"$file" ;; esac
    done
    echo 1 >"$switch"
}""",
    "put_back": """\
put_back() {
    [ -e "$work/sysctls" ] || return 0
    while read -r file value; do
        [ ! -e "$file" ] || echo "$value" >"$file"
    done <"$work/sysctls"
}""",
}
PART_FUNCTIONS = {
    "attributes": """\
# attributes PATH OPTIONS [below]: change flags of the mount at PATH, and of all below it that a path leads to; the
# other flags stay.
attributes() {
    while read -r _ _ _ _ at flags _ <&9; do
        at=$(printf %b "$at")
        case $at in
        "$1") ;;
        "${1%/}"/*)
            [ -n "${3-}" ] || continue
            ${as-} $old$stat -c '' "$at" >/dev/null 2>&1 || continue
            ;;
        *) continue ;;
        esac
        ${as-} $old$mount -n -c -o "remount,bind,$flags,$2" none "$at"
    done 9<"$proc/self/mountinfo"
}""",
}
