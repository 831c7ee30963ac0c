"""A thousand agents that say once a second how far they are: what the server takes for it, and that none is lost.

Their hosts went to the writing of their disks in a registry of ours (benches/fleet.rs); each agent has a connection of its
own from the address that is leased to its host.
"""

import json
import statistics
import subprocess

import report
from cable import SERVER_IP, SERVER_LINK
from fleet import FLEET_CONFIG
from regild import HTTP_PORT, ROOT, Regild, built

AGENTS, REPORTS, REPEATS = 1_000, 30, 3


def run(bench):
    load, fleet = built("load"), built("fleet")
    with bench.cable() as cable:
        # Any address of the pool is one of the client's: it answers ARP for them, and a socket may be bound to each.
        subprocess.run(cable.client + "ip route add local 10.88.0.0/15 dev lo".split(), check=True)
        subprocess.run(cable.server + f"ip route add 10.88.0.0/15 dev {SERVER_LINK}".split(), check=True)
        runs = [measure(bench, cable, load, fleet) for _ in range(REPEATS)]
    seconds = [one["cpu"] / one["seconds"] for one in runs]
    rows = [["run", "reports answered", "lost", "of one core", "p50", "p99", "worst", "memory", "load average"]]
    for number, one in enumerate(runs, 1):
        latency = one["latency"]
        rows.append([number, one["reports"], one["lost"], f"{one['cpu'] / one['seconds']:.1%}", f"{latency['p50_ms']:.1f} ms",
                     f"{latency['p99_ms']:.1f} ms", f"{latency['max_ms']:.1f} ms", f"{one['memory'] / 1e6:.0f} MB", one["load"]])
    summary = [(f"{AGENTS:,} agents reporting each second", "1 core, none lost",
                f"{statistics.median(seconds):.1%} of one core, {sum(one['lost'] for one in runs)} lost",
                max(seconds) < 1 and not any(one["lost"] for one in runs))]
    return report.Table("Agents that report", rows, summary=summary)


def measure(bench, cable, load, fleet):
    directory = bench.directory() / "agents"
    server = Regild(cable, directory, FLEET_CONFIG)
    server.import_image(ROOT / "target/lab/tiny-v1.raw", "tiny:v1")
    manifest = next(image["manifest"] for image in server.api("GET", "/v1/images") if image["image"] == "tiny:v1")
    server.stop()
    command = [fleet, "--config", "regild.toml", "--hosts", AGENTS, "--due", "0", "--writing", "--image", "tiny:v1",
               "--manifest", manifest]
    made = subprocess.run([str(word) for word in command], cwd=directory, check=True, capture_output=True, text=True)
    (directory / "agents.txt").write_text(made.stdout)
    server = Regild(cable, directory, FLEET_CONFIG)
    before, at = server.process.cpu_seconds(), report.load()
    said = cable.ask([load, "agents", "--server", f"{SERVER_IP}:{HTTP_PORT}", "--agents", directory / "agents.txt",
                      "--reports", REPORTS])
    found = json.loads(said)
    found |= {"cpu": server.process.cpu_seconds() - before, "memory": server.process.memory("VmRSS"), "load": at}
    last = REPORTS << 20
    shown = [host["progress"] for host in server.api("GET", "/v1/hosts")]
    found["lost"] = AGENTS * REPORTS - found["reports"]
    found["lost"] += sum(1 for seen in shown if seen is None or seen["done_bytes"] != last)
    server.stop()
    return found
