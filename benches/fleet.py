"""A large fleet: the scheduler's tick, `host list` and `host show`, memory and start, with 1,000, 10,000 and 100,000
hosts on record.

The hosts went through their first rebuild in a registry of ours (benches/fleet.rs says how), so each has a lease, labels,
a group, an inventory, the image that it reports, and its lines of history. The stores are kept in target/fleet.
"""

import datetime
import hashlib
import json
import re
import shutil
import statistics
import subprocess
import sys
import time

import report
from regild import BINARY, BOOT_ASSETS, CONFIG, ROOT, Regild, UnixConnection, built, run_measured

HOSTS = [1_000, 10_000, 100_000]
STORES = ROOT / "target/fleet"
# Of 20 hosts one is in the group that comes due at once: 5,000 of 100,000.
DUE_PART = 20
STARTS, LISTS, SHOWS, QUIET_TICKS = 5, 5, 50, 20
# 131,000 addresses.
FLEET_CONFIG = CONFIG.replace("10.90.0.1/16", "10.90.0.1/14").replace("10.90.16.0-10.90.255.250",
                                                                      "10.88.0.1-10.89.255.254")
# The least that a group may wait between two rebuilds: hosts that were built a moment ago are not due.
PAUSE_SECONDS = 600
TICK = re.compile(r" tick asks=(\d+) late=(\d+) found_micros=(\d+) done_micros=(\d+)")


def run(bench):
    found = {}
    with bench.cable() as cable:
        stores = {hosts: store(cable, hosts) for hosts in HOSTS}
        for hosts, kept in stores.items():
            directory = bench.directory() / "regild"
            shutil.copytree(kept, directory)
            found[hosts] = measure(cable, directory, hosts)
            print(f"bench: {hosts} hosts, load average {report.load()}: {found[hosts]}", file=sys.stderr, flush=True)
            shutil.rmtree(directory)
    return table(found)


def store(cable, hosts):
    """The directory of a server with so many hosts; made when it is not there, or was made by another program."""
    made_by = (ROOT / "benches/fleet.rs").read_bytes() + FLEET_CONFIG.encode()
    kept = STORES / f"{hosts}-{hashlib.sha256(made_by).hexdigest()[:12]}"
    if not kept.exists():
        began = time.monotonic()
        making = STORES / "making"
        shutil.rmtree(making, ignore_errors=True)
        server = Regild(cable, making, FLEET_CONFIG)
        for version in ("v1", "v2"):
            server.import_image(ROOT / f"target/lab/tiny-{version}.raw", f"tiny:{version}")
        manifest = next(image["manifest"] for image in server.api("GET", "/v1/images") if image["image"] == "tiny:v1")
        server.stop()
        command = [built("fleet"), "--config", "regild.toml", "--hosts", hosts, "--due", hosts // DUE_PART,
                   "--image", "tiny:v1", "--manifest", manifest]
        run_measured(command, cwd=making)
        making.rename(kept)
        print(f"bench: made a store of {hosts} hosts in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return kept


def measure(cable, directory, hosts):
    starts, memory = [], []
    for _ in range(STARTS):
        began = time.monotonic()
        server = Regild(cable, directory, FLEET_CONFIG, "info,regild::scheduler=debug")
        starts.append(time.monotonic() - began)
        time.sleep(3)
        memory.append([server.process.memory(field) for field in ("VmRSS", "RssAnon", "VmHWM")])
        if len(starts) < STARTS:
            server.stop()
    quiet = ticks(server, QUIET_TICKS)
    lists = [ask(directory, "list", hosts) for _ in range(LISTS)]
    name = f"node-{hosts // 2:06}.dc1"
    shows = [ask(directory, name) for _ in range(SHOWS)]
    found = {
        "start": starts, "memory": memory, "quiet": quiet, "list": lists, "show": shows,
        "list, request": [requested(server, "/v1/hosts") for _ in range(LISTS)],
        "show, request": [requested(server, f"/v1/hosts/{name}") for _ in range(SHOWS)],
        "command": [timed([BINARY, "--version"])[0] for _ in range(SHOWS)],
        "memory after": server.process.memory("VmRSS"),
        "store": sum(path.stat().st_size for path in (directory / "state/store").rglob("*") if path.is_file()),
    }
    found |= come_due(server, directory, hosts)
    found["memory at the end"] = server.process.memory("VmRSS")
    server.stop()
    return found


def ask(directory, what, hosts=None):
    """Seconds that `regild host list` or `host show` takes, from its start to its end."""
    verb = ["list"] if what == "list" else ["show", what]
    seconds, said = timed([BINARY, "--server", "state/regild.sock", "host", *verb, "-o", "json"], cwd=directory)
    answer = json.loads(said)
    if hosts is not None and len({host["id"] for host in answer}) != hosts:
        raise SystemExit(f"host list: {len(answer)} of {hosts} hosts")
    for host in answer if hosts is not None else [answer]:
        if host["reported"] != "tiny:v1" or len(host["disks"]) != 4 or len(host["labels"]) != 4:
            raise SystemExit(f"this host is not as it was made: {host}")
    return seconds


def timed(command, **options):
    began = time.monotonic()
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, check=True, **options)
    return time.monotonic() - began, done.stdout


