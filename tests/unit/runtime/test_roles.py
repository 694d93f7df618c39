import pytest

from slackwater.errors import InvalidRequest, PermissionDenied, QuotaExceeded
from slackwater.runtime import roles
from slackwater.runtime.roles import Grant, Identity, Role
from slackwater.v1 import primary_pb2, replication_pb2, secondary_pb2, snapshot_pb2

RPCS = {
    f"/{service.full_name}/{method.name}"
    for module in (primary_pb2, replication_pb2, secondary_pb2, snapshot_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def test_every_rpc_has_exactly_one_role_and_no_other_name_has_one() -> None:
    assert set(roles.ROLE_OF) == RPCS
    rows = [
        rpc for table in roles._TABLE.values() for rpcs in table.values() for rpc in rpcs.split()
    ]
    assert len(rows) == len(RPCS)


@pytest.mark.parametrize(
    "rpc", sorted(rpc for rpc in RPCS if rpc.rpartition("/")[2].startswith(("Create", "Delete")))
)
def test_no_mere_viewer_creates_or_deletes(rpc: str) -> None:
    assert not Identity("viewer", (Grant(Role.VIEW),)).allows(roles.ROLE_OF[rpc])


@pytest.mark.parametrize("rpc", ["ReadVolume", "WriteVolume", "ReadLog"])
def test_data_of_volumes_needs_the_operators_role(rpc: str) -> None:
    assert roles.ROLE_OF[f"/slackwater.v1.PrimaryService/{rpc}"] is Role.OPERATE


def test_bodies_of_messages_need_the_role_of_senders() -> None:
    viewer = Identity("viewer", (Grant(Role.VIEW),))
    service = "/slackwater.v1.PrimaryService/"
    assert roles.ROLE_OF[f"{service}GetMessage"] is Role.MESSAGE
    for rpc in ("ListMessages", "WatchMessage"):
        assert viewer.allows(roles.ROLE_OF[service + rpc])


def test_agent_may_quiesce_and_nothing_else() -> None:
    agent = Identity("agent", (Grant(Role.QUIESCE),))
    allowed = {rpc for rpc, role in roles.ROLE_OF.items() if agent.allows(role)}
    assert allowed == {"/slackwater.v1.PrimaryService/HoldQuiesce"}


def test_plaintext_caller_holds_every_role() -> None:
    assert all(roles.EVERYTHING.allows(role) for role in Role)


class TestGrants:
    def test_grant_is_read_in_full(self) -> None:
        uri = "slackwater://role/operate?groups=db-*,web&quota=1073741824"
        assert roles.parse_grant(uri) == Grant(Role.OPERATE, ("db-*", "web"), 1 << 30)

    def test_grant_without_parameters_is_for_every_group(self) -> None:
        assert roles.parse_grant("slackwater://role/view") == Grant(Role.VIEW, ("*",), None)

    @pytest.mark.parametrize(
        "uri",
        [
            "slackwater://role/",
            "slackwater://role/root",
            "slackwater://roles/view",
            "https://role/view",
            "slackwater://role/view?groups=",
            "slackwater://role/view?groups=a,,b",
            "slackwater://role/view?until=tomorrow",
            "slackwater://role/view?quota=much",
            "slackwater://role/view?quota=-1",
            "slackwater://role/view?quota=1&quota=2",
            "slackwater://role/view?groups",
        ],
    )
    def test_grant_not_understood_in_full_is_refused(self, uri: str) -> None:
        with pytest.raises(InvalidRequest, match="certificate"):
            roles.parse_grant(uri)

    def test_names_of_others_in_a_certificate_pass_by(self) -> None:
        identity = roles.identify(["spiffe://x/y", "slackwater://role/view"], "probe")
        assert identity == Identity("probe", (Grant(Role.VIEW),))

    def test_roles_of_two_grants_do_not_reach_each_others_groups(self) -> None:
        identity = Identity("c", (Grant(Role.VIEW, ("a",)), Grant(Role.REPLICATE, ("b",))))
        assert identity.allows(Role.VIEW, "a")
        assert not identity.allows(Role.VIEW, "b")
        assert not identity.allows(Role.REPLICATE, "a")

    def test_operator_may_view_but_not_replicate(self) -> None:
        identity = Identity("c", (Grant(Role.OPERATE),))
        assert identity.allows(Role.VIEW, "g")
        assert not identity.allows(Role.REPLICATE, "g")


class TestQuota:
    def check(self, size: int, held: dict[str, int], *grants: Grant) -> None:
        Identity("lab", grants).check_quota(Role.OPERATE, "g", size, held, "size_bytes")

    def test_quota_is_for_all_groups_of_its_grant_together(self) -> None:
        grant = Grant(Role.OPERATE, ("g*",), 10)
        self.check(4, {"g2": 6, "web": 100}, grant)
        with pytest.raises(QuotaExceeded, match="certificate of lab") as caught:
            self.check(5, {"g2": 6, "web": 100}, grant)
        error = caught.value
        assert (error.field, error.quota, error.held, error.asked) == ("size_bytes", 10, 6, 5)

    def test_one_grant_with_room_is_enough_and_the_roomiest_is_named(self) -> None:
        wide, narrow = Grant(Role.OPERATE, ("*",), 10), Grant(Role.OPERATE, ("g",), 20)
        self.check(20, {"h": 9}, wide, narrow)
        with pytest.raises(QuotaExceeded) as caught:
            self.check(21, {"h": 9}, wide, narrow)
        assert caught.value.quota == 20

    def test_one_grant_without_quota_lifts_the_bound(self) -> None:
        self.check(1 << 40, {}, Grant(Role.OPERATE, ("*",), 10), Grant(Role.OPERATE, ("g",)))

    def test_quota_of_another_role_or_group_counts_for_nothing(self) -> None:
        others = (Grant(Role.REPLICATE, ("g",), 1 << 40), Grant(Role.OPERATE, ("h",), 1 << 40))
        with pytest.raises(QuotaExceeded):
            self.check(11, {}, Grant(Role.OPERATE, ("g",), 10), *others)


class TestRequests:
    LIMITED = Identity("limited", (Grant(Role.OPERATE, ("db-*",)),))

    def check(self, rpc: str, request: object) -> None:
        roles.check_request(f"/slackwater.v1.{rpc}", request, self.LIMITED)  # type: ignore[arg-type]

    @pytest.mark.parametrize("name", ["groups/db-1", "groups/db-1/volumes/v"])
    def test_request_about_a_granted_group_passes(self, name: str) -> None:
        self.check("PrimaryService/GetVolume", primary_pb2.GetVolumeRequest(name=name))

    def test_request_about_another_group_is_refused(self) -> None:
        with pytest.raises(PermissionDenied, match="'web'"):
            self.check("PrimaryService/GetGroup", primary_pb2.GetGroupRequest(name="groups/web"))

    def test_group_to_be_created_is_checked_too(self) -> None:
        self.check("PrimaryService/CreateGroup", primary_pb2.CreateGroupRequest(group_id="db-2"))
        with pytest.raises(PermissionDenied, match="'web'"):
            self.check("PrimaryService/CreateGroup", primary_pb2.CreateGroupRequest(group_id="web"))

    def test_group_inside_a_nested_message_is_checked_too(self) -> None:
        request = snapshot_pb2.CreateTaskRequest(task=snapshot_pb2.Task(group="groups/web"))
        with pytest.raises(PermissionDenied, match="'web'"):
            self.check("SnapshotService/CreateTask", request)

    def test_request_about_all_groups_needs_a_grant_for_all(self) -> None:
        with pytest.raises(PermissionDenied, match="every group"):
            self.check("PrimaryService/ListGroups", primary_pb2.ListGroupsRequest())
