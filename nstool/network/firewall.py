"""The nft tables of nstool: ``inet nstool`` and, for bridges, ``bridge nstool``. nft(8).

One table for all sandboxes of a network namespace. The chains are constant and what belongs to a
sandbox are elements of sets, so that a packet costs the same with one sandbox and with a thousand
(docs/network.md). The tables are a function of the shared state: whatever happened to them, they
can be made anew from it in one transaction.
"""

from __future__ import annotations

import errno

from nstool.errors import KernelError, NotSupported, NstoolError
from nstool.masked import Masked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from nstool.network.shared import Shared

INET = """\
table inet nstool {
	# Veth links of sandboxes; (device, address) from where each sandbox sends.
	set links { type ifname; }
	set source4 { type ifname . ipv4_addr; }
	set source6 { type ifname . ipv6_addr; }
	# What sysctls were before forwarding was turned on, in comments: no rule looks here (recover.py).
	set before { type mark; }
	# All sandboxes; those that are not isolated; those with NAT to the outside.
	set sandbox4 { type ipv4_addr; }
	set sandbox6 { type ipv6_addr; }
	set open4 { type ipv4_addr; }
	set open6 { type ipv6_addr; }
	set nat4 { type ipv4_addr; }
	set nat6 { type ipv6_addr; }
	# How many connections to the outside each has.
	set flows4 { type ipv4_addr; size 65535; flags dynamic; }
	set flows6 { type ipv6_addr; size 65535; flags dynamic; }
	# Published ports: on every address of the host, and on one address.
	map publish4 { type inet_proto . inet_service : ipv4_addr . inet_service; }
	map publish6 { type inet_proto . inet_service : ipv6_addr . inet_service; }
	map publish4_at { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
	map publish6_at { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }

	# Nobody sends in the name of another. Before connection tracking, which rewrites addresses.
	chain source {
		type filter hook prerouting priority raw; policy accept;
		iifname @links ip daddr 127.0.0.0/8 drop
		iifname @links iifname . ip saddr != @source4 drop
		iifname @links iifname . ip6 saddr != @source6 drop
		ip saddr @sandbox4 iifname . ip saddr != @source4 drop
		ip6 saddr @sandbox6 iifname . ip6 saddr != @source6 drop
	}

	chain publish {
		dnat ip to ip daddr . meta l4proto . th dport map @publish4_at
		dnat ip to meta l4proto . th dport map @publish4
		dnat ip6 to ip6 daddr . meta l4proto . th dport map @publish6_at
		dnat ip6 to meta l4proto . th dport map @publish6
	}
	chain published {
		type nat hook prerouting priority dstnat; policy accept;
		# From another machine 127.0.0.1 is no address of ours, whatever it writes on its packets.
		iifname != "lo" ip daddr 127.0.0.0/8 accept
		fib daddr type local goto publish
	}
	chain published_local {
		type nat hook output priority -100; policy accept;
		fib daddr type local goto publish
	}

	chain translate {
		type nat hook postrouting priority srcnat; policy accept;
		# The host's loopback addresses mean something else inside.
		ip daddr @sandbox4 ip saddr 127.0.0.0/8 masquerade
		ip6 daddr @sandbox6 ip6 saddr ::1 masquerade
		# A sandbox that reaches another through a published port must get the answer from there.
		ip daddr @sandbox4 ip saddr @sandbox4 ct status dnat masquerade
		ip6 daddr @sandbox6 ip6 saddr @sandbox6 ct status dnat masquerade
		# Drawn from above the ports that services and published ports are wont to have: else what somebody sends to
		# one of those would be taken for an answer to a sandbox that has talked to him from the same port.
		ip saddr @nat4 ip daddr != @sandbox4 meta l4proto { tcp, udp } masquerade to :61000-65535 fully-random
		ip6 saddr @nat6 ip6 daddr != @sandbox6 meta l4proto { tcp, udp } masquerade to :61000-65535 fully-random
		ip saddr @nat4 ip daddr != @sandbox4 masquerade
		ip6 saddr @nat6 ip6 daddr != @sandbox6 masquerade
	}

	chain input {
		type filter hook input priority filter; policy accept;
		ip saddr @sandbox4 goto to_host
		ip6 saddr @sandbox6 goto to_host
	}
	chain to_host {
		ct state established,related accept
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
		ip saddr @open4 accept
		ip6 saddr @open6 accept
		reject
	}

	chain forward {
		type filter hook forward priority filter; policy accept;
		ip saddr @sandbox4 goto leave
		ip6 saddr @sandbox6 goto leave
		ip daddr @sandbox4 goto enter
		ip6 daddr @sandbox6 goto enter
	}
	chain leave {
		ct state established,related accept
		ip daddr @sandbox4 goto between
		ip6 daddr @sandbox6 goto between
		ip saddr @open4 accept
		ip6 saddr @open6 accept
		# Metadata services of clouds give out credentials of the host; their name servers are no harm.
		ip daddr { 169.254.0.0/16, 168.63.129.16 } th dport != 53 reject
		ip daddr { 100.100.100.200, 192.0.0.192 } reject
		ip6 daddr { fd00:ec2::254, fd20:ce::254 } reject
		# The host's table of connections is not one sandbox's.
		ip saddr @nat4 add @flows4 { ip saddr ct count over 8192 } reject
		ip6 saddr @nat6 add @flows6 { ip6 saddr ct count over 8192 } reject
		ip saddr @nat4 accept
		ip6 saddr @nat6 accept
		reject
	}
	chain between {
		ip saddr @open4 ip daddr @open4 accept
		ip6 saddr @open6 ip6 daddr @open6 accept
		reject
	}
	chain enter {
		ct state established,related accept
		ct status dnat accept
		ip daddr @open4 accept
		ip6 daddr @open6 accept
		drop
	}
}
"""

