"""docs/settings.md names every setting, and none that is gone."""

import re
from pathlib import Path

from slackwater.runtime.config import PrimaryConfig, SecondaryConfig, SnapshotConfig

PAGE = Path(__file__).parents[3] / "docs" / "settings.md"


def test_the_page_has_each_setting_with_its_meaning_and_no_other() -> None:
    known = {
        name: field.description
        for model in (PrimaryConfig, SecondaryConfig, SnapshotConfig)
        for name, field in model.model_fields.items()
    }
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    assert dict(rows) == known
