"""Mutants of full disks, and of volumes that only seem empty or unused."""

from tests.mutants.catalogue import Mutant

SPACE = (
    Mutant(
        "durable name refused for another's want of room",
        "slackwater/apply/messages.py",
        "        with suppress(OSError):\n            self.pump()\n",
        "        self.pump()\n",
        "tests/unit/apply/test_replica_storage.py"
        "::test_change_of_names_that_is_durable_is_not_refused_for_what_waits_for_room",
    ),
    Mutant(
        "attached volume taken for what a killed process left",
        "slackwater/attach/attachment.py",
        "        self._lock()\n",
        "",
        "tests/e2e/test_attach.py::test_volume_that_is_attached_is_not_taken_away_by_a_second",
    ),
    Mutant(
        "file system made over data that no tool knows",
        "slackwater/attach/attachment.py",
        'return all(extent["type"] & _READS_AS_ZERO for extent in extents)',
        "return extents is not None",
        "tests/e2e/test_attach.py::test_data_that_no_tool_knows_is_never_made_into_a_file_system",
    ),
    Mutant(
        "chunk of a snapshot that goes counted as kept before it is durable",
        "slackwater/snapshots/feed.py",
        "            self._looked_at[id(overlay)] = overlay\n"
        "            if entry.row.state == READY:\n",
        "            if entry.row.state == READY:\n"
        "                self._looked_at[id(overlay)] = overlay\n",
        "tests/unit/apply/test_replica_exclude.py"
        "::test_what_the_one_that_goes_preserved_and_did_not_sync_is_synced_before_the_volume",
    ),
)
