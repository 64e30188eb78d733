"""Train on disks of every size up to one that suffices, and see what a full disk leaves. Linux; needs user namespaces.

    unshare --user --map-root-user --mount python benchmarks/disk_full.py --step 16

The run's folder is a tmpfs of so many kB, each disk `--step` larger than the one before, so that every kind of write is
the one that fails once. Then the disk gets room, and the run is resumed (started anew where it has no checkpoint): its
weights must be those of the run that always had room.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import datasets
import kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--step", type=int, default=16, help="kB")
    parser.add_argument("--first", type=int, default=8, help="kB")
    parser.add_argument("--scenario", default="accumulation", choices=kills.SCENARIOS)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    phase, said, sizes, resumed, anew = kills.Phase(), Counter[str](), 0, 0, 0
    phase.watch()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        datasets.config.HF_DATASETS_CACHE = folder / "cache"
        os.waitpid(kills.forked(lambda: kills.make_base(folder / "base"), folder / "base.log"), 0)
        one = kills.Killing(options.scenario, folder / "base", folder / "work", phase, random.Random(0))
        size, code = options.first, 1
        while code:
            runs = Path(f"disk-{size}")
            (one.folder / runs).mkdir()
            disk = ["mount", "-t", "tmpfs", "-o"]
            subprocess.run([*disk, f"size={size}k", "tmpfs", one.folder / runs], check=True)
            log = one.folder / f"{runs}.log"
            _, status = os.waitpid(one.start(runs, resume=False), 0)
            code = os.waitstatus_to_exitcode(status)
            one.check_checkpoints(runs)
            last = log.read_text().splitlines()
            if code:
                error = next(line for line in reversed(last) if line.startswith(("GptftError", "UserError")))
                if "could not be written" not in error or "are free there" not in error:
                    raise SystemExit(f"{size} kB: {error}")
                place = error.split(" could not be written")[0].split("/")[-1].split(": ")[-1]
                said[place] += 1
                if any((run.folder / "model").exists() and run.manifest["state"] != "failed" for run in one.runs(runs)):
                    raise SystemExit(f"{size} kB: a model without a word about it")
                subprocess.run([*disk, "remount,size=100m", one.folder / runs], check=True)
                resume = any(run.checkpoint() for run in one.runs(runs))
                resumed, anew = resumed + resume, anew + (not resume)
                run = one.finish(runs, resume)[-1]
                if kills.digest(run) != one.whole:
                    raise SystemExit(f"{size} kB: other weights")
            subprocess.run(["umount", one.folder / runs], check=True)
            size, sizes = size + options.step, sizes + 1
    result = {"disks": sizes, "resumed": resumed, "started_anew": anew, "refused_at": dict(said), "enough_kB": size}
    print(json.dumps(result, indent=2))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
