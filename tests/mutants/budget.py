"""Mutants of the snapshot budget."""

from tests.mutants.catalogue import Mutant

REPLICA = "tests/unit/apply/test_replica_budget.py"
CRASH = "tests/crash/test_budget.py"

BUDGET = (
    Mutant(
        "budget looked at by nobody",
        "slackwater/snapshots/catalogue.py",
        "            overlay.room = self.budget.reserve\n",
        "            pass\n",
        f"{REPLICA}::test_budget_is_never_exceeded_whatever_is_written_and_made",
    ),
    Mutant(
        "snapshot taken by the budget without a note",
        "slackwater/snapshots/catalogue.py",
        "self._update(going(self.get(name)), detail)",
        "self._update(going(self.get(name)))",
        f"{CRASH}::test_budget_holds_over_a_crash_at_every_call_and_what_it_took_is_noted",
    ),
    Mutant(
        "cloned snapshot taken by the budget",
        "slackwater/apply/replica_budget.py",
        "return not relied_on and not self.clones.on(row.uid)",
        "return not relied_on",
        f"{REPLICA}::test_cloned_snapshot_is_not_taken",
    ),
    Mutant(
        "held snapshot taken by the budget",
        "slackwater/apply/replica_budget.py",
        "relied_on = row.held or row.exported or row.guard",
        "relied_on = row.exported or row.guard",
        f"{REPLICA}::test_oldest_that_nobody_relies_on_goes_and_is_told_and_noted",
    ),
    Mutant(
        "budget that a restart forgets",
        "slackwater/apply/replica.py",
        "        self.open_budget()\n",
        "",
        f"{CRASH}::test_budget_holds_over_a_crash_at_every_call_and_what_it_took_is_noted",
    ),
)
