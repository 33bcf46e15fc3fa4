"""Leases: what is free is a pure question; that nobody gets what another has, a matter of real processes."""

from __future__ import annotations

import os
import signal
import threading
from ipaddress import ip_interface, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nstool.errors import NotSupported, SpecError
from nstool.plan.lease import Lease
from nstool.sandbox import journal, leases
from nstool.spec.model import IdMap, Net, Spec
from tests.support.child import in_processes

ALL = [(0, 0xFFFFFFFE)]
as_root = pytest.mark.needs("root")  # ranges of host ids are root's to lease


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NSTOOL_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.delenv("NSTOOL_IDS", raising=False)
    monkeypatch.delenv("NSTOOL_NETS", raising=False)
    return tmp_path / "run"


# --------------------------------------------------------------------------------- pure parts

ranges = st.tuples(st.integers(0, 1 << 32), st.integers(0, 1 << 20)).map(lambda r: (r[0], r[0] + r[1]))


@given(st.lists(ranges, max_size=8), st.lists(ranges, min_size=1, max_size=4))
def test_id_slots_are_nobody_elses_and_mapped(taken: list[leases.Range], mapped: list[leases.Range]) -> None:
    """Every slot lies in the pool, in one mapped extent, and meets no range that others have."""
    pool = (1 << 20, (1 << 23) + 12345)
    try:
        slots = list(leases.id_slots(pool, taken, mapped))
    except NotSupported:
        slots = []
    expected = [
        base
        for base in range(1 << 20, pool[1], leases.ID_COUNT)
        if base + 65535 <= pool[1]
        and not any(base <= high and low <= base + 65535 for low, high in taken)
        and any(low <= base and base + 65535 <= high for low, high in mapped)
    ]
    assert slots == expected


def test_the_default_pool_is_what_the_documentation_says() -> None:
    slots = leases.id_slots(leases.ID_POOL, [], ALL)
    assert (len(slots), slots[0], slots[-1] + 65535) == (4094, 0x70000000, 0x7FFDFFFF)


def test_ids_of_accounts_and_subordinate_ranges_are_read() -> None:
    assert list(leases.ids_in("root:x:0:0::/:/bin/sh\n+::::::\n#\nweb:x:70:70\n", False)) == [(0, 0), (70, 70)]
    assert list(leases.ids_in("web:100000:65536\nbad\nx:1:0\n", True)) == [(100000, 165535)]


def test_a_full_id_pool_is_an_error_with_a_remedy() -> None:
    with pytest.raises(NotSupported, match="NSTOOL_IDS"):
        leases.id_slots(leases.ID_POOL, ALL, ALL)


@pytest.mark.parametrize("text", ["", "1", "a-b", "5-4", "0-65535", "70000-4294967295", "1-2-3"])
def test_a_bad_id_pool_names_the_variable(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("NSTOOL_IDS", text or "-")
    with pytest.raises(SpecError, match=r"^NSTOOL_IDS: "):
        leases._id_pool(os.environ["NSTOOL_IDS"])


@given(st.integers(0, (1 << 30) - 1).map(lambda n: 4 * n))
def test_both_ends_of_a_network_are_in_it(network: int) -> None:
    """IPv4 and IPv6: two different hosts of one network, which no other lease shares; a short link name."""
    fields = leases.net_fields(network)
    near, far = ip_interface(fields["gateway"]), ip_interface(fields["address"])
    near6, far6 = ip_interface(fields["gateway6"]), ip_interface(fields["address6"])
    assert near.network == far.network == ip_network((network, 30))
    assert near.ip != far.ip
    assert {near.ip, far.ip} == set(near.network.hosts())
    assert near6.network == far6.network
    assert near6.network.prefixlen == 126
    assert int(near6.network.network_address) & 0xFFFFFFFF == network
    assert near6.ip != far6.ip != near6.network.network_address
    assert ip_network("fc00::/7").supernet_of(near6.network)  # type: ignore[arg-type]
    assert len(fields["link"]) <= 15
    assert leases._net6(network).replace(":", "") == near6.network.network_address.exploded.replace(":", "")


def test_pools_are_read() -> None:
    low, high = leases.pools("10.213.0.9/16, 192.168.1.0/30")
    assert (leases.dotted(low[0]), leases.dotted(low[1])) == ("10.213.0.0", "10.213.255.255")
    assert (leases.dotted(high[0]), leases.dotted(high[1])) == ("192.168.1.0", "192.168.1.3")


@pytest.mark.parametrize("text", ["10.0.0.0", "10.0.0.0/31", "10.0.0/24", "10.0.0.0.0/24", "300.0.0.0/24", "fd00::/64"])
def test_bad_pools_name_the_variable(text: str) -> None:
    with pytest.raises(SpecError, match=r"^NSTOOL_NETS: "):
        leases.pools(text)


def test_routes_are_read() -> None:
    """Without the default route, which leads everywhere and takes nothing."""
    head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
    default = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
    local = "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    assert [tuple(map(leases.dotted, route)) for route in leases.routes(head + default + local)] == [
        ("192.0.2.0", "192.0.2.255")
    ]


