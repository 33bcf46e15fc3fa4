"""What of a service differs from one generation or sandbox to the next, as its spec says it. Pure."""

from __future__ import annotations

import re

from nstool.errors import SpecError
from nstool.spec import values
from nstool.spec.check import check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nstool.spec.check import Path, Place
    from nstool.spec.model import Spec
    from nstool.spec.service import Service

    Rule = Callable[[Spec, Service], str]

LOOPBACK = "127.0.0.1"
# A variable of a shell is none: ${port} stays what it is.
_PLACEHOLDER = re.compile(r"(?<!\$)\{(port|address)\}")
_BRACED = re.compile(r"(?<!\$)\{(\w+)\}")
_NEAR = 0.7  # of difflib: prot is near to port, print, which awk(1) has in braces, is not
_OWN_PROC = 'is told in a /proc of its own: proc = "private", without proc_subset'


def variants(spec: Spec, service: Service, place: Place) -> tuple[Spec, ...]:
    """Return the specs that the generations of a service have, checked: one for each of its roots and commands.

    spec: without a command where the service has several. Raises SpecError.
    """
    if service.commands and spec.command:
        raise SpecError("service.commands says what is run: leave one of the two out", place(("command",)))
    count = max(len(service.roots), len(service.commands), 1)
    found = tuple(_variant(spec, service, number, place) for number in range(count))
    for word in service.vary:
        for rule in _RULES[word]:
            for one in found:
                if message := rule(one, service):
                    raise SpecError(f'"{word}": {message}', place(("service", "vary", service.vary.index(word))))
    return found


def _variant(spec: Spec, service: Service, number: int, place: Place) -> Spec:
    where = variant_place(service, number, place)
    if service.roots:
        try:
            spec = spec.replace(root=values.root(service.roots[number]))
        except SpecError as error:
            raise SpecError(error.message, where(("root",))) from None
    if service.commands:
        spec = spec.replace(command=service.commands[number])
    check(spec, where)
    return spec


def variant_place(service: Service, number: int, place: Place) -> Place:
    """Return what tells where a key of a variant is written: its root and its command are in the service's lists."""
    lists = {"root": "roots" if service.roots else "", "command": "commands" if service.commands else ""}

    def where(path: Path) -> str:
        name = lists.get(str(path[0]), "") if path else ""
        return place(("service", name, number)) if name else place(path)

    return where


def filled(spec: Spec, port: str, address: str) -> Spec:
    """Return the spec with these for {port} and {address} in its environment and its command, but the program."""
    told = {"port": port, "address": address}

    def fill(text: str) -> str:
        return _PLACEHOLDER.sub(lambda found: told[found[1]], text)

    program, *words = spec.command
    env = {name: fill(text) for name, text in spec.env.items()}
    return spec.replace(command=(program, *map(fill, words)), env=env)


def misspelt(spec: Spec) -> Iterator[tuple[Path, str, str]]:
    """Yield the words in braces that are nearly {port} or {address}: where each is, it, and the right one."""
    from difflib import get_close_matches

    texts: list[tuple[Path, str]] = [(("command", number), word) for number, word in enumerate(spec.command) if number]
    texts += [(("env", name), text) for name, text in spec.env.items()]
    for path, text in texts:
        for word in _BRACED.findall(text):
            near = get_close_matches(word.lower(), ("port", "address"), 1, _NEAR)
            if near and word not in ("port", "address"):
                yield path, word, near[0]


# ---- what cannot vary, and why ----


def _has_own_ids(spec: Spec, service: Service) -> str:
    return (
        "uid_map and gid_map say which ids they are: leave one of the two out" if spec.uid_map or spec.gid_map else ""
    )


def _has_own_uts(spec: Spec, service: Service) -> str:
    return "needs a new uts namespace, uts_namespaces(7)" if spec.namespaces.uts != "new" else ""


def _is_no_function(spec: Spec, service: Service) -> str:
    return "a function has the environment of its interpreter: leave it out" if service.shape == "python" else ""


def _has_free_pid(spec: Spec, service: Service) -> str:
    if service.shape == "python":
        return "a function is process 1 of its sandbox: leave it out"
    return (
        "a command with a next_pid, or without init, has the pid that it has" if spec.next_pid or not spec.init else ""
    )


def _has_own_machine_id(spec: Spec, service: Service) -> str:
    path = "/etc/machine-id"
    if spec.root.type != "system":
        return f"only the default root has an {path} of its own: leave it out, or the other root"
    return f"{path} is what mounts says: leave one of the two out" if any(m.target == path for m in spec.mounts) else ""


def _has_own_proc(spec: Spec, service: Service) -> str:
    return _OWN_PROC if spec.proc != "private" or spec.proc_subset else ""


def _is_relayed(spec: Spec, service: Service) -> str:
    if service.shape != "port":
        return 'only the command of shape = "port" is told where to listen'
    return "" if spec.net.mode == "loopback" else f'others listen in a network of mode "{spec.net.mode}": leave one out'


def _is_named(word: str) -> Rule:
    def rule(spec: Spec, service: Service) -> str:
        words = (*spec.command[1:], *spec.env.values())
        if any(found[1] == word for text in words for found in _PLACEHOLDER.finditer(text)):
            return ""
        return f"the command would not know it: write {{{word}}} in a word of command, or in the value of an env"

    return rule


def _has_own_clocks(spec: Spec, service: Service) -> str:
    if spec.namespaces.time != "new":
        return "needs a new time namespace, time_namespaces(7)"
    fixed = (spec.namespaces.monotonic_offset, spec.namespaces.boottime_offset)
    return "" if fixed == (None, None) else "monotonic_offset and boottime_offset say where they are: leave one out"


_RULES: dict[str, tuple[Rule, ...]] = {
    "ids": (_has_own_ids,),
    "hostname": (_has_own_uts,),
    "pid": (_has_free_pid,),
    "canary": (_is_no_function,),
    "machine-id": (_has_own_machine_id,),
    "boot-id": (_has_own_proc,),
    "port": (_is_relayed, _is_named("port")),
    "address": (_is_relayed, _is_named("address")),
    "clock": (_has_own_clocks,),
}
