"""Names are DNS labels, sizes are whole sectors, resource names have one shape."""

import pytest

from slackwater import errors, names


@pytest.mark.parametrize("label", ["a", "0", "demo", "a-b", "x" * 63, "1a"])
def test_dns_label_is_taken(label: str) -> None:
    assert names.check_label("name", label) == label


@pytest.mark.parametrize(
    "label",
    ["", "A", "-a", "a-", "a_b", "a.b", "a/b", "..", "x" * 64, "a\n", "ä", "a b", "x" * 5000],
)
def test_anything_else_is_refused_with_the_field(label: str) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        names.check_label("group.name", label)
    assert caught.value.field == "group.name"
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("size", [512, 1 << 30, 64 << 40])
def test_whole_sectors_up_to_64_tib_are_taken(size: int) -> None:
    assert names.check_volume_size("size_bytes", size) == size


@pytest.mark.parametrize("size", [0, -512, 1, 513, (64 << 40) + 512])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(errors.InvalidRequest, match="size_bytes"):
        names.check_volume_size("size_bytes", size)


def test_resource_names_parse_into_ids() -> None:
    assert names.group("name", "groups/demo") == "demo"
    assert names.child("name", "groups/demo/volumes/data", "volumes") == ("demo", "data")
    assert names.parse("name", "tasks/t/runs/r1", "tasks", "runs") == ("t", "r1")


@pytest.mark.parametrize(
    "name", ["", "demo", "groups", "groups/", "groups/demo/", "group/demo", "groups/demo/volumes/v"]
)
def test_resource_names_of_another_shape_are_refused(name: str) -> None:
    with pytest.raises(errors.InvalidRequest):
        names.group("name", name)


def test_resource_name_is_built_from_pairs() -> None:
    assert names.resource("groups", "g", "volumes", "v") == "groups/g/volumes/v"
    with pytest.raises(AssertionError):
        names.resource("groups")
