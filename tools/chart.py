"""Spells what is generated of the chart: Chart.yaml, values, schema, README, CRD templates, dashboards, the profile
that its notes show. The other templates are written by hand. tools/generate.py writes the files.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import chart_text
import dashboard
import metric
import yaml

from topcoat.api import crd, metadata

FOLDER = "charts/topcoat"
# What Artifact Hub shows. A change of the API's version is a change of these.
_KINDS = (
    ("FineTuneJob", "A tuned model: what it is made from, how it is judged, and where it serves"),
    ("FineTuneProfile", "What a platform team allows and provides for fine-tuning"),
    ("ModelServer", "A server that holds one base model and many tuned versions of it"),
)


def files(root: Path) -> dict[str, str]:
    """Path below the repository root -> content."""
    chart = {
        "Chart.yaml": _chart_yaml(tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]),
        "values.yaml": chart_text.values_yaml(),
        "values.schema.json": chart_text.schema_json(),
        "README.md": _readme(),
        "default-profile.yaml": (root / "examples" / "profiles" / "default.yaml").read_text(encoding="utf-8"),
    }
    chart |= {f"dashboards/{name}": text for name, text in dashboard.files().items()}
    chart |= {f"templates/crds/{name}": crd_template(body) for name, body in crd.custom_resource_definitions().items()}
    pages = {"docs/reference/chart-values.md": _reference(), "docs/reference/metrics.md": metric.page()}
    return {f"{FOLDER}/{name}": text for name, text in chart.items()} | pages


def _chart_yaml(project: dict[str, Any]) -> str:
    kinds = [
        {"kind": kind, "version": metadata.VERSION, "name": f"{kind.lower()}s.{metadata.GROUP}", "description": text}
        for kind, text in _KINDS
    ]
    body = {
        "apiVersion": "v2",
        "name": "topcoat",
        "description": project["description"],
        "type": "application",
        "version": project["version"],
        "appVersion": project["version"],
        "kubeVersion": ">=1.31.0-0",
        "keywords": project["keywords"],
        "annotations": {
            "artifacthub.io/license": project["license"],
            "artifacthub.io/category": "ai-machine-learning",
            "artifacthub.io/operator": "true",
            "artifacthub.io/operatorCapabilities": "Seamless Upgrades",
            "artifacthub.io/prerelease": str(project["version"].startswith("0.")).lower(),
            "artifacthub.io/crds": yaml.safe_dump(
                [{**kind, "displayName": kind["kind"]} for kind in kinds], sort_keys=False, width=110
            ),
        },
    }
    return f"# {chart_text.NOTE.replace('chart_values', 'chart')}\n" + yaml.safe_dump(
        body, sort_keys=False, width=110, allow_unicode=True
    )


def crd_template(body: dict[str, Any]) -> str:
    """A CRD as a template: only where wanted, kept where wanted, with the release's labels."""
    spelled = yaml.safe_dump({"spec": body["spec"]}, sort_keys=False, width=110, allow_unicode=True)
    head = (
        "{{- /* Generated from topcoat.api by `make generate`. Do not edit. */ -}}",
        "{{- if .Values.crds.enabled }}",
        f"apiVersion: {body['apiVersion']}",
        f"kind: {body['kind']}",
        "metadata:",
        f"  name: {body['metadata']['name']}",
        "  labels:",
        '    {{- include "topcoat.labels" . | nindent 4 }}',
        "  {{- if .Values.crds.keep }}",
        "  annotations:",
        "    helm.sh/resource-policy: keep",
        "  {{- end }}",
    )
    # A description may one day show a template of its own; Helm must not run it.
    return "\n".join(head) + "\n" + spelled.replace("{{", '{{ "{{" }}') + "{{- end }}\n"


def _readme() -> str:
    return f"""<!-- {chart_text.NOTE} -->

# Topcoat

Fine-tunes the last layers of an open model on your own cluster, proves that it beats what you have, and serves it.
Needs Kubernetes 1.31 or later. No webhook, no certificate, no hook.

```bash
helm install topcoat charts/topcoat --namespace topcoat-system --create-namespace
```

The chart makes no FineTuneProfile: one cannot be made together with its kind. The notes after the installation show
one to start from (`helm get notes topcoat --namespace topcoat-system`).

Upgrade with `helm upgrade`: the CRDs are templates, so they are upgraded, too. `helm uninstall` leaves CRDs,
FineTuneJobs and all volumes (`crds.keep`).

## Values

{chart_text.table()}"""


def _reference() -> str:
    return f"<!-- {chart_text.NOTE} -->\n\n# Values of the chart\n\n{chart_text.table()}"
