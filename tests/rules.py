#!/usr/bin/env python3
"""Takes each rule of tests/rules.toml out, one after the other, and expects its test to fail.

    tests/rules.py [WORD]     only rules whose id or sentence has WORD in it

Works on a copy under target/rules, with a target directory of its own: the tree is never changed.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
COPY = ROOT / "target" / "rules" / "tree"


def copy_tree():
    """The files that git knows or would take, with their times, so that cargo builds only what changed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True
    ).stdout
    wanted = {name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()}
    for name in wanted:
        source, copy = ROOT / name, COPY / name
        if not copy.exists() or copy.read_bytes() != source.read_bytes():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
            shutil.copymode(source, copy)
    for path in COPY.rglob("*"):
        if path.is_file() and str(path.relative_to(COPY)) not in wanted:
            path.unlink()


def cargo(arguments):
    # Incremental, whatever the caller's environment says: each rule changes one file.
    environment = os.environ | {"CARGO_TARGET_DIR": str(ROOT / "target" / "rules" / "build"), "CARGO_INCREMENTAL": "1"}
    command = ["cargo", "test", "--quiet", *arguments]
    done = subprocess.run(command, cwd=COPY, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def without(rule):
    """What the tests say when this rule is gone: `None` when that is as it should be, else the complaint."""
    path = COPY / rule["file"]
    before = path.read_text()
    if before.count(rule["find"]) != 1:
        return f"{rule['file']} has the text of `find` {before.count(rule['find'])} times"
    path.write_text(before.replace(rule["find"], rule["replace"]) + rule.get("also", ""))
    try:
        status, said = cargo(rule["test"])
    finally:
        path.write_text(before)
    if status == 0:
        return "NOBODY NOTICED"
    # A change that does not compile proves nothing.
    return None if "test result: FAILED" in said else "the change does not build:\n" + said[-2000:]


def main():
    rules = tomllib.loads((ROOT / "tests" / "rules.toml").read_text())["rule"]
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    rules = [rule for rule in rules if word in rule["id"] or word in rule["says"]]
    copy_tree()
    tests = {tuple(rule["test"]) for rule in rules}
    for test in sorted(tests):
        status, said = cargo(list(test))
        if status != 0 or not re.search(r"[1-9]\d* passed", said):
            sys.exit(f"with every rule in place, cargo test {' '.join(test)} does not pass, or runs nothing:\n{said[-3000:]}")
    missed = 0
    for rule in rules:
        began = time.monotonic()
        complaint = without(rule)
        missed += complaint is not None
        print(f"{rule['id']:12} {time.monotonic() - began:4.0f} s  {rule['says']}: {complaint or 'noticed'}", flush=True)
    if missed:
        sys.exit(f"{missed} of {len(rules)} rules could be taken out unnoticed")
    print(f"all {len(rules)} rules are held by a test that fails without them")


if __name__ == "__main__":
    main()
