"""Mutants of writable clones."""

from tests.mutants.catalogue import Mutant

LAYERS = "tests/crash/test_clones_of_clones.py"
CRASHES = "tests/crash/test_clones.py"
SERVICE = "tests/unit/services/secondary/test_clones.py"

CLONES = (
    Mutant(
        "clone's bits durable before its data (I27)",
        "slackwater/clones/volume.py",
        "            self._sync(top.data.sync)\n            if not pages:",
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
    Mutant(
        "clone of a clone without what was not flushed (I27)",
        "slackwater/clones/volume.py",
        "            self.flush()\n            yield",
        "            yield",
        f"{LAYERS}::test_write_answered_while_the_files_were_made_is_in_the_clone_and_durable",
    ),
    Mutant(
        "parent that goes on writing to the frozen layer (I27)",
        "slackwater/clones/volume.py",
        "        self._stack = (*self._stack, top)\n",
        "",
        f"{LAYERS}::test_clone_of_a_clone_is_its_parent_at_one_instant_through_a_crash_at_every_call",
    ),
    Mutant(
        "layer removed that another clone reads (I27)",
        "slackwater/clones/catalogue.py",
        "set(_stack(row)) - self._needed_by(self._rows.keys() - self._unused)",
        "set(_stack(row))",
        f"{LAYERS}::test_layers_stay_as_long_as_a_clone_reads_them_in_any_order_of_deletes",
    ),
    Mutant(
        "parent written while it is cloned (I27)",
        "slackwater/clones/volume.py",
        "        with self._using(), self._flushing, self._writing:\n",
        "        with self._using():\n",
        f"{LAYERS}::test_write_begun_while_the_parent_stands_is_the_parents_alone",
    ),
    Mutant(
        "copy-up past the frozen layers (I27)",
        "slackwater/clones/volume.py",
        "        data = self._read(tuple(below), high - low, low)\n",
        "        data = self._read((), high - low, low)\n",
        f"{LAYERS}::test_clone_of_a_clone_is_its_parent_at_one_instant_through_a_crash_at_every_call",
    ),
)
