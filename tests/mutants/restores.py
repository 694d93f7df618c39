"""Mutants of restores."""

from tests.mutants.catalogue import Mutant

CORE = "slackwater/group/restoring.py"
CRASH = "tests/crash/test_restore.py"
SOURCE = "services/primary/restores/source.py"
SOURCE_TESTS = "tests/unit/services/primary/test_restore_source.py"

RESTORES = (
    Mutant(
        "restore that writes before it says so",
        CORE,
        "self._note(state=COPYING, total_bytes=total, done_bytes=0)",
        "self.row = replace(self.row, total_bytes=total, done_bytes=0)",
        f"{CRASH}::test_restore_that_dies_anywhere_says_so_and_is_finished_by_the_next_start",
    ),
    Mutant(
        "restore called done whatever it reads",
        CORE,
        "                if wanted != found:\n                    return None\n",
        "",
        f"{CRASH}::test_what_reads_back_otherwise_is_never_called_done",
    ),
    Mutant(
        "volumes of a restore open after a restart",
        "services/primary/restores/desk.py",
        "        if active is not None:\n            group.uses.close(",
        "        if active is None:\n            group.uses.close(",
        "tests/e2e/test_restore.py"
        "::test_nothing_else_writes_while_it_waits_and_it_survives_sigkill",
    ),
    Mutant(
        "restore that does not wait for the replica",
        CORE,
        "            self._source.wait_applied(self._writer.log.durable.position.lsn)\n",
        "",
        f"{CRASH}::test_only_what_differs_is_written_and_the_hash_is_of_both_sides",
    ),
    Mutant(
        "restore that does not ask at the end which snapshot it read",
        CORE,
        "        # All of it was read by the snapshot's name: was it the same one until now?\n"
        "        self._source.hold()\n",
        "",
        f"{CRASH}::test_snapshot_that_was_replaced_while_it_was_read_is_never_called_restored",
    ),
    Mutant(
        "restore that takes any snapshot of the name",
        SOURCE,
        "if self._uid and found.uid != self._uid:",
        "if not self._uid:",
        f"{SOURCE_TESTS}::test_another_snapshot_of_the_same_name_is_neither_read_nor_let_go_of",
    ),
    Mutant(
        "restore that asks a Secondary that has forgotten",
        SOURCE,
        "if self._needed is not None and (lacks",
        "if self._needed is None and (lacks",
        f"{SOURCE_TESTS}::test_secondary_that_lost_what_it_had_applied_is_not_asked_what_changed",
    ),
)