BRIDGE = """\
table bridge nstool {
	# Bridge ports of sandboxes; the isolated ones; what each port may say that it is.
	set ports { type ifname; }
	set isolated { type ifname; }
	set mac { type ifname . ether_addr; }
	set source4 { type ifname . ipv4_addr; }
	set source6 { type ifname . ipv6_addr; }

	chain source {
		type filter hook prerouting priority -300; policy accept;
		iifname @ports goto verify
	}
	chain verify {
		iifname . ether saddr != @mac drop
		ether type != { ip, ip6, arp } drop
		ip daddr 127.0.0.0/8 drop
		ether type ip iifname . ip saddr != @source4 drop
		ether type arp iifname . arp saddr ip != @source4 drop
		ether type ip6 iifname . ip6 saddr != @source6 drop
		icmpv6 type { nd-router-advert, nd-redirect } drop
	}
	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname @isolated oifname @ports drop
		iifname @ports oifname @isolated drop
	}
}
"""

USERS = "rules"  # key of the shared state: link → arguments of nft_publish, and its maker
FORWARDING = "forwarding"  # key of the shared state: "4" or "6" → {"links": {link: maker}, "before": [[path, value]]}
BRIDGED = "bridge_table"  # key of the shared state: the bridge table was made


def add(shared: Shared, user: dict[str, Any]) -> None:
    """Put a sandbox into the tables. user: arguments of the step nft_publish, and "maker" (rundir.maker)."""
    users = shared.state.setdefault(USERS, {})
    first = not users or _before_changes(shared.state, user["link"])
    users[user["link"]] = user
    if user["bridged"]:
        shared.state[BRIDGED] = True
    shared.save()
    if first or not _try("".join(f"add element {line}\n" for line in elements(user))):
        apply(ruleset(shared.state))


def remove(shared: Shared, link: str) -> bool:
    """Take a sandbox out of the tables, and the tables away with the last one.

    Return False if it was in none: twice does no harm.
    """
    users = shared.state.get(USERS, {})
    user = users.pop(link, None)
    if user is None:
        return False
    if not users or not _try("".join(f"delete element {line}\n" for line in keys(user))):
        apply(ruleset(shared.state))
    if not users:
        shared.state.pop(BRIDGED, None)
    shared.save()
    return True


def refresh(shared: Shared) -> None:
    """Make the tables anew, if there are any: what was before forwarding has changed."""
    if shared.state.get(USERS):
        apply(ruleset(shared.state))


def remove_tables() -> bool:
    """Remove what tables of ours there are; False if there was none."""
    found = [family for family in ("inet", "bridge") if listing(family)]
    for family in found:
        apply(f"delete table {family} nstool\n")
    return bool(found)


def _before_changes(state: dict[str, Any], link: str) -> bool:
    # It was for this one that forwarding was turned on, and the table does not know yet what was before.
    return any(list(record["links"]) == [link] for record in state.get(FORWARDING, {}).values())


def ruleset(state: dict[str, Any]) -> str:
    """Return the nft script that replaces whatever tables of ours there are by those of this state."""
    users = state.get(USERS, {}).values()
    script = "add table inet nstool\ndelete table inet nstool\n"
    if state.get(BRIDGED):
        script += "add table bridge nstool\ndelete table bridge nstool\n"
    if users:
        script += INET + (BRIDGE if state.get(BRIDGED) else "")
    lines = [*_before(state), *(line for user in users for line in elements(user))] if users else []
    return script + "".join(f"add element {line}\n" for line in lines)


def _before(state: dict[str, Any]) -> list[str]:
    pairs = [pair for record in state.get(FORWARDING, {}).values() for pair in record["before"]]
    return [f'inet nstool before {{ {n} comment "{path} = {value}" }}' for n, (path, value) in enumerate(pairs)]


