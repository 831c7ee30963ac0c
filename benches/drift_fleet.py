"""10,000 hosts that report drift: what the server takes for their hourly heartbeats, what a change costs that all of them
report within minutes, and how long an operator waits for what he asks of it then.

Their hosts went through their first rebuild in a registry of ours (benches/fleet.rs); each agent has a key of its own, and a
connection of its own for each report, from the address that is leased to its host.
"""

import json
import shutil
import subprocess
import time

import report
from cable import CLIENT_IP, SERVER_IP
from fleet import FLEET_CONFIG, requested
import regild
from regild import HTTP_PORT, Regild, built

HOSTS = 10_000
# At the real pace of 10,000 an hour. A change is reported faster than the ten minutes that agents need at least, which is
# the harder case; what is compared is processor time.
IDLE_SECONDS, HEARTBEAT_SECONDS, CHANGE_SECONDS = 60, 120, 120
FINDINGS = 5
POLICY = """
[drift.fleet]
images = ["tiny"]
[[drift.fleet.rule]]
path = "/usr/lib/**"
action = "rebuild"
grace = "0s"
scans = 1
why = "libraries come with the image"
"""


def run(bench):
    load, fleet = built("load"), built("fleet")
    with bench.cable() as cable:
        # Any address of the pool is one of the client's, and a socket may be bound to each. It stands before them as their
        # router: the kernel knows 1,024 neighbours on a link (gc_thresh3), and a fleet is behind routers, too.
        subprocess.run(cable.client + "ip route add local 10.88.0.0/15 dev lo".split(), check=True)
        subprocess.run(cable.server + f"ip route add 10.88.0.0/15 via {CLIENT_IP}".split(), check=True)
        return table(measure(bench, cable, load, fleet))


def measure(bench, cable, load, fleet):
    directory = bench.directory() / "drift"
    server = Regild(cable, directory, FLEET_CONFIG)
    server.import_image(image(directory), "tiny:v1")
    made = server.api("POST", "/v1/images/tiny:v1/baseline")
    if made["state"] != "ready":
        raise SystemExit(f"the image has no baseline: {made}")
    manifest = next(image["manifest"] for image in server.api("GET", "/v1/images") if image["image"] == "tiny:v1")
    server.stop()
    command = [fleet, "--config", "regild.toml", "--hosts", HOSTS, "--due", 0, "--image", "tiny:v1", "--manifest", manifest]
    hosts = subprocess.run([str(word) for word in command], cwd=directory, check=True, capture_output=True, text=True)
    (directory / "hosts.txt").write_text(hosts.stdout)
    server = Regild(cable, directory, FLEET_CONFIG)
    (directory / "policy.toml").write_text(POLICY)
    apply = [regild.BINARY, "--server", "state/regild.sock", "apply", "--loosen", "-f", "policy.toml"]
    subprocess.run([str(word) for word in apply], cwd=directory, check=True, stdout=subprocess.DEVNULL)
    hosts = directory / "hosts.txt"

    def says(*words):
        before, at = server.process.cpu_seconds(), report.load()
        command = [load, "drift", "--server", f"{SERVER_IP}:{HTTP_PORT}", "--hosts", hosts, *words]
        found = json.loads(cable.ask([str(word) for word in command]))
        return found | {"cpu": server.process.cpu_seconds() - before, "load": at}

    found = {"memory before": server.process.memory("VmRSS"), "enrol": says("--what", "enrol")}
    found["first"] = says("--what", "report", "--sequence", 1)
    before = server.process.cpu_seconds()
    time.sleep(IDLE_SECONDS)
    found["idle"] = (server.process.cpu_seconds() - before) / IDLE_SECONDS
    at_pace = HOSTS * HEARTBEAT_SECONDS // 3600
    found["heartbeats"] = says("--what", "heartbeat", "--sequence", 2, "--take", at_pace, "--seconds", HEARTBEAT_SECONDS)
    found["heartbeats at once"] = says("--what", "heartbeat", "--sequence", 3)
    found["memory watched"] = server.process.memory("VmRSS")
    found["change"] = says("--what", "report", "--sequence", 4, "--findings", FINDINGS, "--seconds", CHANGE_SECONDS)
    found["tripped"] = server.api("GET", "/v1/brakes")["tripped"]
    found["memory drifted"] = server.process.memory("VmRSS")
    found |= {path: requested(server, path) for path in ("/v1/drift", "/v1/drift/top")}
    top = server.api("GET", "/v1/drift/top?limit=1")[0]
    if (top["hosts"], top["same_content"]) != (HOSTS, HOSTS):
        raise SystemExit(f"{HOSTS} hosts have the same file: {top}")
    orders = sum(1 for host in server.api("GET", "/v1/hosts") if host["order"])
    if orders:
        raise SystemExit(f"{orders} orders were opened though the breaker tripped")
    found["store"] = sum(path.stat().st_size for path in (directory / "state/store").rglob("*") if path.is_file())
    server.stop()
    return found


def image(directory):
    """A root file system of a few files: what hosts say of it is not looked up in it."""
    tree, file = directory / "tree", directory / "image.raw"
    for name, text in (("etc/fstab", "LABEL=root / ext4 defaults 0 1\n"), ("usr/lib/os-release", "ID=debian\n")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", str(tree), str(file), "8M"], check=True,
                   stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)
    return file


def table(found):
    def row(name, one):
        latency = one["latency"]
        return [name, one["hosts"], f"{one['seconds']:.0f} s", f"{one['cpu'] / one['seconds']:.1%}",
                f"{one['cpu'] / one['hosts'] * 1e3:.2f} ms", f"{one['bytes'] / one['hosts']:.0f}",
                f"{latency['p50_ms']:.1f} ms", f"{latency['p99_ms']:.1f} ms", f"{latency['max_ms']:.0f} ms", one["load"]]

    rows = [["what", "reports", "in", "of one core", "processor each", "bytes each", "p50", "p99", "worst", "load average"],
            row("terms and key", found["enrol"]), row("first report, nothing differs, at once", found["first"]),
            row("heartbeats at the hourly pace", found["heartbeats"]), row("heartbeats at once", found["heartbeats at once"]),
            row(f"a change: {FINDINGS} findings on each host", found["change"])]
    each = found["heartbeats at once"]["cpu"] / HOSTS
    share = found["heartbeats"]["cpu"] / found["heartbeats"]["seconds"]
    change = found["change"]["cpu"]
    summary = [
        (f"{HOSTS:,} hosts reporting hourly", "5% of one core", f"{share:.1%} with all that the server does beside it "
         f"({found['idle']:.1%} before)", share < 0.05),
        (f"all {HOSTS:,} hosts drift at once", "", f"{change:.0f} s of processor, {change / 600:.1%} of one core where they "
         "report within ten minutes", None),
        (f"`drift list` and `drift top` of {HOSTS:,} hosts, request", "1 s",
         f"{found['/v1/drift'] * 1e3:.0f} ms, {found['/v1/drift/top'] * 1e3:.0f} ms",
         max(found["/v1/drift"], found["/v1/drift/top"]) < 1),
    ]
    memory = [f"{found[name] / 1e6:.0f} MB" for name in ("memory before", "memory watched", "memory drifted")]
    notes = [f"Hourly heartbeats alone: {each * HOSTS / 3600:.2%} of one core ({each * 1e3:.2f} ms each).",
             f"Resident memory with all hosts on record, watched, drifted: {', '.join(memory)}; store {found['store'] / 1e6:.0f} MB.",
             f"The breaker: {found['tripped']}"]
    return report.Table("Drift of a fleet", rows, notes, summary=summary)
