"""`k8s/components/attach` and the sample on it: what they render to fits code and policies."""

import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from slackwater.cli import contexts
from tests.support.tools import require
from tests.unit.cli.test_from_vvr import resolve

REPOSITORY = Path(__file__).parents[2]
SAMPLE = REPOSITORY / "k8s/samples/postgres"
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: shop
  labels: {slackwater.io/attach: "true"}
spec:
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      containers: [{name: shop, image: shop}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: slackwater}
data: {SLACKWATER_PRIMARY: "site:7460"}
"""
Document = dict[str, Any]


def kustomize(directory: Path) -> list[Document]:
    done = subprocess.run(
        [require("kubectl"), "kustomize", str(directory)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module")
def sample() -> list[Document]:
    """Everything the sample makes."""
    return kustomize(SAMPLE)


@pytest.fixture
def deployment(tmp_path: Path) -> Document:
    """A Deployment under both components; they are copied, as kustomize wants relative paths."""
    names = ("attach", "attach-tls")
    for name in names:
        target = tmp_path / name
        target.mkdir()
        for file in (REPOSITORY / "k8s/components" / name).iterdir():
            (target / file.name).write_bytes(file.read_bytes())
    own = tmp_path / "own"
    own.mkdir()
    (own / "deployment.yaml").write_text(DEPLOYMENT)
    (own / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {"resources": ["deployment.yaml"], "components": [f"../{name}" for name in names]}
        )
    )
    made = kustomize(own)
    (config,) = [one for one in made if one["kind"] == "ConfigMap"]
    assert set(config["data"]) > {"SLACKWATER_TLS_CERT", "SLACKWATER_TLS_KEY", "SLACKWATER_TLS_CA"}
    return next(one for one in made if one["kind"] == "Deployment")


def the(documents: list[Document], kind: str) -> Document:
    (found,) = [one for one in documents if one["kind"] == kind]
    return found


def pod(documents: list[Document]) -> Document:
    spec: Document = the(documents, "StatefulSet")["spec"]["template"]["spec"]
    return spec


def sidecar(spec: Document) -> Document:
    (found,) = spec["initContainers"]
    assert isinstance(found, dict)
    return found


def test_documents_are_valid_against_the_current_schemas(
    sample: list[Document], deployment: Document
) -> None:
    version = kubernetes_validate.latest_version()
    for document in [*sample, deployment]:
        kubernetes_validate.validate(document, version, strict=True)


def test_sidecar_starts_before_the_application_and_shows_it_what_it_mounts(
    sample: list[Document],
) -> None:
    spec = pod(sample)
    attach = sidecar(spec)
    assert attach["restartPolicy"] == "Always"
    (shared,) = [one for one in attach["volumeMounts"] if one["name"] == "slackwater"]
    assert shared["mountPropagation"] == "Bidirectional"
    users = [
        mount
        for container in spec["containers"]
        for mount in container["volumeMounts"]
        if mount["name"] == "slackwater"
    ]
    assert users and all(one["mountPropagation"] == "HostToContainer" for one in users)
    # The probe waits for the file that the command is told to make, in a volume of its own.
    ready = attach["command"][attach["command"].index("--ready-file") + 1]
    assert attach["startupProbe"]["exec"]["command"] == ["test", "-e", ready]
    assert any(ready.startswith(f"{one['mountPath']}/") for one in attach["volumeMounts"])


def test_only_the_sidecar_is_privileged(sample: list[Document]) -> None:
    spec = pod(sample)
    assert sidecar(spec)["securityContext"]["privileged"] is True
    assert spec["securityContext"]["runAsNonRoot"] is True
    for container in spec["containers"]:
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False and own["readOnlyRootFilesystem"] is True
        assert own["capabilities"] == {"drop": ["ALL"]}
    namespace = the(sample, "Namespace")["metadata"]["labels"]
    assert namespace["pod-security.kubernetes.io/enforce"] == "privileged"


def test_commands_are_those_of_the_command_line(sample: list[Document]) -> None:
    spec = pod(sample)
    ours = [
        one
        for one in [*spec["initContainers"], *spec["containers"]]
        if one["image"].partition(":")[0] in ("slackwater", "slackwater-attach")
    ]
    assert [one["name"] for one in ours] == ["attach", "agent"]
    for container in ours:
        command, rest = resolve(" ".join([*container["command"], *container["args"]]))
        known = {name for row in command.params for name in (*row.opts, *row.secondary_opts)}
        assert all(word in known for word in rest if word.startswith("-")), container["name"]


def test_variables_of_the_config_map_are_read_by_something(sample: list[Document]) -> None:
    data = the(sample, "ConfigMap")["data"]
    command, _ = resolve("slackwater attach")
    read = {str(row.envvar) for row in command.params if row.envvar}
    read |= {f"SLACKWATER_{key.upper()}" for key in contexts.KEYS}
    arguments = " ".join(
        word
        for container in [*pod(sample)["initContainers"], *pod(sample)["containers"]]
        for word in container.get("args", ())
    )
    read |= {name for name in data if f"$({name})" in arguments}
    assert set(data) <= read
    group = data["SLACKWATER_GROUP"]
    mounts = [word.partition("=") for word in data["SLACKWATER_VOLUMES"].split()]
    assert mounts and all(volume.startswith(f"{group}/") for volume, _, _ in mounts)
    (shared,) = [
        one["mountPath"]
        for one in sidecar(pod(sample))["volumeMounts"]
        if one["name"] == "slackwater"
    ]
    assert all(path.startswith(f"{shared}/") for _, _, path in mounts)


def test_policies_of_a_site_let_the_application_in(sample: list[Document]) -> None:
    template = the(sample, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    namespace = the(sample, "Namespace")["metadata"]["labels"]
    policies = kustomize(REPOSITORY / "k8s/base/site")
    (clients,) = [
        one
        for one in policies
        if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == "site-clients"
    ]
    (rule,) = clients["spec"]["ingress"]
    assert any(
        one.get("namespaceSelector", {}).get("matchLabels", {"": ""}).items() <= namespace.items()
        and one["podSelector"]["matchLabels"].items() <= template.items()
        for one in rule["from"]
    )
    assert {7460, 10809} <= {one["port"] for one in rule["ports"]}


def test_a_deployment_gets_the_same_sidecar_and_its_certificate(
    sample: list[Document], deployment: Document
) -> None:
    spec = deployment["spec"]["template"]["spec"]
    ours, theirs = sidecar(spec), sidecar(pod(sample))
    assert ours["args"] == ["--agent", "$(SLACKWATER_APPLICATION)"]
    mounts = [one for one in ours["volumeMounts"] if one["name"] != "slackwater-client"]
    assert {**ours, "args": [], "volumeMounts": mounts} == {**theirs, "args": []}
    (certificate,) = [one for one in spec["volumes"] if one["name"] == "slackwater-client"]
    assert certificate["secret"]["secretName"] == "slackwater-client"
    assert any(one["mountPath"] == "/tls" for one in ours["volumeMounts"])
