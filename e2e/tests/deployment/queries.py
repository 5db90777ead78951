"""Asks a real Prometheus every query of the alerts and their texts, of the dashboard and of docs/operating.md.

    queries.py ADDRESS    starts a Prometheus that scrapes the service whose metrics are at ADDRESS (host:port)

Each selector has to find series, so that a name or a label that does not exist is noticed.
"""

import json
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "helm_deploy" / "probation-offender-events"
NAMESPACE = "offender-events-dev"
POD = "probation-offender-events-5d4c7b9f6-abcde"
# For Grafana's variables, with a scrape each second.
INTERVALS = {"$__rate_interval": "5s", "$__range": "1m", "$__interval_ms": "1000"}
PATIENCE = 60

# What kube-state-metrics and the kubelet say of a pod, as far as the dashboard asks.
CLUSTER = """\
kube_pod_container_info{{{labels},image="quay.io/hmpps/probation-offender-events:2026-11-24.1.abcdef0",uid="1"}} 1
kube_pod_container_resource_limits{{{labels},resource="memory",unit="byte",node="n",uid="1"}} 1.34217728e+08
kube_pod_container_status_restarts_total{{{labels},uid="1"}} 0
container_cpu_usage_seconds_total{{{labels},cpu="total",id="/kubepods/1",image="i",name="n"}} 1.5
container_memory_working_set_bytes{{{labels},id="/kubepods/1",image="i",name="n"}} 1.2e+07
"""


def labels(pod):
    return {"namespace": NAMESPACE, "pod": pod, "container": "probation-offender-events"}


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


class Cluster(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        pod = ",".join(f'{name}="{value}"' for name, value in labels(POD).items())
        self.wfile.write(CLUSTER.format(labels=pod).encode())

    def log_message(self, *_):
        pass


def queries():
    """(where, query, labels that its legend shows) of all there are."""
    for group in yaml.safe_load((CHART / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"], None
            for query in re.findall(r'query "([^"]*)"', rule["annotations"]["message"]):
                yield f"the text of {rule['alert']}", query, None
    for panel in json.loads((CHART / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", []):
            shown = re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
            yield panel["title"], target["expr"], shown
    (block,) = re.findall(r"```promql\n(.*?)```", (ROOT / "docs" / "operating.md").read_text(), re.DOTALL)
    for query in block.splitlines():
        if not query.startswith("#"):
            yield "operating.md", query.replace("offender-events-prod", NAMESPACE), None


def selectors(query):
    """The metric selectors of a query, without their ranges."""
    found = re.findall(r"\b[a-z_]+\{[^}]*\}", query)
    # So that none is overlooked.
    bare = re.findall(r"\b(?:offender|process|kube|container)_[a-z_]+\b(?!\{)", re.sub(r"""(["']).*?\1""", "", query))
    assert not bare, f"no {{…}} after {bare} in {query}"
    assert found and all(f'namespace="{NAMESPACE}"' in selector.replace("'", '"') for selector in found), query
    return found


class Prometheus:
    def __init__(self, folder, services, scrape_interval="1s"):
        """Scrapes the services, which are addresses by the name of their pod."""
        cluster = HTTPServer(("127.0.0.1", 0), Cluster)
        threading.Thread(target=cluster.serve_forever, daemon=True).start()
        configuration = {
            "global": {"scrape_interval": scrape_interval, "evaluation_interval": scrape_interval},
            "rule_files": [str(CHART / "alerts.yml")],
            "scrape_configs": [
                {
                    "job_name": "service",
                    "metrics_path": "/prometheus",
                    # As the ServiceMonitor adds them.
                    "static_configs": [
                        {"targets": [address], "labels": labels(pod)} for pod, address in services.items()
                    ],
                },
                {
                    "job_name": "cluster",
                    "honor_labels": True,
                    "static_configs": [{"targets": [f"127.0.0.1:{cluster.server_port}"]}],
                },
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        self.log = folder / "prometheus.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=log,
            )

    def get(self, path, **parameters):
        # Directly, with no proxy.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:
                raise  # It has not begun to serve.
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def ask(self, query):
        return self.get("query", query=query)["result"]

    def wait_for_scrapes(self, count):
        """Waits until both targets have been scraped `count` times."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                scrapes = self.ask("sum_over_time(up[1m])")
                if len(scrapes) == 2 and all(float(one["value"][1]) >= count for one in scrapes):
                    return
            except OSError:
                pass  # It is not ready.
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"Prometheus ended or could not scrape:\n{self.log.read_text()}")
            time.sleep(0.2)

    def stop(self):
        self.process.terminate()
        self.process.wait()


def check(prometheus):
    faults = []
    asked = 0
    for where, query, shown in queries():
        for variable, value in INTERVALS.items():
            query = query.replace(variable, value)
        for selector in selectors(query):
            if not prometheus.ask(selector):
                faults.append(f"{where}: there is no {selector}")
        answer = prometheus.ask(query)
        asked += 1
        if shown is not None:
            if not answer:
                faults.append(f"{where}: nothing to show for {query}")
            for label in shown:
                if not all(label in series["metric"] for series in answer):
                    faults.append(f"{where}: the legend shows {label}, which {query} does not have")
    for group in prometheus.get("rules")["groups"]:
        for rule in group["rules"]:
            if rule["health"] != "ok" or rule["state"] == "firing":
                faults.append(f"{rule['name']}: {rule['health']}, {rule['state']} {rule.get('lastError', '')}")
    if faults:
        sys.exit("\n".join(faults))
    print(f"{asked} queries found all their series")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        prometheus = Prometheus(Path(folder), {POD: sys.argv[1]})
        try:
            # Enough for each rate, and for the rules to be evaluated.
            prometheus.wait_for_scrapes(5)
            check(prometheus)
        finally:
            prometheus.stop()
