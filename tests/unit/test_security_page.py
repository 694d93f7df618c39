"""docs/security.md: its tests exist, its roles are those in force, its settings are there."""

import re
from pathlib import Path

import pytest

from slackwater.runtime import roles
from slackwater.runtime.config import PrimaryConfig

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/security.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_test_that_shows_a_claim_exists(path: str, name: str) -> None:
    source = (REPOSITORY / path).read_text()
    assert re.search(rf"^ *(async )?def {name}\(", source, re.MULTILINE)


def test_every_row_of_claims_and_bounds_is_shown_by_something() -> None:
    tables = re.findall(
        r"^\| (?:claim|what a peer).*?shown by \|\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.M
    )
    rows = [row for table in tables for row in table.splitlines()]
    assert len(rows) > 20
    assert [row for row in rows if "tests/" not in row] == [
        "| bytes of volumes | `quota` of the certificate | above |"
    ]


@pytest.mark.parametrize("role", roles.Role)
def test_table_of_roles_is_the_one_in_force(role: roles.Role) -> None:
    (row,) = re.findall(rf"^\| `{role.value}` \| (.*) \|$", PAGE, re.M)
    listed = {
        f"/slackwater.v1.{service}/{rpc}"
        for service, rpcs in re.findall(r"(\w+): ([\w, ]+)\.", row)
        for rpc in rpcs.split(", ")
    }
    assert listed == {method for method, needed in roles.ROLE_OF.items() if needed is role}


def test_settings_of_the_page_are_there() -> None:
    section = PAGE.partition("## Bounds")[2].partition("## Secrets")[0]
    named = {word for word in re.findall(r"`([a-z_]+)`", section) if "_" in word}
    assert named - {"slackwater_nbd_refused_total"} <= set(PrimaryConfig.model_fields)
    assert named
