"""Drift: a scan of a Debian's files, beside AIDE with equal coverage; cold, incremental, and a million files."""

import json
import os
import pathlib
import shutil
import subprocess
import time

import peers
import report
from regild import ROOT

ROUNDS = 5
# What tests/images/build-debian.sh has, and two more: a Debian of 20,000 files.
PACKAGES = ("systemd-sysv,systemd-resolved,dbus,udev,kmod,iproute2,ca-certificates,curl,cloud-init,openssh-server,sudo,"
            "linux-image-amd64,zstd,git,vim")
DEBIAN = ROOT / "target/bench-drift/debian"
AGENT = ROOT / "target/x86_64-unknown-linux-gnu/agent/regild-agent"
AIDE = peers.PEERS / "usr/bin/aide"
# As the agent compares: kind, permissions, owner, size, target of symlinks, extended attributes with ACLs, content.
AIDE_COVERAGE = "ftype+p+u+g+s+l+acl+xattrs"
DAY, QUARTER = 86_400, 900
MILLION = 1_000_000


def run(bench):
    root, directory = debian(), bench.directory()
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    total = sum(path.stat().st_size for path in files)
    baseline = directory / "baseline"
    subprocess.run([AGENT, "baseline", "--root", root, "--out", baseline], check=True, stdout=subprocess.DEVNULL)
    rows = [["scan, page cache warm", "seconds", "CPU s", "agent : it, time", "agent : it, CPU", "peak MB"]]
    warm = beside_aide(directory, root, baseline)
    for name, runs in warm.items():
        ours = warm["regild-agent scan --full"]
        against = ["", ""] if runs is ours else [f"{report.ratio(ours, runs, key):.3f}" for key in ("seconds", "cpu")]
        rows.append([name, f"{report.median(runs, 'seconds'):.2f}", f"{report.median(runs, 'cpu'):.2f}", *against,
                     f"{max(one['peak'] for one in runs) / 1e6:.0f}"])
    cold_ratio, cold_rows = cold(root, baseline, directory, files)
    rows += cold_rows
    incremental = day(directory, root, baseline)
    first, scans = incremental[0], incremental[1:]
    most = max(one["read"] for one in scans) / first["read"]
    rows.append(["incremental, a day of them: median", f"{report.median(scans, 'seconds'):.2f}",
                 f"{report.median(scans, 'cpu'):.2f}", "", "", f"{max(one['peak'] for one in scans) / 1e6:.0f}"])
    million = of_a_million(directory)
    for name, one in million.items():
        rows.append([name, f"{one['seconds']:.2f}", f"{one['cpu']:.2f}", "", "", f"{one['peak'] / 1e6:.0f}"])
    sha256 = warm["AIDE, sha256"]
    ours = warm["regild-agent scan --full"]
    time_ratio, cpu_ratio = (report.ratio(ours, sha256, key) for key in ("seconds", "cpu"))
    peak = max(one["peak"] for one in million.values())
    summary = [
        ("full scan, warm: time of AIDE's (sha256)", "0.15", f"{time_ratio:.3f}", time_ratio <= 0.15),
        ("full scan, warm: CPU of AIDE's (sha256)", "0.25", f"{cpu_ratio:.3f}", cpu_ratio <= 0.25),
        ("full scan, cold: time of reading once", "1.1", f"{cold_ratio:.2f}", cold_ratio <= 1.1),
        ("memory for 1,000,000 files", "50 MB", f"{peak / 1e6:.0f} MB", peak < 50e6),
        ("most that one scan of an unchanged tree reads", "2 %", f"{most:.2%}", most < 0.02),
    ]
    notes = [f"{len(files)} files, {total / 1e6:.0f} MB, of Debian 12. Medians of {ROUNDS} rounds in turn, peaks the highest "
             f"of them; ratios round by round. AIDE {AIDE_COVERAGE} and the digest named, one worker as it comes, and two; "
             "its database not compressed. The agent: static, as it goes into images, two threads.",
             f"Cold: the page cache dropped before each. A day: {len(scans)} scans, {sum(one['read'] for one in scans) / 1e6:.0f} "
             f"MB read in all, {report.median(scans, 'read') / 1e6:.1f} MB in the median one."]
    return report.Table("Drift scan", rows, notes, summary)


def debian():
    """A root directory of Debian 12 by mmdebstrap; kept, as it takes minutes."""
    if not DEBIAN.exists():
        part = DEBIAN.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        tar = part.with_suffix(".tar")
        subprocess.run(["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={PACKAGES}",
                        "--aptopt=Acquire::Retries \"3\"", "--aptopt=APT::Install-Recommends \"false\"", "bookworm", tar],
                       check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["tar", "--extract", f"--file={tar}", f"--directory={part}", "--numeric-owner", "--xattrs",
                        "--xattrs-include=*"], check=True)
        tar.unlink()
        part.rename(DEBIAN)
    return DEBIAN