# -------------------------------------------------------------------------------------- taking


def routed(monkeypatch: pytest.MonkeyPatch, *networks: str) -> None:
    """Let the host have these routes."""
    found = [ip_network(network) for network in networks]
    pairs = [(int(network[0]), int(network[-1])) for network in found]
    monkeypatch.setattr(leases, "routes", lambda text: pairs)


def test_networks_that_the_host_routes_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSTOOL_NETS", "10.99.0.0/28,10.98.0.0/29")
    routed(monkeypatch, "10.99.0.0/29", "10.98.0.0/16")
    found = {leases.take_net(f"s{i}")["gateway"] for i in range(2)}
    assert found == {"10.99.0.9/30", "10.99.0.13/30"}
    with pytest.raises(NotSupported, match=r"10\.99\.0\.0/28.*\n.*NSTOOL_NETS"):
        leases.take_net("s3")


def test_a_pool_that_is_routed_as_a_whole_is_left_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    routed(monkeypatch, "10.0.0.0/8")
    assert leases.take_net("s")["gateway"].startswith("172.29.")


@as_root
def test_a_lease_has_what_the_spec_needs() -> None:
    lease = leases.take(Spec(name="web", net=Net(mode="veth")))
    assert lease.name == "web"
    assert lease.uid_base == lease.gid_base >= 0x70000000
    assert lease.count == 65536
    assert lease.cgroup.startswith("nstool-web-")
    assert lease.link
    assert lease.address6


def test_a_lease_has_nothing_that_the_spec_does_not_need(run: Path) -> None:
    lease = leases.take(Spec(uid_map=(IdMap(0, 1000, 1),)))
    assert (lease.uid_base, lease.link, lease.address) == (0, "", "")
    assert os.listdir(run / "ids") == os.listdir(run / "nets") == []


@as_root
def test_undo_gives_a_lease_back(run: Path) -> None:
    lease = leases.take(Spec(name="web", net=Net(mode="veth")))
    assert os.listdir(run / "ids") == [str(lease.uid_base)]
    assert len(os.listdir(run / "nets")) == 1
    journal.undo("web", (), lease)
    assert not run.exists()


@as_root
def test_a_lease_that_became_anothers_is_not_given_back(run: Path) -> None:
    """Undoing twice, with another taker between, leaves the other's alone."""
    lease = leases.take(Spec(name="web"))
    journal.undo("web", (), lease)
    (run / "ids").mkdir(parents=True)
    os.symlink("other", run / "ids" / str(lease.uid_base))
    leases.release(lease)
    assert leases.release_all("web") == []
    assert os.readlink(run / "ids" / str(lease.uid_base)) == "other"