def requested(server, path):
    """Seconds of the bare request, on a connection of its own as the command has it."""
    began = time.monotonic()
    connection = UnixConnection(server.directory / "state/regild.sock")
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    if answer.status != 200:
        raise SystemExit(f"{path}: {answer.status}")
    return time.monotonic() - began


def ticks(server, count, patience=60):
    """The next ticks of the server's scheduler, as it logs them."""
    seen = len(server.process.log())
    found = []
    server.process.wait_until(lambda: len(found := TICK.findall(server.process.log()[seen:])) >= count, "ticking",
                              patience)
    found = TICK.findall(server.process.log()[seen:])
    return [{"asks": int(asks), "found_ms": int(found) / 1e3, "done_ms": int(done) / 1e3}
            for asks, _, found, done in found]


def come_due(server, directory, hosts):
    """Lets the hosts of the group `due` come due at the next full minute."""
    due = hosts // DUE_PART
    built_at = max(host["built_at"] for host in server.api("GET", "/v1/hosts") if host["group"] == "due")
    time.sleep(max(0, built_at + PAUSE_SECONDS + 1 - time.time()))
    while time.time() % 60 > 50:
        time.sleep(1)
    at = time.gmtime(time.time() + 60)
    (directory / "due.toml").write_text(f'[group.due.schedule]\nrebuild = ["{at.tm_min} {at.tm_hour} * * *"]\n'
                                        'pause = "10m"\n')
    seen = len(server.process.log())
    timed([BINARY, "--server", "state/regild.sock", "apply", "--loosen", "-f", "due.toml"], cwd=directory)

    def asked():
        return sum(int(asks) for asks, *_ in TICK.findall(server.process.log()[seen:]))

    server.process.wait_until(lambda: asked() >= due, "asking", 120)
    waiting = ticks(server, 5)
    log = server.process.log()[seen:]
    due_ticks = [{"asks": int(asks), "found_ms": int(found) / 1e3, "done_ms": int(done) / 1e3}
                 for asks, _, found, done in TICK.findall(log) if int(asks)]
    causes = [cause for host in server.api("GET", "/v1/hosts") for cause in host["asks"] or (host["order"] or {}).get("causes", [])]
    if asked() != due or len(causes) != due:
        raise SystemExit(f"{due} hosts came due, {asked()} were asked, {len(causes)} say so")
    stamp = lambda line: line.split(" ", 1)[0]
    lines = [line for line in log.splitlines() if (match := TICK.search(line)) and int(match[1])]
    return {"due": due_ticks, "waiting": waiting, "due lines": [stamp(line) for line in (lines[0], lines[-1])]}


def table(found):
    """Medians, and in brackets the worst; the targets are those of the largest fleet."""
    def milliseconds(values):
        return f"{statistics.median(values) * 1e3:.1f} ms ({max(values) * 1e3:.1f})"

    def tick(ticks):
        # Both are counted from the beginning of the tick.
        return milliseconds([one["done_ms"] / 1e3 for one in ticks])

    def span(lines):
        first, last = (datetime.datetime.fromisoformat(line) for line in lines)
        return (last - first).total_seconds()

    figures = [
        ("tick, nothing due", "50 ms", lambda one: tick(one["quiet"])),
        ("tick in which hosts come due (at most 500 are asked in one)", "500 ms", lambda one: tick(one["due"])),
        ("hosts that came due, ticks until all had asked",  "",
         lambda one: f"{sum(tick['asks'] for tick in one['due'])}, {len(one['due'])} ({span(one['due lines']):.0f} s)"),
        ("tick while they wait for the brakes", "", lambda one: tick(one["waiting"])),
        ("`host list -o json`", "1 s", lambda one: milliseconds(one["list"])),
        ("of it the request", "", lambda one: milliseconds(one["list, request"])),
        ("`host show`", "5 ms", lambda one: milliseconds(one["show"])),
        ("of it the request", "", lambda one: milliseconds(one["show, request"])),
        ("a command that asks nothing (`--version`)", "", lambda one: milliseconds(one["command"])),
        ("start to serving", "3 s", lambda one: milliseconds(one["start"])),
        ("resident memory after the start", "400 MB",
         lambda one: f"{statistics.median(memory[0] for memory in one['memory']) / 1e6:.0f} MB"),
        ("at its highest while it started", "",
         lambda one: f"{statistics.median(memory[2] for memory in one['memory']) / 1e6:.0f} MB"),
        ("resident memory at the end, after lists and orders", "400 MB",
         lambda one: f"{one['memory at the end'] / 1e6:.0f} MB"),
        ("store on disk", "", lambda one: f"{one['store'] / 1e6:.0f} MB"),
    ]
    rows = [["figure", "target", *(f"{hosts:,} hosts" for hosts in found)]]
    rows += [[name, target, *(figure(one) for one in found.values())] for name, target, figure in figures]
    return report.Table("Fleet", rows, ["Medians, in brackets the worst."])