def measured(command, env=None):
    """Seconds, CPU seconds, peak memory, and the last line of what a program says; what differs ends the benchmark."""
    began = time.monotonic()
    popen = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, env=env)
    said = popen.stdout.read().decode(errors="replace").splitlines()
    _, status, usage = os.wait4(popen.pid, 0)
    popen.returncode = os.waitstatus_to_exitcode(status)
    if popen.returncode not in (0, 1):
        raise SystemExit(f"{command}: exit {popen.returncode}")
    return {"seconds": time.monotonic() - began, "cpu": usage.ru_utime + usage.ru_stime,
            "peak": usage.ru_maxrss * 1024, "status": popen.returncode, "said": said[-1] if said else ""}


def scan(root, baseline, *options):
    found = measured([AGENT, "scan", "--json", "--root", root, "--baseline", baseline, *options])
    summary = json.loads(found["said"])
    # wait4 tells of this program, too, whose memory the child had before it became another program.
    return {**found, "peak": summary["peak_bytes"], "read": summary["scan"]["read_bytes"],
            "findings": summary["findings_total"]}


def read_once(root):
    """Every file through one pipe, in the order of their paths."""
    began = time.monotonic()
    subprocess.run("find . -xdev -type f -print0 | sort -z | xargs -0 cat > /dev/null", shell=True, check=True, cwd=root)
    return {"seconds": time.monotonic() - began}


def beside_aide(directory, root, baseline):
    configs = {"AIDE, sha256": ("sha256", 1), "AIDE, sha256, two workers": ("sha256", 2), "AIDE, md5": ("md5", 1)}
    configs = {name: aide_config(directory, root, *how) for name, how in configs.items()}
    for config in configs.values():
        measured([AIDE, f"--config={config}", "--init"], env=peers.ENVIRONMENT)
    runs = {"regild-agent scan --full": [], "the same, one thread": [], **{name: [] for name in configs}}
    read_once(root)
    for _ in range(ROUNDS):
        runs["regild-agent scan --full"].append(scan(root, baseline, "--full"))
        runs["the same, one thread"].append(scan(root, baseline, "--full", "--threads", "1"))
        for name, config in configs.items():
            runs[name].append(measured([AIDE, f"--config={config}", "--check"], env=peers.ENVIRONMENT))
    for name, found in runs.items():
        if any(one["status"] != 0 for one in found):
            raise SystemExit(f"{name} found differences in a tree that nobody touched")
    return runs


def aide_config(directory, root, digest, workers):
    path, database = directory / f"aide-{digest}-{workers}.conf", directory / f"aide-{digest}-{workers}.db"
    path.write_text(f"database_in=file:{database}\ndatabase_out=file:{database}\nroot_prefix={root}\ngzip_dbout=no\n"
                    f"report_url=stdout\nnum_workers={workers}\n/ {AIDE_COVERAGE}+{digest}\n")
    return path


def cold(root, baseline, directory, files):
    ours, theirs = [], []
    for _ in range(ROUNDS):
        for runs, program in ((theirs, lambda: read_once(root)), (ours, lambda: scan(root, baseline, "--full"))):
            drop_caches()
            runs.append(program())
    rows = [["cold: regild-agent scan --full", f"{report.median(ours, 'seconds'):.2f}", f"{report.median(ours, 'cpu'):.2f}", "",
             "", f"{max(one['peak'] for one in ours) / 1e6:.0f}"],
            ["cold: cat of all files", f"{report.median(theirs, 'seconds'):.2f}", "",
             f"{report.ratio(ours, theirs, 'seconds'):.3f}", "", ""]]
    return report.ratio(ours, theirs, "seconds"), rows


def drop_caches():
    os.sync()
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")


def day(directory, root, baseline):
    """The first scan, and those of a day after it."""
    state, now = directory / "state", int(time.time()) + 1000
    return [scan(root, baseline, "--state", state, "--now", str(now + QUARTER * at)) for at in range(DAY // QUARTER + 1)]


def of_a_million(directory):
    root = directory / "million"
    for at in range(MILLION):
        if at % 1000 == 0:
            branch = root / f"{at // 50_000}" / f"{at // 1000}"
            branch.mkdir(parents=True)
        os.close(os.open(branch / f"file-{at}", os.O_WRONLY | os.O_CREAT))
    empty, baseline, state = directory / "empty", directory / "million.baseline", directory / "million.state"
    empty.mkdir()
    for tree, out in ((root, baseline), (empty, directory / "empty.baseline")):
        subprocess.run([AGENT, "baseline", "--root", tree, "--out", out], check=True, stdout=subprocess.DEVNULL)
    later = int(time.time()) + 1000
    found = {"1,000,000 files, first scan": scan(root, baseline, "--state", state, "--now", str(later)),
             "1,000,000 files, incremental": scan(root, baseline, "--state", state, "--now", str(later + QUARTER)),
             "1,000,000 findings": scan(root, directory / "empty.baseline", "--state", directory / "findings.state")}
    wrong = {name: one["findings"] for name, one in found.items() if (one["findings"] > MILLION) != ("findings" in name)}
    if wrong:
        raise SystemExit(f"not what was made: {wrong}")
    return found


if __name__ == "__main__":
    raise SystemExit("run.py drift")
