"""Renders the Helm chart with Helm's own engine.

    chart.py render ENVIRONMENT      prints the manifests for dev, staging, preprod or prod

HELM_CHARTS_DIR may name a folder with the charts that ours depends on.

Exits with 77 if that cannot be done here, and says why.
"""

import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import helm_python
import yaml

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "helm_deploy" / "probation-offender-events"
ENVIRONMENTS = ("dev", "staging", "preprod", "prod")
NOT_POSSIBLE = 77


def merged(base, over):
    """The second over the first, as Helm does it with two files of values."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    return {**base, **{key: merged(base.get(key), value) for key, value in over.items()}}


def namespace(environment):
    return f"offender-events-{environment}"


def deployment(environment):
    """What the pipeline passes in."""
    return {
        "global": {"environment": environment},
        "generic-service": {
            "image": {"tag": "2026-11-24.1.abcdef0"},
            "allowlist_version": "v1",
            "allowlist_groups": {"internal": {"office": "192.0.2.1/32", "vpn": "192.0.2.2/32"}},
        },
    }


def _add_dependencies(copy):
    """Puts the charts that ours depends on beside it: from HELM_CHARTS_DIR, or else from their repository."""
    folder = os.environ.get("HELM_CHARTS_DIR")
    if folder:
        for dependency in yaml.safe_load((copy / "Chart.yaml").read_text())["dependencies"]:
            chart = Path(folder) / dependency["name"]
            version = str(yaml.safe_load((chart / "Chart.yaml").read_text())["version"])
            if not f"{version}.".startswith(f"{dependency['version']}."):
                sys.exit(f"{chart} is version {version}, Chart.yaml requires {dependency['version']}")
            shutil.copytree(chart, copy / "charts" / dependency["name"])
        return
    try:
        helm_python.dependency_update(str(copy))
    except helm_python.HelmError as error:
        print(f"HELM_CHARTS_DIR names no folder with the charts that ours depends on, and they cannot be fetched: {error}")
        sys.exit(NOT_POSSIBLE)


@contextmanager
def chart(defaults=None):
    """A temporary copy of the chart with its dependencies, so that none of them gets into the work tree.

    `defaults` replace values.yaml, as the values of the last release do in `helm upgrade --reuse-values`.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / CHART.name
        shutil.copytree(CHART, copy, ignore=shutil.ignore_patterns("charts", "Chart.lock"))
        if defaults is not None:
            (copy / "values.yaml").write_text(yaml.safe_dump(defaults))
        _add_dependencies(copy)
        with helm_python.Chart.load(copy) as loaded:
            yield loaded


def values(environment, more=None):
    own = yaml.safe_load((CHART.parent / f"values-{environment}.yaml").read_text())
    return merged(merged(own, deployment(environment)), more or {})


def render(loaded, environment, more=None):
    """All manifests, by (kind, name)."""
    return render_values(loaded, environment, values(environment, more))


def render_values(loaded, environment, all_values):
    rendered = loaded.render(all_values, name=CHART.name, namespace=namespace(environment), is_install=True)
    manifests = {}
    for template, text in rendered.items():
        if template.endswith("NOTES.txt"):
            continue
        for manifest in yaml.safe_load_all(text):
            if not manifest:
                continue
            key = manifest["kind"], manifest["metadata"]["name"]
            assert key not in manifests, f"{key} twice"
            manifests[key] = manifest
    return manifests


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "render" or sys.argv[2] not in ENVIRONMENTS:
        sys.exit(__doc__)
    with chart() as chart_with_dependencies:
        yaml.safe_dump_all(render(chart_with_dependencies, sys.argv[2]).values(), sys.stdout)
