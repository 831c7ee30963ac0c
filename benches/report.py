"""Tables of results, and what they were measured on."""

import dataclasses
import datetime
import os
import pathlib
import platform
import statistics


@dataclasses.dataclass
class Table:
    """Rows of text; the first row is the head."""
    title: str
    rows: list
    notes: list = dataclasses.field(default_factory=list)
    # What the whole comes to, for the summary: (figure, target or "", measured, met or None).
    summary: list = dataclasses.field(default_factory=list)

    def text(self):
        return "\n".join([f"### {self.title}", "", markdown(self.rows), ""] + [f"{note}" for note in self.notes] + [""])


def markdown(rows):
    """A Markdown table that reads well as plain text, too."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    line = lambda row: "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |"
    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return "\n".join([line(rows[0]), rule] + [line(row) for row in rows[1:]])


def median(runs, *keys):
    """The median of one figure over the repetitions."""
    return statistics.median(value(run, keys) for run in runs)


def ratio(ours, theirs, *keys):
    """Ours to theirs, repetition by repetition, so that both halves of each had the same neighbours; the median."""
    return statistics.median(value(our, keys) / value(their, keys) for our, their in zip(ours, theirs))


def value(run, keys):
    for key in keys:
        run = run[key]
    return run


def load():
    return f"{os.getloadavg()[0]:.1f}"


def machine():
    cpu = next((line.split(":")[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), "unknown CPU")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (f"{os.cpu_count()} cores of {cpu}, {memory:.0f} GiB, Linux {platform.release()}, {now}, "
            f"load average {load()}")
