"""Mutants of named checks."""

from tests.mutants.catalogue import Mutant

THERE = "tests/unit/services/secondary/test_checks.py"
HERE = "tests/unit/services/snapshot/test_checks.py"

CHECKS = (
    Mutant(
        "verdict of the snapshot that had the name before",
        "services/secondary/clone_servicer.py",
        "            if str(row.uid) != request.snapshot_uid:\n",
        "            if not request.snapshot_uid:\n",
        f"{THERE}::test_result_stays_with_its_snapshot_and_not_with_its_name",
    ),
    Mutant(
        "results of checks without a bound",
        "slackwater/apply/check_results.py",
        "rows = [*rows, row][-KEPT:]",
        "rows = [*rows, row]",
        f"{THERE}::test_result_stays_with_its_snapshot_and_not_with_its_name",
    ),
    Mutant(
        "clone of a check that stays",
        "services/snapshot/checks/runner.py",
        "                await self._discard(run)\n",
        "",
        f"{HERE}::test_check_that_cannot_be_run_says_so_once_its_clone_is_gone",
    ),
    Mutant(
        "clone of a check that outlives a crash",
        "services/snapshot/checks/runner.py",
        "        for run in self._live.values():\n",
        "        for run in ():\n",
        f"{HERE}::test_check_that_a_crash_cut_off_leaves_no_clone_and_says_so",
    ),
    Mutant(
        "verdict lost while the Secondary is away",
        "services/snapshot/checks/runner.py",
        "                await asyncio.sleep(RETRY_SECONDS)\n",
        "                break\n",
        f"{HERE}::test_check_that_cannot_be_run_says_so_once_its_clone_is_gone",
    ),
)
