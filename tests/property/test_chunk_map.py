"""The index of an overlay against a dict, with a disk that is full now and then."""

import errno
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from slackwater.snapshots.chunkmap import ChunkMap
from slackwater.snapshots.codec import FLAG_LOST, FLAG_ZERO
from slackwater.storage.seam import Buffer
from slackwater.storage.simulated import SimulatedStorage

PLACE = Path("/m/1.map")
UID = uuid.UUID(int=3)
CHUNKS = 600

stores = st.one_of(
    st.tuples(st.integers(0, CHUNKS - 1), st.just(1), st.just(0)),
    st.tuples(
        st.integers(0, CHUNKS - 1), st.integers(1, CHUNKS), st.sampled_from([FLAG_ZERO, FLAG_LOST])
    ),
)


def made(storage: SimulatedStorage) -> ChunkMap:
    storage.make_directory(PLACE.parent)
    return ChunkMap.create(storage, PLACE, UID, CHUNKS)


@contextmanager
def refused_at(chunk_map: ChunkMap, number: int) -> Iterator[None]:
    """Let the disk be full at one write, from 1."""
    write = chunk_map._file.write
    writes: list[int] = []

    def refusing(pieces: Sequence[Buffer], offset: int) -> None:
        writes.append(offset)
        if len(writes) == number:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(pieces, offset)

    chunk_map._file.write = refusing  # type: ignore[method-assign]
    yield
    chunk_map._file.write = write  # type: ignore[method-assign]


def check(chunk_map: ChunkMap, model: dict[int, tuple[int, int]]) -> None:
    for chunk in range(CHUNKS):
        assert chunk_map.get(chunk) == model.get(chunk)
        assert chunk_map.has(chunk) is (chunk in model)
    held = sorted(model)
    for first, next_chunk in ((0, CHUNKS), (7, 300), (255, 257), (300, 300), (599, 600)):
        wanted = next((chunk for chunk in held if first <= chunk < next_chunk), next_chunk)
        assert chunk_map.first_set(first, next_chunk) == wanted


@given(st.lists(st.tuples(stores, st.integers(0, 6)), max_size=60))
def test_map_is_the_dict_of_what_was_stored(
    steps: list[tuple[tuple[int, int, int], int]],
) -> None:
    storage = SimulatedStorage()
    chunk_map = made(storage)
    model: dict[int, tuple[int, int]] = {}
    for number, ((first, count, flags), refusal) in enumerate(steps, 1):
        count = min(count, CHUNKS - first)
        if refusal:  # at the first to sixth write of the store: it is tried again
            before = {chunk: chunk_map.get(chunk) for chunk in model}
            with refused_at(chunk_map, refusal), suppress(OSError):
                chunk_map.put(first, count, 512 * number, flags)
            for chunk, known in before.items():
                assert first <= chunk < first + count or chunk_map.get(chunk) == known
        chunk_map.put(first, count, 512 * number, flags)
        entry = (0 if flags else 512 * number, flags)
        model |= dict.fromkeys(range(first, first + count), entry)
    check(chunk_map, model)
    chunk_map.close_clean(7, (1, 2))
    again = ChunkMap.open(storage, PLACE, UID, CHUNKS, 7)
    assert again is not None
    assert again.previous == (1, 2)
    check(again, model)
    again.put(11, 1, 512 << 32, 0)
    check(again, model | {11: (512 << 32, 0)})


@given(st.permutations(range(256)))
def test_block_that_fills_in_any_order_keeps_all_its_places(order: list[int]) -> None:
    chunk_map = made(SimulatedStorage())
    for number, chunk in enumerate(order):
        chunk_map.put(256 + chunk, 1, 512 * number, 0)
    check(chunk_map, {256 + chunk: (512 * number, 0) for number, chunk in enumerate(order)})
