"""The manifests under `k8s/`: they render, are valid and restricted, and name what the code has."""

import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from slackwater.runtime import config, health
from tests.support.tools import require

REPOSITORY = Path(__file__).parents[2]
OVERLAYS = sorted(path.name for path in (REPOSITORY / "k8s/overlays").iterdir())
CONFIGS: dict[str, type[config.BaseServiceConfig]] = {
    "slackwater-primary": config.PrimaryConfig,
    "slackwater-secondary": config.SecondaryConfig,
    "slackwater-snapshot": config.SnapshotConfig,
}
NOT_KUBERNETES_OWN = {"cert-manager.io/v1", "monitoring.coreos.com/v1"}
Document = Mapping[str, Any]


@pytest.fixture(scope="module", params=OVERLAYS)
def rendered(request: pytest.FixtureRequest) -> list[Document]:
    """Everything an overlay makes."""
    return render(request.param)


def render(overlay: str) -> list[Document]:
    command = [require("kubectl"), "kustomize", str(REPOSITORY / "k8s/overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    documents = list(yaml.safe_load_all(done.stdout))
    assert documents
    return documents


def test_pod_monitors_find_every_metrics_port_of_the_pods() -> None:
    folder = REPOSITORY / "k8s/overlays"
    monitors = [
        one["spec"]
        for one in yaml.safe_load_all((folder / "monitoring/podmonitors.yaml").read_text())
    ]
    for template, container in containers(render("dev")):
        (port,) = [port["name"] for port in container["ports"] if port["name"].startswith("prom-")]
        assert any(
            matches(monitor["selector"]["matchLabels"], template)
            and port in [endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]]
            for monitor in monitors
        )


def of_kind(documents: list[Document], kind: str) -> list[Document]:
    return [document for document in documents if document["kind"] == kind]


def pod_templates(documents: list[Document]) -> list[Document]:
    return [document["spec"]["template"] for document in of_kind(documents, "StatefulSet")]


def containers(documents: list[Document]) -> Iterator[tuple[Document, Document]]:
    for template in pod_templates(documents):
        for container in template["spec"]["containers"]:
            yield template, container


def environment(documents: list[Document], container: Document) -> dict[str, str]:
    """What the container's process finds: its config maps, then its own variables."""
    maps = {one["metadata"]["name"]: one["data"] for one in of_kind(documents, "ConfigMap")}
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        found.update(maps[source["configMapRef"]["name"]])
    found.update({one["name"]: one["value"] for one in container.get("env", ())})
    return found


def matches(labels: Mapping[str, str], template: Document) -> bool:
    return bool(labels.items() <= template["metadata"]["labels"].items())


def test_every_document_is_valid_against_the_current_schemas(rendered: list[Document]) -> None:
    version = kubernetes_validate.latest_version()
    for document in rendered:
        if document["apiVersion"] not in NOT_KUBERNETES_OWN:
            kubernetes_validate.validate(document, version, strict=True)


def test_every_pod_fits_the_restricted_profile(rendered: list[Document]) -> None:
    for template, container in containers(rendered):
        pod, own = template["spec"]["securityContext"], container["securityContext"]
        assert pod["runAsNonRoot"] is True and pod["runAsUser"] > 0
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert own["readOnlyRootFilesystem"] is True
        assert not {"hostNetwork", "hostPID", "hostIPC"} & template["spec"].keys()
        kinds = {kind for volume in template["spec"]["volumes"] for kind in volume} - {"name"}
        assert kinds <= {"emptyDir", "secret", "configMap"}
        assert template["spec"]["automountServiceAccountToken"] is False
        assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]


def test_namespaces_enforce_the_restricted_profile(rendered: list[Document]) -> None:
    for namespace in of_kind(rendered, "Namespace"):
        labels = namespace["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_every_command_is_a_script_of_the_package_and_every_variable_a_setting(
    rendered: list[Document],
) -> None:
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    for template, container in containers(rendered):
        (command,) = container["command"]
        assert command in scripts
        fields = CONFIGS[command].model_fields
        for variable in environment(rendered, container):
            prefix, setting = variable[:11], variable[11:].lower()
            assert prefix == config.ENVIRONMENT_PREFIX
            assert setting in fields, f"{variable} is no setting of {command}"
        # Else Kubernetes' SLACKWATER_... of services would be read as settings.
        assert template["spec"]["enableServiceLinks"] is False


def test_the_settings_are_accepted_by_the_service(rendered: list[Document], tmp_path: Path) -> None:
    for _, container in containers(rendered):
        values: dict[str, Any] = {
            name[11:].lower(): value for name, value in environment(rendered, container).items()
        }
        for name in ("tls_cert", "tls_key", "tls_ca"):
            if name in values:
                (tmp_path / name).touch()
                values[name] = str(tmp_path / name)
        made = CONFIGS[container["command"][0]](**values)
        assert made.insecure or made.tls_cert, "plaintext beyond loopback is named or not there"


