"""`regild serve`: memory when idle, and start to serving, with no hosts, 1,000 and 10,000 on record.

The hosts come the way that hosts come: each asks by DHCP as a UEFI ROM, gets a lease and a record, and is then approved
for an image through the operator API. So each has a lease, a record with an open order, and its lines of history.
"""

import concurrent.futures
import statistics
import time

import report
from regild import ROOT, Regild

HOSTS = [0, 1000, 10000]
STARTS = 5
MEMORY_TARGET, START_TARGET_SECONDS = 30e6, 1.0


def run(bench):
    rows = [["hosts on record", "idle MB", "of it not file-backed MB", "start to serving s", "store MB",
             "MB after making them"]]
    summary = []
    with bench.cable() as cable:
        for hosts in HOSTS:
            directory = bench.directory() / "regild"
            worked = fill(bench, cable, directory, hosts)
            starts, idle = [], []
            for _ in range(STARTS):
                began = time.monotonic()
                server = Regild(cable, directory)
                starts.append(time.monotonic() - began)
                time.sleep(1)
                idle.append([server.process.memory(field) for field in ("VmRSS", "RssAnon")])
                found = len(server.api("GET", "/v1/hosts"))
                server.stop()
                if found != hosts:
                    raise SystemExit(f"{found} hosts after the start, {hosts} were on record")
            seconds = statistics.median(starts)
            memory, anonymous = (statistics.median(one) for one in zip(*idle))
            store = sum(path.stat().st_size for path in (directory / "state/store").rglob("*") if path.is_file())
            rows.append([hosts, f"{memory / 1e6:.1f}", f"{anonymous / 1e6:.1f}", f"{seconds:.2f}", f"{store / 1e6:.1f}",
                         f"{worked / 1e6:.1f}"])
            if hosts <= 1000:
                summary.append((f"idle memory, {hosts} hosts", "30 MB", f"{memory / 1e6:.1f} MB", memory < MEMORY_TARGET))
            if hosts == 1000:
                summary.append(("start to serving, 1000 hosts", "1 s", f"{seconds:.2f} s", seconds < START_TARGET_SECONDS))
    notes = [f"Medians of {STARTS} starts. The start checks the digest of every boot asset (most of the time with no hosts)."]
    return report.Table("regild serve", rows, notes, summary)


def fill(bench, cable, directory, hosts):
    """Gives the memory that the server has after it."""
    server = Regild(cable, directory)
    if hosts:
        server.import_image(ROOT / "target/lab/tiny-v1.raw", "tiny:v1")
        cable.ask([bench.load, "dhcp", "--interface", "cli", "--waiting", 50, "--exchanges", hosts, "--netboot"])
        approval = {"image": "tiny:v1", "by": "bench", "release_disk": False}
        approve = lambda host: server.api("POST", f"/v1/hosts/{host['id']}/approve", approval)
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            states = [host["state"] for host in pool.map(approve, server.api("GET", "/v1/hosts"))]
        if states != ["queued"] * hosts:
            raise SystemExit(f"{hosts} hosts were approved, {states.count('queued')} are queued")
        time.sleep(1)
    memory = server.process.memory("VmRSS")
    server.stop()
    return memory
