"""Draws what the dashboard shows in normal operation and in an outage: docs/dashboard-{normal,outage}.png.

    pictures.py            takes about 40 minutes

Runs the sandbox and two pods of the service, lets a real Prometheus scrape them as in the cluster, stops SNS for a while,
and draws the answers to the dashboard's queries as Grafana would ask them. The row Resources is left out: its data is
the cluster's. Needs the binaries of `cargo build -p e2e`, and matplotlib beside what install-tools.sh installs.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import dates, pyplot  # noqa: E402

from queries import CHART, ROOT, Prometheus, free_port  # noqa: E402

PODS = ("probation-offender-events-5d4c7b9f6-abcde", "probation-offender-events-5d4c7b9f6-fghij")
CHANGES_PER_MINUTE = 30
SCRAPE = 15
WARM_UP, NORMAL, OUTAGE, RECOVERY = (minutes * 60 for minutes in (3, 15, 13, 6))
LEFT_OUT = "Resources"


class World:
    """The sandbox, and the service on two pods."""

    def __init__(self, folder):
        binaries = ROOT / "target" / "debug"
        ports = {name: free_port() for name in ("community", "auth", "topic", "page")}
        self.page = f"http://127.0.0.1:{ports['page']}"
        self.log = (folder / "log").open("w")
        arguments = [f"--{name}-port={port}" for name, port in ports.items()]
        self.processes = []
        self.start([binaries / "e2e-sandbox", "serve", f"--changes-per-minute={CHANGES_PER_MINUTE}", *arguments], {})
        self.metrics = {}
        for pod in PODS:
            port = free_port()
            self.metrics[pod] = f"127.0.0.1:{port}"
            self.start(
                [binaries / "e2e-service"],
                {
                    "COMMUNITY_ENDPOINT_URL": f"http://127.0.0.1:{ports['community']}",
                    "OAUTH_ENDPOINT_URL": f"http://127.0.0.1:{ports['auth']}/auth",
                    "OAUTH_CLIENT_ID": "probation-offender-events",
                    "OAUTH_CLIENT_SECRET": "clientsecret",
                    "HMPPS_SQS_PROVIDER": "localstack",
                    "HMPPS_SQS_LOCALSTACKURL": f"http://127.0.0.1:{ports['topic']}",
                    "SERVER_PORT": "0",
                    "MANAGEMENT_SERVER_PORT": str(port),
                },
            )

    def start(self, command, variables):
        self.processes.append(subprocess.Popen(command, env=variables, stdout=self.log, stderr=self.log))

    def sns(self, down):
        form = urllib.parse.urlencode({"on": str(down).lower()}).encode()
        urllib.request.urlopen(f"{self.page}/outages/sns-down", form, timeout=10).close()

    def stop(self):
        for process in reversed(self.processes):
            process.terminate()
            process.wait()


def panels():
    """Those of the dashboard, down to the row that is left out, each with the row's title above it."""
    row = None
    for panel in json.loads((CHART / "dashboard.json").read_text())["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
        if row == LEFT_OUT:
            return
        yield panel


def query(target, interval, seconds):
    """With the values that Grafana gives its variables."""
    expr = target["expr"]
    for variable, value in {
        "$__rate_interval": f"{max(interval + SCRAPE, 4 * SCRAPE)}s",
        "$__interval_ms": str(interval * 1000),
        "$__range": f"{seconds}s",
    }.items():
        expr = expr.replace(variable, value)
    return expr


def legend(target, metric):
    name = target["legendFormat"]
    for label, value in metric.items():
        name = name.replace(f"{{{{{label}}}}}", value.replace("probation-offender-events-5d4c7b9f6-", "…"))
    return name


def color(panel, value):
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    reached = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
    return {"text": "black", "green": "#2b8a3e", "orange": "#e8590c", "red": "#c92a2a"}[reached[-1]]


def shown(panel, value):
    defaults = panel["fieldConfig"]["defaults"]
    unit = {"s": " s", "reqps": " req/s"}.get(defaults["unit"], "")
    if defaults["unit"].startswith("suffix:"):
        unit = defaults["unit"].removeprefix("suffix:")
    decimals = defaults.get("decimals", 0 if abs(value) >= 100 else None)
    return f"{value:.3g}{unit}" if decimals is None else f"{value:.{decimals}f}{unit}"


def draw_stat(prometheus, panel, axes, end, seconds):
    (target,) = panel["targets"]
    answer = prometheus.get("query", query=query(target, SCRAPE, seconds), time=end)["result"]
    axes.set_axis_off()
    axes.set_title(panel["title"], fontsize=10)
    if panel["options"]["textMode"] == "name":
        text, paint = "\n".join(legend(target, one["metric"]) for one in answer), "black"
    elif answer:
        value = float(answer[0]["value"][1])
        text, paint = shown(panel, value), color(panel, value)
    else:
        text, paint = "No data", "grey"
    axes.text(0.5, 0.5, text, color=paint, fontsize=20 if len(text) < 12 else 11, ha="center", va="center")


def draw_series(prometheus, panel, axes, end, seconds):
    defaults = panel["fieldConfig"]["defaults"]
    bars = defaults["custom"]["drawStyle"] == "bars"
    interval = 60 if panel.get("interval") == "1m" else SCRAPE
    end -= end % interval
    bottoms = {}
    for target in panel["targets"]:
        answer = prometheus.get(
            "query_range", query=query(target, interval, seconds), start=end - seconds, end=end, step=interval
        )
        for one in sorted(answer["result"], key=lambda one: sorted(one["metric"].items())):
            # A gap in the data is a gap in the line.
            found = {float(at): float(value) for at, value in one["values"]}
            times = [end - seconds + step * interval for step in range(seconds // interval + 1)]
            values = [found.get(at, float("nan")) for at in times]
            numbers = [value for value in values if value == value]
            if not numbers:
                continue
            days = [at / 86400 for at in times]
            name = legend(target, one["metric"])
            stated = f"total {shown(panel, sum(numbers))}" if bars else f"max {shown(panel, max(numbers))}"
            if bars:
                stacked = defaults["custom"]["stacking"]["mode"] == "normal"
                bottom = [bottoms.get(at, 0) if stacked else 0 for at in times]
                heights = [value if value == value else 0 for value in values]
                axes.bar(days, heights, 0.8 * interval / 86400, bottom, label=f"{name}: {stated}", alpha=0.7)
                bottoms = {at: under + height for at, under, height in zip(times, bottom, heights)}
            else:
                axes.plot(days, values, linewidth=1.2, label=f"{name}: {stated}")
    if defaults["custom"]["thresholdsStyle"]["mode"] == "line":
        axes.axhline(defaults["thresholds"]["steps"][1]["value"], color="red", linewidth=0.8, linestyle="--")
    axes.set_title(panel["title"], fontsize=10)
    axes.set_xlim((end - seconds) / 86400, end / 86400)
    axes.set_ylim(bottom=0, top=None if axes.get_ylim()[1] > 0.01 else 1)
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
    axes.xaxis.set_major_locator(dates.MinuteLocator(interval=max(1, seconds // 300)))
    axes.yaxis.set_major_formatter(lambda value, _: shown({"fieldConfig": {"defaults": {"unit": defaults["unit"]}}}, value))
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(-0.05, -0.12), ncols=2, frameon=False, columnspacing=1)


def draw(prometheus, name, end, seconds):
    drawn = list(panels())
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in drawn)
    figure = pyplot.figure(figsize=(18, height * 0.4))
    for panel in drawn:
        place = panel["gridPos"]
        left, top = place["x"] / 24, 1 - place["y"] / height
        if panel["type"] == "row":
            figure.text(0.01, top - 0.3 / height, panel["title"], fontsize=12, weight="bold", va="top")
            continue
        # Room for the title above, and for axis and legend below.
        stat = panel["type"] == "stat"
        bottom = top - place["h"] / height + (0.5 if stat else 2.3) / height
        box = (left + 0.035, bottom, place["w"] / 24 - 0.05, top - 1.2 / height - bottom)
        (draw_stat if stat else draw_series)(prometheus, panel, figure.add_axes(box), end, seconds)
    path = ROOT / "docs" / f"dashboard-{name}.png"
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
    print(f"{path} is drawn", flush=True)


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        world = World(folder)
        prometheus = Prometheus(folder, world.metrics, f"{SCRAPE}s")
        try:
            time.sleep(WARM_UP + NORMAL)
            draw(prometheus, "normal", time.time(), NORMAL)
            world.sns(down=True)
            time.sleep(OUTAGE)
            world.sns(down=False)
            time.sleep(RECOVERY)
            draw(prometheus, "outage", time.time(), 180 + OUTAGE + RECOVERY)
        finally:
            prometheus.stop()
            world.stop()


if __name__ == "__main__":
    if len(sys.argv) != 1:
        sys.exit(__doc__)
    os.chdir(ROOT)
    main()
