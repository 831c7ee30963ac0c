"""The installed agent's service while a package upgrade runs: processor time and memory, on a Debian of its own.

dpkg itself unpacks, so that the files come as they do on a host: written beside, synced, renamed, their modes set. The
server is a few lines here; what it costs is measured by another bench.
"""

import http.server
import json
import pathlib
import re
import subprocess
import threading
import time

import report
from drift import AGENT, debian
from regild import ROOT

DEBS = ROOT / "target/bench-drift/debs"
# Some are in the tree and come again, some are new. 110 MB to download, 650 MB unpacked.
PACKAGES = ["linux-image-amd64", "linux-image-cloud-amd64", "git", "vim-runtime", "cloud-init", "libpython3.11-stdlib",
            "coreutils", "systemd", "libc6", "gcc-12", "cpp-12", "perl-modules-5.36", "locales", "python3-jinja2"]
# A host on which an upgrade runs: it takes a part of these minutes.
WINDOW_SECONDS, QUIET_SECONDS = 300, 120
# Between two packages apt configures what it unpacked, runs triggers, asks.
PACKAGE_PAUSE_SECONDS = 2
RULES = [{"pattern": pattern, "action": "allow"} for pattern in
         ("/var/log/**", "/var/lib/dpkg/**", "/var/cache/**", "/tmp/**", "/lost+found/**", "/var/lib")]


