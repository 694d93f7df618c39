"""Which overlays a snapshot looks through to."""

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from slackwater.group.rows import SnapshotRow
from slackwater.position import LogPoint, Position
from slackwater.snapshots.chains import Chains
from slackwater.snapshots.feed import Entry
from slackwater.snapshots.making import going
from slackwater.snapshots.overlay import Overlay


def entry(number: int, overlays: Mapping[int, str]) -> Entry:
    row = SnapshotRow(
        id=number,
        name=f"s-{number}",
        uid=uuid.UUID(int=number),
        point=LogPoint(number, Position(1, number, 0)),
        state="READY",
        grade="crash",
        message_id="",
        guard=False,
        exported=False,
        chunk_bytes=4096,
        created_ns=0,
        volumes=(),
        evidence={},
    )
    return Entry(row, cast("Mapping[int, Overlay]", overlays))


ONE, TWO, THREE = entry(1, {1: "1.1"}), entry(2, {1: "2.1", 2: "2.2"}), entry(3, {2: "3.2"})


def names(chains: Chains, entries: tuple[Entry, ...], number: int, volume: int) -> object:
    found = chains.of(entries, uuid.UUID(int=number), volume)
    return None if found is None else found[1]


def test_chain_is_its_own_overlay_and_the_newer_ones_of_the_volume() -> None:
    chains, entries = Chains(), (ONE, TWO, THREE)
    for _ in range(2):
        assert names(chains, entries, 1, 1) == ["1.1", "2.1"]
        assert names(chains, entries, 2, 2) == ["2.2", "3.2"]
        assert names(chains, entries, 4, 1) is None


def test_snapshot_that_comes_or_goes_is_seen_at_once() -> None:
    chains = Chains()
    assert names(chains, (ONE,), 1, 1) == ["1.1"]
    assert names(chains, (ONE, TWO), 1, 1) == ["1.1", "2.1"]
    leaving = replace(TWO, row=going(TWO.row))
    assert names(chains, (ONE, leaving), 1, 1) == ["1.1", "2.1"], "it still holds old bytes"
    assert names(chains, (ONE, leaving), 2, 1) is None
