"""Raw MIMIC-III demo to tensors of four tasks, start of the process included.

    python benchmarks/mimic3_demo_time.py --source $RELIF_DATA/mimic3_demo

The public benchmark takes about 55 s at best (extract, validate, episodes, tasks, discretise).
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from relif_core.files import atomic_file

RESULTS = Path(__file__).parent / "results" / "mimic3_demo_time.csv"
PUBLIC_SECONDS = 55
PROGRAM = "import sys; from relif_data import prepare; prepare('mimic3', sys.argv[1], sys.argv[2])"


def main() -> None:
    """Time the runs and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    wall, processor = [], []
    for number in range(arguments.runs):
        with tempfile.TemporaryDirectory() as folder:
            before, used = time.perf_counter(), os.times()
            command = [sys.executable, "-c", PROGRAM, str(arguments.source), str(Path(folder) / "tensors")]
            subprocess.run(command, check=True)
            after = os.times()
            wall.append(time.perf_counter() - before)
            processor.append(
                after.children_user + after.children_system - used.children_user - used.children_system
            )
            print(f"run {number}: {wall[-1]:.2f} s, {processor[-1]:.2f} s of processor time", flush=True)
    place = f'"{platform.machine()}, {os.cpu_count()} cores"'
    lines = ["quantity,fastest,median,slowest,runs,times_faster_than_public_at_median,machine"]
    for name, seconds in (("wall seconds", wall), ("processor seconds", processor)):
        middle = statistics.median(seconds)
        lines.append(
            f"{name},{min(seconds):.2f},{middle:.2f},{max(seconds):.2f},{len(seconds)},"
            f"{PUBLIC_SECONDS / middle:.0f},{place}"
        )
    with atomic_file(RESULTS) as stream:
        stream.write("\n".join(lines).encode() + b"\n")


if __name__ == "__main__":
    main()