@as_root
def test_a_failed_take_gives_back_what_it_had(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSTOOL_NETS", "10.99.0.0/30")
    routed(monkeypatch, "10.99.0.0/30")
    with pytest.raises(NotSupported):
        leases.take(Spec(name="web", net=Net(mode="veth")))
    assert not run.exists()


@as_root
def test_leases_of_a_killed_launcher_are_free_after_cleanup(run: Path) -> None:
    """Also when it was killed before it wrote its journal."""
    pid = os.fork()
    if pid == 0:
        leases.take(Spec(name="web", net=Net(mode="veth")))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert len(os.listdir(run / "ids")) == len(os.listdir(run / "nets")) == 1
    assert [cleaned.name for cleaned in journal.cleanup()] == ["web"]
    assert not run.exists()


@as_root
def test_leases_without_a_sandbox_are_free_after_cleanup(run: Path) -> None:
    """Somebody removed the sandbox's directory by hand; the others' leases stay."""
    kept = leases.take(Spec(name="kept"))
    os.symlink("gone", run / "ids" / "1900544000")
    journal.cleanup()
    assert os.listdir(run / "ids") == [str(kept.uid_base)]


@as_root
def test_all_of_a_small_pool_can_be_leased_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each range once, then an error; given back, it can be had again."""
    monkeypatch.setenv("NSTOOL_IDS", f"{0x70000000}-{0x70000000 + 8 * 65536 - 1}")
    taken = [leases.take_ids(f"s{i}")[0] for i in range(8)]
    assert sorted(taken) == [0x70000000 + i * 65536 for i in range(8)]
    with pytest.raises(NotSupported, match="all 8 ranges"):
        leases.take_ids("s8")
    leases.release(Lease("s3", uid_base=taken[3]))
    assert leases.take_ids("s8")[0] == taken[3]


@as_root
def test_ranges_are_taken_in_rows(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row where one is long enough, else the longest first; in the end all that there are, and no more."""
    first = 0x70000000
    monkeypatch.setenv("NSTOOL_IDS", f"{first}-{first + 20 * 65536 - 1}")
    leases.probe(Spec())
    (run / "ids").mkdir(exist_ok=True, parents=True)
    for number in (3, 10, 12):  # free: 0-2, 4-9, 11, 13-19
        os.symlink("other", run / "ids" / str(first + number * 65536))

    def take(number: int) -> list[int]:
        return [(base - first) // 65536 for base in leases.take_ranges("many", number)]

    assert take(7) == [13, 14, 15, 16, 17, 18, 19]
    assert take(8) in ([4, 5, 6, 7, 8, 9, 0, 1], [4, 5, 6, 7, 8, 9, 1, 2])
    assert len(take(9)) == 2
    assert take(1) == []


@as_root
def test_beside_a_long_row_a_range_is_found_soon(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service's quarter of all is not gone through by whoever begins in it."""
    first, slots, tried = 0x70000000, 2000, []
    monkeypatch.setenv("NSTOOL_IDS", f"{first}-{first + slots * 65536 - 1}")
    leases.probe(Spec())
    (run / "ids").mkdir(exist_ok=True, parents=True)
    for number in range(slots // 4):
        os.symlink("service", run / "ids" / str(first + number * 65536))
    take = leases._take_link
    monkeypatch.setattr(leases, "_take_link", lambda path, name: [tried.append(path), take(path, name)][1])
    for number in range(50):
        leases.take_ids(f"s{number}")
    assert len(tried) < 300


@as_root
@pytest.mark.parametrize("count", [0, -1, 65537])
def test_counts_that_do_not_fit_a_range_are_refused(count: int) -> None:
    with pytest.raises(SpecError, match="65536"):
        leases.take_ids("s", count)


@as_root
def test_takers_at_once_never_get_the_same(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 processes take 50 leases each from pools with just enough: names, ids, networks all differ."""
    monkeypatch.setenv("NSTOOL_IDS", f"{0x70000000}-{0x70000000 + 400 * 65536 - 1}")
    monkeypatch.setenv("NSTOOL_NETS", "10.99.0.0/21")

    def act() -> list[str]:
        taken = [leases.take(Spec(net=Net(mode="veth"))) for _ in range(50)]
        return [f"{lease.name} {lease.uid_base} {lease.link} {lease.address} {lease.cgroup}" for lease in taken]

    rows = [row.split() for part in in_processes(8, act) for row in part]
    assert len(rows) == 400
    for column in zip(*rows, strict=True):
        assert len(set(column)) == 400
    assert len(journal.cleanup()) == 400  # all takers are dead
    assert not run.exists()


@as_root
def test_threads_that_take_and_give_back_never_share(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 4 ranges for 4 threads, each taker finds one, and nobody else has it meanwhile."""
    monkeypatch.setenv("NSTOOL_IDS", f"{0x70000000}-{0x70000000 + 4 * 65536 - 1}")
    held: set[int] = set()
    wrong: list[object] = []

    def act() -> None:
        try:
            for _ in range(50):
                lease = leases.take(Spec())
                if lease.uid_base in held:
                    wrong.append(lease)
                held.add(lease.uid_base)
                held.remove(lease.uid_base)
                journal.undo(lease.name, (), lease)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=act) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert not run.exists()


@as_root
def test_the_run_directory_goes_with_the_last_and_comes_back(run: Path) -> None:
    """Each of 8 processes finds it missing now and then, or loses it between two steps; nobody fails."""

    def act() -> list[str]:
        for _ in range(100):
            lease = leases.take(Spec(net=Net(mode="veth")))
            journal.undo(lease.name, (), lease)
        return ["done"]

    assert in_processes(8, act) == [["done"]] * 8
    assert not run.exists()


def test_what_others_put_into_the_run_directory_keeps_it(run: Path) -> None:
    lease = leases.take(Spec())
    (run / "notes").touch()
    journal.undo(lease.name, (), lease)
    assert os.listdir(run) == ["notes"]
