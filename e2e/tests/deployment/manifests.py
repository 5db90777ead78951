"""Checks what the Helm chart renders to, for every environment.

    manifests.py check           checks all manifests
    manifests.py environments    prints, as JSON, what each pod gets as its environment, with dummies for secrets

Exits with 77 if the chart cannot be rendered here, and says why.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import helm_python
import kubernetes_validate
import yaml

from chart import CHART, ENVIRONMENTS, chart, deployment, merged, namespace, render, render_values

NAME = "probation-offender-events"
# The oldest Kubernetes version that a cluster may have, and the newest that is known.
KUBERNETES_VERSIONS = ("1.31", "1.37")
# Kinds that operators define and Kubernetes has no schema for: apiVersion, and the fields of spec.
CUSTOM_KINDS = {
    "ServiceMonitor": ("monitoring.coreos.com/v1", {"selector", "endpoints"}),
    "PrometheusRule": ("monitoring.coreos.com/v1", {"groups"}),
}
SECRETS = {
    ("probation-offender-events", "APPINSIGHTS_INSTRUMENTATIONKEY"): "00000000-0000-0000-0000-000000000000",
    ("probation-offender-events", "OAUTH_CLIENT_ID"): "dummy-client",
    ("probation-offender-events", "OAUTH_CLIENT_SECRET"): "dummy-secret",
    ("probation-offender-events-topic", "access_key_id"): "AKIADUMMY",
    ("probation-offender-events-topic", "secret_access_key"): "dummy-key",
    ("probation-offender-events-topic", "topic_arn"): "arn:aws:sns:eu-west-2:000000000000:cloud-platform-dummy",
}
IRSA_SECRETS = {place: value for place, value in SECRETS.items() if not place[1].endswith("key_id") and place[1] != "secret_access_key"}
# By environment: what follows the service's name in its host, and the addresses of hmpps-auth and community-api.
EXPECTED = {
    "dev": ("-dev", "https://sign-in-dev.hmpps.service.justice.gov.uk/auth", "https://community-api-secure.test.delius.probation.hmpps.dsd.io"),
    "staging": ("-staging", "https://sign-in-preprod.hmpps.service.justice.gov.uk/auth", "https://community-api-secure.stage.delius.probation.hmpps.dsd.io"),
    "preprod": ("-preprod", "https://sign-in-preprod.hmpps.service.justice.gov.uk/auth", "https://community-api-secure.pre-prod.delius.probation.hmpps.dsd.io"),
    "prod": ("", "https://sign-in.hmpps.service.justice.gov.uk/auth", "https://community-api-secure.probation.service.justice.gov.uk"),
}
# What `helm upgrade --reuse-values` keeps of a release of the predecessor's chart, which had no separate alerts.
REUSED = {
    "generic-service": {
        "nameOverride": NAME,
        "replicaCount": 4,
        "image": {"repository": f"quay.io/hmpps/{NAME}", "port": 8080},
        "ingress": {"enabled": True, "host": f"{NAME}.example.org", "tlsSecretName": f"{NAME}-cert"},
        "allowlist": {"office": "192.0.2.1/32"},
        "env": {"SERVER_PORT": "8080", "JAVA_OPTS": "-Xmx512m"},
        "namespace_secrets": {f"{NAME}-topic": {"HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN": "topic_arn"}},
    },
    "generic-prometheus-alerts": {"targetApplication": NAME, "alertSeverity": "a-severity"},
}


def environment_of(container, secrets):
    """The variables as the kubelet makes them: $(NAME) stands for a variable further up."""
    variables = {}
    for variable in container["env"]:
        if "valueFrom" in variable:
            reference = variable["valueFrom"]["secretKeyRef"]
            value = secrets.get((reference["name"], reference["key"]))
            if value is None:
                assert reference.get("optional"), f"the pod would not start without {reference}"
                continue
        else:
            assert isinstance(variable["value"], str), variable
            value = re.sub(
                r"\$\((\w+)\)", lambda match: variables.get(match[1], match[0]), variable["value"]
            )
        variables[variable["name"]] = value
    return variables


def container_of(manifests):
    (container,) = manifests["Deployment", NAME]["spec"]["template"]["spec"]["containers"]
    return container


def seconds(duration):
    assert re.fullmatch(r"\d+s", duration), duration
    return int(duration[:-1])


def check_schemas(manifests):
    for (kind, name), manifest in manifests.items():
        # Helm would refuse it, or put it into some other namespace.
        assert "namespace" not in manifest["metadata"], (kind, name)
        if kind in CUSTOM_KINDS:
            version, fields = CUSTOM_KINDS[kind]
            assert manifest["apiVersion"] == version and set(manifest["spec"]) == fields, manifest
        else:
            for version in KUBERNETES_VERSIONS:
                kubernetes_validate.validate(manifest, version, strict=True)


def check_pod(manifests, environment):
    _, auth, community = EXPECTED[environment]
    spec = manifests["Deployment", NAME]["spec"]
    assert spec["replicas"] == 2
    # That of the predecessor: Kubernetes does not allow it to change.
    assert spec["selector"]["matchLabels"] == {"app": NAME, "release": NAME}
    pod = spec["template"]["spec"]
    assert pod["serviceAccountName"] == NAME, "the topic's policy belongs to it"
    container = container_of(manifests)
    assert container["name"] == NAME, "the dashboard selects by it"
    assert container["image"] == "quay.io/hmpps/probation-offender-events:2026-11-24.1.abcdef0"

    security = container["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"], security["runAsNonRoot"]) == (2000, 2000, True)
    assert security["readOnlyRootFilesystem"] is True and security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert "volumes" not in pod, "there is nothing to write to"
    assert container["resources"]["limits"]["memory"] == "128Mi"

    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for probe, path in (("startupProbe", "liveness"), ("livenessProbe", "liveness"), ("readinessProbe", "readiness")):
        assert container[probe]["httpGet"] == {"path": f"/health/{path}", "port": "http"}
        assert container[probe].get("initialDelaySeconds", 0) == 0
    variables = environment_of(container, SECRETS)
    assert variables["SERVER_PORT"] == str(ports["http"])
    assert variables["MANAGEMENT_SERVER_PORT"] == str(ports["metrics"])
    assert (variables["OAUTH_ENDPOINT_URL"], variables["COMMUNITY_ENDPOINT_URL"]) == (auth, community)
    assert variables["PRODUCT_ID"]
    assert variables["SPRINGDOC_APIDOCS_ENABLED"] == str(environment == "dev").lower()
    key = SECRETS["probation-offender-events", "APPINSIGHTS_INSTRUMENTATIONKEY"]
    assert variables["APPLICATIONINSIGHTS_CONNECTION_STRING"] == f"InstrumentationKey={key}"
    # Without a value, Kubernetes gives 30 s. After the grace period, Application Insights, the web server and calls that hang
    # may each take one more second.
    killed_after = pod.get("terminationGracePeriodSeconds", 30)
    assert seconds(variables["SHUTDOWN_GRACEPERIOD"]) + 3 < killed_after


def check_ways_in(manifests, environment):
    host = f"probation-offender-events{EXPECTED[environment][0]}.hmpps.service.justice.gov.uk"
    ingress = manifests["Ingress", f"{NAME}-v1-2"]
    assert [rule["host"] for rule in ingress["spec"]["rules"]] == [host]
    assert ingress["spec"]["tls"] == [{"hosts": [host], "secretName": f"{NAME}-cert"}]
    assert ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/whitelist-source-range"]
    service = {port["port"]: port["targetPort"] for port in manifests["Service", NAME]["spec"]["ports"]}
    reached = {
        service[path["backend"]["service"]["port"]["number"]]
        for rule in ingress["spec"]["rules"]
        for path in rule["http"]["paths"]
    }
    assert reached == {"http"}, "the ingress must not lead to the metrics"
    (endpoint,) = manifests["ServiceMonitor", NAME]["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("metrics", "/prometheus")


def rules_of(manifests, name=NAME):
    (group,) = manifests["PrometheusRule", name]["spec"]["groups"]
    return {rule["alert"]: rule for rule in group["rules"] if "alert" in rule}


def write_rules(manifests, folder):
    """The files that Prometheus gets, after promtool has accepted them."""
    for (kind, name), manifest in manifests.items():
        if kind == "PrometheusRule":
            path = Path(folder) / f"{name}.yml"
            path.write_text(yaml.safe_dump(manifest["spec"]))
            subprocess.run(["promtool", "check", "rules", path], check=True, stdout=subprocess.DEVNULL)


def check_alerts(manifests, environment):
    """They are those of alerts.yml, in this namespace and with the labels that Alertmanager needs."""
    rules = rules_of(manifests)
    written = yaml.safe_load((CHART / "alerts.yml").read_text().replace("offender-events-dev", namespace(environment)))
    expected = [
        rule
        for rule in written["groups"][0]["rules"]
        if environment == "prod" or rule["alert"] != "ProbationOffenderEventNothingRead"
    ]
    assert list(rules) == [rule["alert"] for rule in expected]
    severity = "probation-integration-notifications"
    labels = {
        "severity": severity if environment == "prod" else f"info-{severity}",
        "application": NAME,
        "businessUnit": "hmpps",
        "environment": environment,
    }
    for rule in expected:
        rendered = rules[rule["alert"]]
        assert rendered["expr"] == rule["expr"], (rendered["expr"], rule["expr"])
        for key in ("for", "keep_firing_for"):
            assert rendered.get(key) == rule.get(key)
        assert rule["annotations"].items() <= rendered["annotations"].items()
        assert "{{ $labels.namespace }}" in rendered["annotations"]["message"], "one Slack message may list several environments"
        assert rendered["annotations"]["dashboard_url"].endswith(f"/d/poe-{namespace(environment)}?orgId=1")
        assert rendered["labels"] == {**labels, **rule["labels"]}
        assert rule["labels"]["urgency"] in ("page", "ticket")
    assert manifests["PrometheusRule", NAME]["metadata"]["labels"]["prometheus"] == "cloud-platform"
    assert (("PrometheusRule", f"{NAME}-sns") in manifests) == (environment == "prod")
    with tempfile.TemporaryDirectory() as folder:
        write_rules(manifests, folder)


def check_dashboard(manifests, environment):
    config_map = manifests["ConfigMap", f"poe-{namespace(environment)}"]
    assert config_map["metadata"]["labels"] == {"grafana_dashboard": ""}
    (text,) = config_map["data"].values()
    dashboard = json.loads(text)
    assert dashboard["uid"] == f"poe-{namespace(environment)}" and len(dashboard["uid"]) <= 40
    assert dashboard["title"] == f"probation-offender-events {namespace(environment)}"
    assert environment == "dev" or "offender-events-dev" not in text
    panels = {panel["title"]: panel for panel in dashboard["panels"]}
    assert len({panel["id"] for panel in panels.values()}) == len(dashboard["panels"])
    assert dashboard["schemaVersion"] == 40, "that of Grafana 11.5, which runs there"
    wanted = manifests["Deployment", NAME]["spec"]["replicas"]
    assert panels["Pods"]["fieldConfig"]["defaults"]["thresholds"]["steps"][1] == {"color": "green", "value": wanted}
    for panel in panels.values():
        queries = " ".join(target["expr"] for target in panel.get("targets", []))
        # Grafana's rate interval is the interval and one scrape (15 s), but at least four scrapes: shorter intervals overlap.
        assert "$__interval_ms" not in queries or panel["interval"] == "1m", panel["title"]
        assert "increase(" not in queries or "$__range" in queries, f"{panel['title']} counts an event several times"


def check_switches(loaded, environment):
    """The subcharts' switches change our alerts as they change the subchart's own."""
    downtime = {"generic-service": {"scheduledDowntime": {"enabled": True}}}
    hours = {"generic-prometheus-alerts": {"businessHoursOnly": True}}
    labels = {"generic-prometheus-alerts": {"additionalRuleLabels": {"team": "probation-integration"}}}
    everything = merged(merged(downtime, hours), labels)
    for switches in (downtime, hours, labels, everything):
        manifests = render(loaded, environment, switches)
        check_schemas(manifests)
        ours, theirs = rules_of(manifests), rules_of(manifests, f"{NAME}-app")
        on = switches.get("generic-prometheus-alerts", {})
        for rule in [*ours.values(), *theirs.values()]:
            assert ("business_hours" in rule["expr"]) == ("businessHoursOnly" in on), rule
            assert ("team" in rule["labels"]) == ("additionalRuleLabels" in on), rule
        for rule in ours.values():
            assert ("kube_deployment_spec_replicas" in rule["expr"]) == ("generic-service" in switches), rule
        with tempfile.TemporaryDirectory() as folder:
            write_rules(manifests, folder)
            if environment == "dev" and switches is everything:
                test = shutil.copy(Path(__file__).parent / "switches_test.yml", folder)
                subprocess.run(["promtool", "test", "rules", test], check=True)


def check_changes(loaded):
    """The values under `alerts`."""
    fewer = {
        "ProbationOffenderEventSlowProcessing": {"threshold": 90, "for": "10m"},
        "ProbationOffenderEventPollingStalled": {"enabled": False},
    }
    rules = rules_of(render(loaded, "prod", {"alerts": fewer}))
    slow = rules["ProbationOffenderEventSlowProcessing"]
    assert slow["expr"].endswith(" > 90") and slow["for"] == "10m"
    assert "ProbationOffenderEventPollingStalled" not in rules and len(rules) > 4

    known = rules_of(render(loaded, "prod"))
    allowed = loaded.schema["properties"]["alerts"]["properties"]
    assert list(allowed) == list(known), "values.schema.json and alerts.yml name different alerts"
    for alert, reference in allowed.items():
        if reference["$ref"].endswith("WithThreshold"):
            changed = rules_of(render(loaded, "prod", {"alerts": {alert: {"threshold": 12345}}}))
            before, threshold = changed[alert]["expr"].rsplit(" ", 1)
            assert threshold == "12345" and known[alert]["expr"].startswith(f"{before} "), alert
    for wrong in (
        {"ProbationOffenderEventSlow": {"enabled": False}},
        {"ProbationOffenderEventPollingAbsent": {"threshold": 3}},
        {"ProbationOffenderEventPollingAbsent": {"enabled": "no"}},
    ):
        try:
            render(loaded, "prod", {"alerts": wrong})
        except helm_python.HelmValuesError as error:
            assert "/alerts" in str(error), error
        else:
            raise AssertionError(f"{wrong} was accepted")


def check_reused_values():
    """`helm upgrade --reuse-values` after a release of the predecessor."""
    with chart(defaults=REUSED) as loaded:
        manifests = render_values(loaded, "prod", deployment("prod"))
    check_schemas(manifests)
    assert len(rules_of(manifests)) > 4
    with tempfile.TemporaryDirectory() as folder:
        write_rules(manifests, folder)


def check():
    with chart() as loaded:
        for environment in ENVIRONMENTS:
            manifests = render(loaded, environment)
            check_schemas(manifests)
            check_pod(manifests, environment)
            check_ways_in(manifests, environment)
            check_alerts(manifests, environment)
            check_dashboard(manifests, environment)
            check_switches(loaded, environment)
            print(f"{environment}: {len(manifests)} manifests are as they should be")
        check_changes(loaded)
    check_reused_values()


def environments():
    with chart() as loaded:
        containers = {environment: container_of(render(loaded, environment)) for environment in ENVIRONMENTS}
    found = {environment: environment_of(container, SECRETS) for environment, container in containers.items()}
    # IRSA: the topic's secret has no keys.
    found["prod without keys"] = environment_of(containers["prod"], IRSA_SECRETS)
    assert len(found["prod"]) == len(found["prod without keys"]) + 2
    print(json.dumps(found))


if __name__ == "__main__":
    commands = {"check": check, "environments": environments}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]]()