def run(bench):
    packages = debs()
    directory = bench.directory()
    disk, mount = directory / "disk", directory / "mnt"
    mount.mkdir()
    subprocess.run(["truncate", "-s", "4G", disk], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-F", disk], check=True)
    subprocess.run(["mount", "-o", "loop", disk, mount], check=True)
    service = None
    try:
        root = mount / "root"
        subprocess.run(["cp", "-a", f"{debian()}/.", root], check=True)
        baseline = directory / "baseline"
        said = subprocess.run([AGENT, "baseline", "--root", root, "--out", baseline], check=True, capture_output=True, text=True)
        server = Server(baseline.read_bytes(), re.search(r"\b[0-9a-f]{64}\b", said.stdout).group())
        service = Service(server, root)
        server.wait(lambda: server.reports)
        first = service.figures("the first look, all content", 0)
        quiet = service.during("quiet, a log line each 0.1 s", QUIET_SECONDS, lambda until: write_log(root, until))
        busy = service.during("an upgrade", WINDOW_SECONDS, lambda until: upgrade(root, packages, until))
        last = server.reports[-1]
        rules = directory / "rules"
        # The service's own directory, which it leaves out by itself.
        rules.write_text(json.dumps(RULES + [{"pattern": "/var/lib/regild-agent/**", "action": "allow"}]))
        found = subprocess.run([AGENT, "scan", "--root", root, "--baseline", baseline, "--rules", rules, "--full", "--json"],
                               capture_output=True, text=True, check=False)
        total = sum(1 for line in found.stdout.splitlines() if "finding" in json.loads(line))
    finally:
        if service:
            service.stop()
        subprocess.run(["umount", "--lazy", mount], check=False)
    rows = [["phase", "seconds", "CPU s", "of one core", "peak MB", "reports", "looks at everything"]]
    for one in (first, quiet, busy):
        share = f"{one['cpu'] / one['seconds']:.2%}" if one["seconds"] else ""
        rows.append([one["what"], f"{one['seconds']:.0f}", f"{one['cpu']:.2f}", share, f"{one['peak'] / 1e6:.1f}", one["reports"],
                     one["scans"]])
    notes = [f"Static agent; {len(packages)} packages, {sum(path.stat().st_size for path in packages) / 1e6:.0f} MB, unpacked by dpkg "
             f"in {busy['work']:.0f} of {WINDOW_SECONDS} s; {server.findings_total()} findings in the end, a full scan finds {total}; "
             f"{last['scan']['overflows']} times changes were too many to be kept, and everything was looked at."]
    share = busy["cpu"] / busy["seconds"]
    summary = [("watcher while an upgrade runs", "1 % of one core", f"{share:.2%}", share < 0.01),
               ("findings after it, of those of a full scan", "all", f"{server.findings_total()} of {total}",
                server.findings_total() == total),
               ("watcher's memory, peak", "30 MB", f"{busy['peak'] / 1e6:.1f} MB", busy["peak"] < 30e6)]
    return report.Table("Drift watch", rows, notes, summary)


def debs():
    """The packages, downloaded once with the machine's own apt."""
    if not DEBS.exists():
        part = DEBS.with_suffix(".part")
        part.mkdir(parents=True, exist_ok=True)
        for package in PACKAGES:
            # A metapackage of kernels stands for the newest one.
            depends = subprocess.run(["apt-cache", "depends", package], capture_output=True, text=True, check=True).stdout
            name = re.search(r"Depends: (linux-image-\d\S*)", depends) if package.startswith("linux-image") else None
            subprocess.run(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", name.group(1) if name else package],
                           cwd=part, check=True)
        part.rename(DEBS)
    return sorted(DEBS.glob("*.deb"))


def upgrade(root, packages, until):
    for package in packages:
        if time.monotonic() > until:
            raise SystemExit("the upgrade did not end within its window: a faster machine, or a longer window")
        # Scripts of packages want a running system; unpacking is what writes.
        subprocess.run(["dpkg", f"--root={root}", "--force-all", "--unpack", package], check=False, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        time.sleep(PACKAGE_PAUSE_SECONDS)


def write_log(root, until):
    with open(root / "var/log/bench", "a") as log:
        while time.monotonic() < until:
            # Opened and closed, as by a logger that keeps nothing open: the dearest way for a watcher.
            with open(root / "var/log/other", "a") as other:
                other.write("line\n")
            log.write("line\n")
            log.flush()
            time.sleep(0.1)


class Service:
    def __init__(self, server, root):
        self.server, self.state = server, root / "var/lib/regild-agent"
        command = [AGENT, "watch", "--server", server.url, "--root", root, "--state-dir", self.state]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def cpu(self):
        # Of the whole process; behind the name, which may hold spaces.
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def peak(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) * 1024

    def figures(self, what, seconds, cpu_before=0.0, reports_before=0):
        looks = {(one["scan"]["number"]) for one in self.server.reports}
        return {"what": what, "seconds": seconds, "cpu": self.cpu() - cpu_before, "peak": self.peak(),
                "reports": len(self.server.reports) - reports_before, "scans": max(looks, default=0)}

    def during(self, what, seconds, work):
        before, reports, began = self.cpu(), len(self.server.reports), time.monotonic()
        work(began + seconds)
        worked = time.monotonic() - began
        time.sleep(max(0, began + seconds - time.monotonic()))
        figures = self.figures(what, time.monotonic() - began, before, reports)
        figures["work"] = worked
        return figures

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Server:
    """Terms, key, reports and the baseline; believes everything."""

    def __init__(self, baseline, digest):
        self.reports, self.key, self.digest = [], None, digest
        bench = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.answer(baseline if "/baselines/" in self.path else json.dumps(bench.terms()).encode())

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path.endswith("/key"):
                    bench.key = body["public_key"]
                else:
                    bench.reports.append(json.loads(body["payload"]))
                self.answer(json.dumps({"sequence": bench.sequence()}).encode())

            def answer(self, body):
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}"

    def sequence(self):
        return self.reports[-1]["sequence"] if self.reports else 0

    def terms(self):
        return {"host": "bench", "generation": 1, "image": "debian:12", "manifest": "", "baseline": self.digest, "key": self.key,
                "sequence": self.sequence(), "policy": "", "rules": RULES, "scan_seconds": 3600, "cycle_seconds": 86400,
                "report_seconds": 60}

    def findings_total(self):
        return self.reports[-1]["findings_total"]

    def wait(self, is_so):
        deadline = time.monotonic() + 300
        while not is_so():
            if time.monotonic() > deadline:
                raise SystemExit("the agent did not report within 5 minutes")
            time.sleep(0.1)
