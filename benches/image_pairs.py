"""The images that are measured on, and the programs beside regild, each as one measured step."""

import dataclasses
import os
import pathlib
import shutil
import subprocess
import threading
import time

from regild import BINARY, ROOT, Regild, run_measured

HERE = pathlib.Path(__file__).parent
IMAGES = ROOT / "target/bench-images"
# First, second, what differs. Built by build-images.sh.
PAIRS = [("base", "more", "four packages more"), ("old", "base", "kernel, libraries")]


@dataclasses.dataclass
class Pair:
    first: pathlib.Path
    second: pathlib.Path
    what: str
    # Of the files of the second that the first has not, by content: how many, bytes, and each through `zstd -3`.
    new_files: int
    new_bytes: int
    new_packed: int


def pairs():
    """Builds the images when they are not there: ten minutes."""
    subprocess.run([HERE / "build-images.sh", IMAGES], check=True)
    lines = [line.split() for line in (IMAGES / "NEW-FILES").read_text().splitlines()]
    new = {name: [int(number) for number in numbers] for name, *numbers in lines}
    return [Pair(IMAGES / f"{first}.raw", IMAGES / f"{second}.raw", what, *new[f"{first}-{second}"])
            for first, second, what in PAIRS]


def warm(path):
    """Into the page cache, holes not."""
    with open(path, "rb") as image:
        for start, end in extents(image):
            os.posix_fadvise(image.fileno(), start, end - start, os.POSIX_FADV_WILLNEED)
            at = start
            while at < end:
                at += len(os.pread(image.fileno(), min(1 << 20, end - at), at))


def extents(image):
    """(from, to) of each run of data of an open file."""
    size, at = os.fstat(image.fileno()).st_size, 0
    while at < size:
        try:
            start = os.lseek(image.fileno(), at, os.SEEK_DATA)
        except OSError:
            return
        at = os.lseek(image.fileno(), start, os.SEEK_HOLE)
        yield start, at


def data_bytes(path):
    """What du says: holes left out."""
    return pathlib.Path(path).stat().st_blocks * 512


def timed(command, **options):
    began = time.monotonic()
    peak, cpu = run_measured(command, **options)
    return {"seconds": time.monotonic() - began, "cpu": cpu, "peak": peak}


def settle():
    """What others wrote goes to the disk before the next one is measured, not while."""
    os.sync()


class OwnMemory:
    """The most memory that a process had of its own (not mapped files, which the page cache holds anyway and gives back when
    others need memory), as far as looking every 20 ms shows it: the kernel keeps a peak of the sum only."""

    def __init__(self, process):
        self.process, self.most = process, 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def watch(self):
        while True:
            self.most = max(self.most, self.process.memory("RssAnon"))
            if self.over.wait(0.02):
                return


class Store:
    """A regild server with an image store of its own."""

    def __init__(self, bench, cable):
        self.cable = cable
        self.directory = bench.directory() / "regild"
        self.server = Regild(cable, self.directory)
        self.baselines = 0

    def command(self, *words):
        """As `plain`, on a machine that has written what others wrote."""
        settle()
        return self.plain(*words)

    def plain(self, *words):
        """One `regild image` command; CPU is the server's and the command's, memory the server's peak so far."""
        before = self.server.process.cpu_seconds()
        with OwnMemory(self.server.process) as own:
            one = timed([BINARY, "--server", "state/regild.sock", "image", *words], cwd=self.directory)
        return {**one, "cpu": one["cpu"] + self.server.process.cpu_seconds() - before, "command_peak": one["peak"],
                "peak": self.server.process.memory("VmHWM"), "own": own.most}

    def plain_import(self, path, name):
        return self.plain("import", path, "--as", name)

    def import_image(self, path, name):
        one = self.command("import", path, "--as", name)
        shown = self.server.api("GET", f"/v1/images/{name}")
        manifest = (self.directory / "state/images/manifests" / shown["manifest"]).stat().st_size
        return {**one, "stored": shown["added_bytes"], "manifest": manifest, "data": shown["data_bytes"]}

    def quiet(self, baselines):
        """Waits until the lists of files are made: at the lowest priority, but others are measured next."""
        self.baselines += baselines
        made = lambda: sum(self.server.process.log().count(said) for said in ("baseline made", "gives no baseline"))
        self.server.process.wait_until(lambda: made() >= self.baselines, "with the baseline made", patience=600)

    def restart(self):
        """So that the peak of what comes next is its own. Nothing may be under way (`quiet`)."""
        self.server.stop()
        self.server = Regild(self.cable, self.directory)
        self.baselines = 0

    def bytes_of(self, *patterns):
        images = self.directory / "state/images"
        return sum(path.stat().st_size for pattern in patterns for path in images.glob(pattern))

    def close(self):
        self.server.stop()
        shutil.rmtree(self.directory)


def zstd(path, out):
    settle()
    one = timed(["zstd", "-3", "-T2", "-q", "-f", path, "-o", out])
    one["stored"] = out.stat().st_size
    out.unlink()
    return one


def zstd_alone(path, out):
    """`zstd -3` with one thread: what the whole file packs into."""
    one = timed(["zstd", "-3", "-q", "-f", path, "-o", out])
    one["stored"] = out.stat().st_size
    out.unlink()
    return one


def casync_make(path, directory):
    """At its default chunk size; `stored`: what the chunks of the store grew by."""
    store, index = directory / "default.castr", directory / f"{path.stem}.caibx"
    before = stored(store)
    settle()
    one = timed(["casync", "make", f"--store={store}", index, path])
    return {**one, "stored": stored(store) - before}


def casync_extract(name, directory, out):
    settle()
    one = timed(["casync", "extract", f"--store={directory / 'default.castr'}", directory / f"{name}.caibx", out])
    return one


def stored(store):
    return sum(path.stat().st_size for path in store.rglob("*.cacnk")) if store.exists() else 0


def same(one, other):
    subprocess.run(["cmp", one, other], check=True)
    pathlib.Path(other).unlink()
