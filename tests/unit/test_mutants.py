"""The mutants stay usable: what each breaks is there once, and so is the test that it turns red."""

from pathlib import Path

import pytest

from tests.mutants.catalogue import Mutant
from tests.mutants.run import ALL

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.name)
def test_a_mutant_breaks_one_place_and_names_a_test_that_exists(mutant: Mutant) -> None:
    assert (ROOT / mutant.module).read_text().count(mutant.text) == 1
    file, _, names = mutant.test.partition("::")
    text = (ROOT / file).read_text()
    for name in names.split("::") if names else ():
        assert name.partition("[")[0] in text
