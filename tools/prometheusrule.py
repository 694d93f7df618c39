"""Write `monitoring/rules` as a PrometheusRule for Kubernetes: `make monitoring`."""

import sys
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
RULES = REPOSITORY / "monitoring/rules/slackwater.yml"
MADE = REPOSITORY / "k8s/overlays/monitoring/prometheusrule.yaml"


def render() -> str:
    """The document as it is committed."""
    document = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "slackwater"},
        "spec": yaml.safe_load(RULES.read_text()),
    }
    head = "# Made by `make monitoring` from monitoring/rules; change them there.\n"
    return head + yaml.safe_dump(document, sort_keys=False, width=100)


if __name__ == "__main__":
    MADE.write_text(render())
    sys.exit(0)
