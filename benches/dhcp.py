"""DHCP: DISCOVER, OFFER, REQUEST, ACK a second, each server on a fresh lease file on a real disk."""

import json
import os
import re
import time

import peers
import report
from regild import Regild

ROUNDS = 3
SERVERS = {
    "regild": lambda cable, directory: Regild(cable, directory).process,
    "dnsmasq": peers.dnsmasq_dhcp,
    "kea-dhcp4": peers.kea,
}
# What is asked: name, clients that wait at a time, exchanges, further arguments of the load.
QUESTIONS = [
    ("one client at a time, wants an address", 1, 200, []),
    ("50 at a time, want an address", 50, 2000, []),
    ("50 at a time, UEFI ROMs, all new", 50, 2000, ["--netboot"]),
]
SYNCS = re.compile(r"\b(fsync|fdatasync)\(")


def run(bench):
    rows = [["clients", "server", "exchanges/s", "regild : it", "p50 ms", "p99 ms", "CPU ms each", "asked again"]]
    summary = []
    with bench.cable() as cable:
        syncs = {name: syncs_per_exchange(bench, cable, name) for name in SERVERS}
        append_ms, over_ms = (fdatasync_ms(bench.directory(), place) for place in (None, 0))
        for title, waiting, exchanges, more in QUESTIONS:
            runs = {name: [] for name in SERVERS}
            for _ in range(ROUNDS):
                for name in SERVERS:
                    runs[name].append(measure(bench, cable, name, waiting, exchanges, more))
            for name, found in runs.items():
                times = [report.median(found, "latency", key) for key in ("p50_ms", "p99_ms")]
                against = "" if name == "regild" else f"{report.ratio(runs['regild'], found, 'per_second'):.2f}"
                rows.append([title, name, f"{report.median(found, 'per_second'):.0f}", against,
                             *(f"{one:.1f}" for one in times), f"{report.median(found, 'cpu_ms'):.2f}",
                             sum(one["repeats"] for one in found)])
            ours = f"{report.median(runs['regild'], 'per_second'):.0f}/s"
            ratios = ", ".join(f"{report.ratio(runs['regild'], runs[name], 'per_second'):.2f} x {name}"
                               for name in SERVERS if name != "regild")
            summary.append((f"DHCP exchanges, {title}", "", f"{ours}; {ratios}", None))
    notes = [f"Medians of {ROUNDS} rounds, in each the servers one after another. An fdatasync of 4 KiB "
             f"takes {append_ms:.2f} ms on this disk when they are appended, {over_ms:.2f} ms when written over others.",
             "Calls of fsync and fdatasync for each exchange, one client at a time (strace): "
             + ", ".join(f"{name} {count:.2f}" for name, count in syncs.items()) + "."]
    return report.Table("DHCP", rows, notes, summary)


def measure(bench, cable, name, waiting, exchanges, more):
    process = SERVERS[name](cable, bench.directory())
    load = [bench.load, "dhcp", "--interface", "cli", "--waiting", waiting, "--exchanges", exchanges]
    # By its first answer it is known to serve; Kea opens its socket a while before that.
    cable.ask([bench.load, "dhcp", "--interface", "cli", "--waiting", 1, "--exchanges", 1, "--first", 1 << 20])
    before = process.cpu_seconds()
    found = json.loads(cable.ask(load + more))
    found["cpu_ms"] = (process.cpu_seconds() - before) * 1000 / exchanges
    process.stop()
    if found["failed"] or found["addresses"] != exchanges:
        raise SystemExit(f"{name}: {exchanges} machines asked, {found}")
    return found


def syncs_per_exchange(bench, cable, name):
    """What "on stable storage" means: how often a server syncs, in a short run of its own since strace is slow."""
    exchanges, directory = 100, bench.directory()
    process = SERVERS[name](cable, directory)
    trace = ["strace", "-f", "-qq", "-p", str(process.pid), "-e", "trace=fsync,fdatasync",
             "-o", directory / "strace"]
    strace = cable.serve([str(word) for word in trace], "strace")
    traced = f"/proc/{process.pid}/status"
    strace.wait_until(lambda: "TracerPid:\t0" not in open(traced).read(), "attached")
    time.sleep(0.3)
    cable.ask([bench.load, "dhcp", "--interface", "cli", "--waiting", 1, "--exchanges", exchanges])
    strace.stop()
    process.stop()
    return len(SYNCS.findall((directory / "strace").read_text())) / exchanges


def fdatasync_ms(directory, place, seconds=1.0):
    """What the disk under all of them takes for 4 KiB at `place`, or (None) each behind the one before. A tenth of the
    calls were faster: the slow ones tell of the neighbours."""
    times, end = [], time.monotonic() + seconds
    with open(directory / "probe", "wb") as probe:
        while time.monotonic() < end:
            os.pwrite(probe.fileno(), bytes(4096), len(times) * 4096 if place is None else place)
            began = time.monotonic()
            os.fdatasync(probe.fileno())
            times.append(time.monotonic() - began)
    return sorted(times)[len(times) // 10] * 1000
