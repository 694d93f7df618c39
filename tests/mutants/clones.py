"""Mutants of writable clones."""

from tests.mutants.catalogue import Mutant

CRASHES = "tests/crash/test_clones.py"
SERVICE = "tests/unit/services/secondary/test_clones.py"

CLONES = (
    Mutant(
        "clone's bits durable before its data (I27)",
        "slackwater/clones/volume.py",
        "            self._sync(self._data.sync)\n            if not pages:",
        "            if not pages:",
        f"{CRASHES}::test_clone_keeps_what_was_flushed_through_a_crash_at_every_call",
    ),
    Mutant(
        "chunk of a clone not copied up (I27)",
        "slackwater/clones/volume.py",
        "                    self._copy_up(low, high)\n",
        "                    pass\n",
        f"{CRASHES}::test_clone_keeps_what_was_flushed_through_a_crash_at_every_call",
    ),
    Mutant(
        "bits of a killed process taken for durable (D5)",
        "slackwater/clones/bits.py",
        "                self._changed.add(page)\n",
        "",
        f"{CRASHES}::test_bits_that_a_killed_process_wrote_are_made_durable_by_the_first_flush_d5",
    ),
    Mutant(
        "clone that goes on after a failed sync (D3)",
        "slackwater/clones/volume.py",
        "            self._on_failed()\n",
        "",
        f"{CRASHES}::test_failed_sync_is_the_end_of_a_clone_and_of_nothing_else",
    ),
    Mutant(
        "cloned snapshot deleted (I27)",
        "slackwater/apply/replica_clones.py",
        "        if found:\n",
        "        if False:\n",
        f"{SERVICE}::test_cloned_snapshot_is_neither_deleted_nor_refreshed_unless_forced",
    ),
    Mutant(
        "clone that comes ended with its snapshot (I27)",
        "slackwater/apply/replica_clones.py",
        "            if clone.state == CREATING:\n",
        "            if clone.state == '':\n",
        f"{SERVICE}::test_snapshot_stays_while_a_clone_of_it_comes_even_if_forced",
    ),
    Mutant(
        "clone that goes holds its snapshot",
        "slackwater/clones/catalogue.py",
        "[row for row in rows if row.state != DELETING]",
        "rows",
        f"{SERVICE}::test_clone_whose_files_cannot_be_removed_now_holds_its_snapshot_no_longer",
    ),
)
