"""``nstool aslr``: how addresses are randomised, by setting and by measurement."""

from __future__ import annotations

import click

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.inspect.aslr import Measured, Persona, Process, Settings
    from nstool.security.aslr import Spread

EPILOG = """\b
Examples:
  nstool aslr              the host's setting, and what launches of a small program show
  nstool aslr 4711         personality and layout of process 4711, and launches of its program
  nstool aslr -- nginx -t  launches of nginx, which never runs: each is stopped at its exec
"""

_SMALL = "true"  # the program that is launched if none is asked for


class _Command(click.Command):
    """Tells TARGET from -- COMMAND, which click forgets."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.obj = tuple(args[at + 1 :])
            args = args[:at]
        return super().parse_args(ctx, args)


@click.command("aslr", cls=_Command, epilog=EPILOG)
@click.option(
    "--launches",
    type=click.IntRange(2, 100_000),
    default=200,
    show_default=True,
    metavar="N",
    help="So often.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.argument("target", default="", metavar="[TARGET | -- COMMAND [ARGS]]")
@click.pass_context
def command(ctx: click.Context, target: str, launches: int, as_json: bool) -> int:
    """Show how addresses are randomised: by the host's setting, by the personality of TARGET, and as measured.

    TARGET is a pid or a sandbox's name; its program is measured under its personality, as you would start it.
    COMMAND is looked up in PATH. Without either, a small program is measured.

    Measuring launches the program N times. Each launch is stopped at its exec and killed, so nothing of it runs.
    The bits that varied, and the span of the addresses, are lower bounds of what can vary; from the number of equal
    addresses follows how many bits of entropy there are at least, with 95 % confidence. What N launches can show
    at most is said.
    """
    from nstool.cli import answer
    from nstool.inspect import aslr
    from nstool.inspect.proc import process

    words: tuple[str, ...] = ctx.obj or ()
    if target and ctx.obj is not None:
        raise click.UsageError("give a TARGET or a COMMAND, not both")
    if ctx.obj == () or (words and not words[0]):
        raise click.UsageError("COMMAND is empty: nothing follows --")
    pid = process(target) if target else 0
    settings = aslr.settings()
    known = aslr.process(pid) if pid else None
    measured = _of_process(known, launches) if known else aslr.measure(words or (_SMALL,), launches)
    if as_json:
        found = {
            "settings": settings.asdict(),
            "process": known.asdict() if known else None,
            "measured": _plain(measured) if measured else None,
        }
        answer.show(found)
    else:
        _print(settings, known, measured)
    return 0


def _of_process(known: Process, launches: int) -> Measured | None:
    from nstool.inspect.aslr import measure

    if not known.layout:  # a thread of the kernel
        return None
    return measure((known.comm,), launches, value=known.persona.value, executable=f"/proc/{known.pid}/exe")


def _plain(measured: Measured) -> dict[str, object]:
    regions = {name: {**one.asdict(), "bits": one.bits, "span": one.span} for name, one in measured.regions.items()}
    return {**measured.asdict(), "regions": regions}


def _print(settings: Settings, known: Process | None, measured: Measured | None) -> None:
    from nstool.cli.console import cell, for_lines
    from nstool.inspect.proc import title

    console = for_lines()
    console.print(cell(_host(settings)))
    if known:
        console.print(cell(f"{title(known.tgid, known.pid)} ({known.comm}): personality {_persona(known.persona)}"))
        for name, address in known.layout.items():
            console.print(cell(f"  {name:12} {address:#x}"))
        if known.why_none:
            console.print(cell(f"nothing is measured: {known.why_none}"))
    if measured:
        _measured(measured)
    for name, why in settings.unread.items():
        console.print(cell(f"note: {name} unknown: {why}"))


def _host(settings: Settings) -> str:
    bits = "" if settings.rnd_bits is None else f"; mappings begin at one of 2^{settings.rnd_bits} pages"
    if settings.rnd_compat_bits is not None:
        bits += f" (32 bit programs 2^{settings.rnd_compat_bits})"
    legacy = "; mappings grow upwards (vm.legacy_va_layout)" if settings.legacy else ""
    what = "unknown what is" if settings.randomize is None else settings.randomize
    return f"host: {what} randomised (kernel.randomize_va_space){bits}{legacy}"


def _persona(persona: Persona) -> str:
    words = " ".join((persona.base, *persona.flags))
    return words if persona.randomised else f"{words}: nothing is randomised"


def _measured(measured: Measured) -> None:
    from nstool.cli.console import Table, cell, for_lines
    from nstool.security.aslr import most_shown

    console = for_lines()
    launches = measured.launches
    what = " ".join(measured.program)
    console.print(cell(f"{launches} launches of {what}, personality {_persona(measured.persona)}", "bold"))
    table = Table("begins at", "bits that varied", "", "span", "different", "entropy at least", "from", "to")
    for name, region in measured.regions.items():
        table.add_row(*map(cell, (name, *_row(region))))
    console.print(table)
    for one, other in measured.tied:
        console.print(cell(f"{one} and {other} are always as far apart: who knows one address knows both"))
    for line in (
        "The bits that varied are a lower bound of those that can: a random one has stayed the same in all "
        f"{launches} launches with a chance of 2^-{launches - 1}.",
        "Bits that only carries have changed are among them; the span counts them out, and is a lower bound too.",
        f"Entropy is what the equal addresses prove with 95 % confidence: {launches} launches can prove "
        f"{most_shown(launches):.1f} bits and no more.",
    ):
        console.print(cell(line))


def _row(one: Spread) -> tuple[str, ...]:
    if not one.varied:
        return ("0", "", "fixed", f"1 of {one.samples}", "0 bits", f"{one.lowest:#x}", "")
    return (
        str(one.bits),
        f"bits {one.lowest_bit} to {one.highest_bit}",
        f"{one.span:.1f} bits",
        f"{one.distinct} of {one.samples}",
        f"{one.at_least:.1f} bits",
        f"{one.lowest:#x}",
        f"{one.highest:#x}",
    )
