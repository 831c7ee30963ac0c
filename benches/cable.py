"""Two network namespaces with a cable between them, and programs inside that cannot outlive the benchmark.

    server 10.90.0.1/16 ---- srv ======== cli ---- 10.90.0.2/16 client

The namespaces have no names and no files: each is held by one sleeping process of ours, and every process here is
killed by the kernel when the benchmark ends, however it ends (PR_SET_PDEATHSIG).
"""

import ctypes
import itertools
import os
import pathlib
import signal
import subprocess
import time

SERVER_IP, CLIENT_IP = "10.90.0.1", "10.90.0.2"
SERVER_LINK, CLIENT_LINK = "srv", "cli"
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
LIBC = ctypes.CDLL(None)
NUMBERS = itertools.count()


def die_with_us():
    LIBC.prctl(1, signal.SIGKILL)


class Process:
    """A program with a log, in a control group of its own: a TFTP daemon that forks for each transfer and ignores how
    its children end would otherwise seem to use no CPU."""

    def __init__(self, command, log, **options):
        self.log_path = pathlib.Path(log)
        self.group = control_group()

        def prepare():
            die_with_us()
            if self.group:
                (self.group / "cgroup.procs").write_text("0")

        with open(log, "ab") as out:
            self.popen = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=out,
                                          stderr=subprocess.STDOUT, preexec_fn=prepare, **options)
        self.pid = self.popen.pid

    def log(self):
        return self.log_path.read_text(errors="replace")

    def wait_until(self, condition, what, patience=20.0):
        end = time.monotonic() + patience
        while not condition():
            if self.popen.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{self.log_path.name}: not {what}; its log ends:\n{self.log()[-2000:]}")
            time.sleep(0.01)

    def cpu_seconds(self):
        if self.group:
            stat = dict(line.split() for line in (self.group / "cpu.stat").read_text().splitlines())
            return int(stat["usage_usec"]) / 1e6
        # No version 2 control groups to write to: then of this process and the children that it waited for
        # (proc_pid_stat(5), fields 14 to 17).
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(field) for field in fields[11:15]) / TICKS_A_SECOND

    def memory(self, field):
        """VmRSS or VmHWM in bytes."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(field + ":"))

    def stop(self):
        self.popen.terminate()
        try:
            self.popen.wait(10)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        if self.group:
            remove_group(self.group)


def control_group():
    mounts = [line.split() for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
    root = next((mount[1] for mount in mounts if mount[2] == "cgroup2"), None)
    if root is None:
        return None
    group = pathlib.Path(root) / f"regild-bench-{os.getpid()}-{next(NUMBERS)}"
    try:
        group.mkdir()
    except OSError:
        return None
    return group


def remove_group(group, patience=5.0):
    """The kernel lets it go once its last process is gone; a daemon's children may still be ending."""
    end = time.monotonic() + patience
    while True:
        try:
            return group.rmdir()
        except OSError:
            if time.monotonic() > end:
                return None
            time.sleep(0.02)


class Cable:
    """The two namespaces; use it as a context."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.holders = []

    def __enter__(self):
        server, client = (self._namespace(name) for name in ("server", "client"))
        self.server, self.client = ([["nsenter", f"--net=/proc/{holder.pid}/ns/net", "--"]
                                     for holder in (server, client)])
        ip = lambda inside, words: subprocess.run(inside + ["ip"] + words.split(), check=True)
        ip(self.server, f"link add {SERVER_LINK} type veth peer name {CLIENT_LINK} netns {client.pid}")
        for inside, link, address in ((self.server, SERVER_LINK, SERVER_IP), (self.client, CLIENT_LINK, CLIENT_IP)):
            ip(inside, "link set lo up")
            ip(inside, f"address add {address}/16 dev {link}")
            ip(inside, f"link set {link} up")
            # Linux's and Debian's default, also where the machine that measures has another: bbr paces by timers, and then
            # a server's figures say how its wakings fall together with those.
            ip(inside, f"route change 10.90.0.0/16 dev {link} proto kernel scope link src {address} congctl lock cubic")
        is_up = lambda: "state UP" in subprocess.run(self.client + ["ip", "link", "show", CLIENT_LINK], check=True,
                                                     capture_output=True, text=True).stdout
        client.wait_until(is_up, "up")
        return self

    def __exit__(self, *_):
        for holder in self.holders:
            holder.stop()

    def _namespace(self, name):
        holder = Process(["unshare", "--net", "sleep", "3600"], self.directory / f"{name}.namespace.log")
        ours = os.readlink("/proc/self/ns/net")
        holder.wait_until(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != ours, "in a namespace of its own")
        self.holders.append(holder)
        return holder

    def serve(self, command, name, **options):
        """Starts a server at the server's end."""
        return Process(self.server + list(command), self.directory / f"{name}.log", **options)

    def ask(self, command, seconds=180):
        """Runs a client to its end, and gives what it printed."""
        command = self.client + [str(word) for word in command]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, preexec_fn=die_with_us)
        except subprocess.TimeoutExpired:
            raise SystemExit(f"{' '.join(command)}: not done in {seconds} s") from None
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)}: {done.stderr or done.stdout}")
        return done.stdout