def elements(user: dict[str, Any]) -> list[str]:
    """Return "FAMILY nstool SET { KEY [: VALUE] }" of all that a sandbox has in the tables."""
    return [f"{name} {{ {key}{rest} }}" for name, key, rest in _entries(user)]


def keys(user: dict[str, Any]) -> list[str]:
    """Return ``elements`` without the values, as "delete element" takes them."""
    return [f"{name} {{ {key} }}" for name, key, _ in _entries(user)]


def _entries(user: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    link, device = f'"{user["link"]}"', f'"{user["device"]}"'
    whose = ""  # in a script nobody is the maker
    if "maker" in user:  # for people to read, and for recover.py; a comment takes 128 bytes, a path may have more
        whose = f' comment "{user["name"]} {" ".join(user["maker"].split(" ", 4)[:4])}"'
    if user["bridged"]:
        yield "bridge nstool ports", link, whose
        yield "bridge nstool mac", f"{link} . {user['mac']}", ""
        if user["isolated"]:
            yield "bridge nstool isolated", link, ""
    else:
        yield "inet nstool links", link, whose
    for address in user["addresses"]:
        version = "6" if ":" in address else "4"
        yield f"inet nstool source{version}", f"{device} . {address}", ""
        yield f"inet nstool sandbox{version}", address, ""
        if user["bridged"]:
            yield f"bridge nstool source{version}", f"{link} . {address}", ""
        if not user["isolated"]:
            yield f"inet nstool open{version}", address, ""
        if user["nat"]:
            yield f"inet nstool nat{version}", address, ""
        for protocol, at, host, inside in user["publish"]:
            if not at:
                yield f"inet nstool publish{version}", f"{protocol} . {host}", f" : {address} . {inside}"
            elif (":" in at) == (":" in address):
                yield f"inet nstool publish{version}_at", f"{at} . {protocol} . {host}", f" : {address} . {inside}"


def nft_path() -> str:
    """Return the path of nft(8). Raises NotSupported."""
    import os
    import shutil

    path = shutil.which("nft", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if path is None:
        other = shutil.which("iptables", path="/usr/sbin:/sbin:/usr/bin")
        found = f"; {other} is there, but nstool's rules are nftables rules" if other else ""
        raise NotSupported("net (isolation, NAT, published ports)", f"nft is not installed{found}", "install nftables")
    return path


def apply(script: str, *options: str) -> None:
    """Run an nft script: one transaction, all or nothing. Raises KernelError with nft's words."""
    _nft(script, *options, "-f", "-")


def listing(family: str) -> str:
    """Return our table of this family as libnftables-json(5); empty if there is none."""
    try:
        return _nft("", "-j", "list", "table", family, "nstool")
    except KernelError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):  # EOPNOTSUPP: a kernel without this family
            return ""
        raise


def chains(family: str) -> str:
    """Return our table of this family as nft(8) prints it, without what is in its sets; empty if there is none."""
    try:
        return _nft("", "-t", "list", "table", family, "nstool")
    except KernelError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):
            return ""
        raise


_TRIES = 50


def _nft(script: str, *words: str) -> str:
    """Run nft; again where it gives up with EINTR, nothing done, for others have changed what it was reading."""
    for _ in range(_TRIES - 1):
        try:
            return _nft_once(script, *words)
        except KernelError as error:
            if error.errno != errno.EINTR:
                raise
    return _nft_once(script, *words)


def _nft_once(script: str, *words: str) -> str:
    import subprocess

    with Masked():
        done = subprocess.run(
            [nft_path(), *words],
            input=script,
            capture_output=True,
            text=True,
            env={"LC_ALL": "C"},
            check=False,
        )
    if done.returncode < 0:
        raise NstoolError(
            f"nft {' '.join(words)} was killed by signal {-done.returncode}\n"
            "possible cause: a small stack (ulimit -s) or too little memory; or from outside"
        )
    # A host process that ignores SIGCHLD makes subprocess report 0, whatever the status was.
    if done.returncode or "Error:" in done.stderr:
        lines = done.stderr.strip().splitlines() or [f"nft ended with status {done.returncode}"]
        raise KernelError(f"nft {' '.join(words)}", _errno(lines[0]), why=lines[0])
    return done.stdout


def _try(script: str) -> bool:
    """Run an nft script; False if the tables are not as the state says: someone flushed the ruleset."""
    try:
        apply(script)
    except KernelError:
        return False
    return True


def _errno(message: str) -> int:
    """Return the errno that nft's message ends with; EINVAL for its own complaints."""
    import os

    return next((number for number in errno.errorcode if message.endswith(os.strerror(number))), errno.EINVAL)
