"""Mutants of the index of overlays and of reading through a chain of them."""

from tests.mutants.catalogue import Mutant

MAPS = "tests/property/test_chunk_map.py"
OVERLAY = "tests/unit/snapshots/test_overlay.py"

INDEX = (
    Mutant(
        "chunk shown that was overwritten while it was read (I7)",
        "slackwater/snapshots/reader.py",
        "            owners |= find_owners(self._chain(), first, next_chunk)\n",
        "",
        f"{OVERLAY}::test_reader_is_right_when_the_applier_overtakes_it",
    ),
    Mutant(
        "chain kept when a snapshot came (I7)",
        "slackwater/snapshots/chains.py",
        "if asked is not entries:",
        "if not asked:",
        "tests/unit/snapshots/test_chains.py",
    ),
    Mutant(
        "place of a chunk lost with a store that found no room (I30)",
        "slackwater/snapshots/chunkmap.py",
        "if index >= 0:",
        "if index < -1:",
        MAPS,
    ),
    Mutant(
        "page let go before the table names the new one (I30)",
        "slackwater/snapshots/chunkmap.py",
        "            self._new_page(block, 2 * room,",
        "            self._free[2 * room].append(at)\n            self._new_page(block, 2 * room,",
        MAPS,
    ),
    Mutant(
        "damage that may have hit any chunk passed over (I7)",
        "slackwater/snapshots/reader.py",
        "if damaged and overlay.unnamed_loss:",
        "if not damaged and overlay.unnamed_loss:",
        f"{OVERLAY}::test_two_rotten_headers_make_every_chunk_that_is_not_there_suspect",
    ),
)