def test_ports_and_probes_are_those_of_the_settings(rendered: list[Document]) -> None:
    for _, container in containers(rendered):
        values = environment(rendered, container)
        listening = {
            int(address.rpartition(":")[2])
            for name, address in values.items()
            if name.endswith("LISTEN")
        }
        assert listening == {port["containerPort"] for port in container["ports"]}
        health_port = int(values["SLACKWATER_HEALTH_LISTEN"].rpartition(":")[2])
        probes = {
            "startupProbe": health.READINESS,
            "livenessProbe": health.LIVENESS,
            "readinessProbe": health.READINESS,
        }
        for probe, service in probes.items():
            assert container[probe]["grpc"] == {"port": health_port, "service": service}


def test_no_two_containers_of_a_pod_listen_on_one_port(rendered: list[Document]) -> None:
    for template in pod_templates(rendered):
        ports = [port for one in template["spec"]["containers"] for port in one["ports"]]
        assert len({port["containerPort"] for port in ports}) == len(ports)
        assert len({port["name"] for port in ports}) == len(ports)


def test_pods_may_drain_for_longer_than_the_services_grace(rendered: list[Document]) -> None:
    for template, container in containers(rendered):
        default = CONFIGS[container["command"][0]].model_fields["grace_seconds"].default
        grace = float(environment(rendered, container).get("SLACKWATER_GRACE_SECONDS", default))
        assert template["spec"]["terminationGracePeriodSeconds"] > grace


def test_every_service_reaches_one_site_and_ports_that_it_has(rendered: list[Document]) -> None:
    templates = pod_templates(rendered)
    for service in of_kind(rendered, "Service"):
        (template,) = [one for one in templates if matches(service["spec"]["selector"], one)]
        named = {port["name"] for one in template["spec"]["containers"] for port in one["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= named


def test_stateful_sets_select_their_own_pods_and_have_their_service(
    rendered: list[Document],
) -> None:
    services = {one["metadata"]["name"] for one in of_kind(rendered, "Service")}
    for one in of_kind(rendered, "StatefulSet"):
        assert matches(one["spec"]["selector"]["matchLabels"], one["spec"]["template"])
        assert one["spec"]["serviceName"] in services
        assert one["spec"]["replicas"] == 1
        (claim,) = one["spec"]["volumeClaimTemplates"]
        assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]


def test_policies_deny_all_but_ports_that_are_there(rendered: list[Document]) -> None:
    policies = of_kind(rendered, "NetworkPolicy")
    ports = {port["containerPort"] for _, one in containers(rendered) for port in one["ports"]}
    for policy in policies:
        selected = policy["spec"]["podSelector"]["matchLabels"]
        assert any(matches(selected, template) for template in pod_templates(rendered))
        rules = [*policy["spec"].get("ingress", ()), *policy["spec"].get("egress", ())]
        for rule in rules:
            assert {port["port"] for port in rule["ports"]} <= ports | {53}
    for template in pod_templates(rendered):
        denying = [
            policy
            for policy in policies
            if matches(policy["spec"]["podSelector"]["matchLabels"], template)
            and "ingress" not in policy["spec"]
            and "egress" not in policy["spec"]
        ]
        assert [set(policy["spec"]["policyTypes"]) for policy in denying] == [{"Ingress", "Egress"}]


def test_every_reference_is_to_something_that_is_made(rendered: list[Document]) -> None:
    made = {
        kind: {one["metadata"]["name"] for one in of_kind(rendered, kind)}
        for kind in ("ConfigMap", "ServiceAccount")
    }
    secrets = {one["spec"]["secretName"] for one in of_kind(rendered, "Certificate")}
    for template in pod_templates(rendered):
        assert template["spec"]["serviceAccountName"] in made["ServiceAccount"]
        mounted = {volume["name"] for volume in template["spec"]["volumes"]} | {"data"}
        for volume in template["spec"]["volumes"]:
            if "secret" in volume:
                assert volume["secret"]["secretName"] in secrets
        for container in template["spec"]["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= mounted
            for source in container.get("envFrom", ()):
                assert source["configMapRef"]["name"] in made["ConfigMap"]


def test_recommended_labels_are_on_everything(rendered: list[Document]) -> None:
    wanted = {"name", "component", "part-of", "version", "managed-by"}
    for document in rendered:
        if document["kind"] in ("StatefulSet", "Service", "ConfigMap", "ServiceAccount"):
            labels = document["metadata"]["labels"]
            assert {f"app.kubernetes.io/{one}" for one in wanted} <= labels.keys(), document
