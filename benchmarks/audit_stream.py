"""Audit of a file larger than memory: ``nice python -m benchmarks.audit_stream [SCORES]``.

Writes Parquet files of two tasks (float32) and reads each in a process of its own, which reports its peak
resident memory, the file's pages that the system maps into it included. The file is removed afterwards; it
takes 4 bytes a score.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.machine import machine

READ = """
import json, resource, sys, time
from relif_core.audit.streaming import sketch_file
started, used = time.perf_counter(), time.process_time()
found = sketch_file(sys.argv[1], ["a", "b"]).audit(0.275)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
seconds = [time.perf_counter() - started, time.process_time() - used]
print(json.dumps([*seconds, peak, found.bias, *found.bias_range]))
"""
CHUNK = 1 << 20


def write(path: Path, rows: int) -> None:
    """Write uniform scores for task a and their squares' law for task b, a chunk at a time."""
    import pyarrow
    import pyarrow.parquet

    generator = np.random.default_rng(0)
    schema = pyarrow.schema([("a", pyarrow.float32()), ("b", pyarrow.float32())])
    with pyarrow.parquet.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for start in range(0, rows, CHUNK):
            size = min(CHUNK, rows - start)
            columns = {
                "a": generator.random(size, dtype=np.float32),
                "b": generator.random(size, dtype=np.float32) ** 2,
            }
            writer.write_table(pyarrow.table(columns, schema=schema))


def main() -> None:
    """Print the table and write it beside this script's other results."""
    scores = int(float(sys.argv[1])) if len(sys.argv) > 1 else 10**9
    lines = [
        "| scores | file, GiB | wall, s | processor, s | peak memory, GiB | Bias | proven range |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores.parquet"
        for size in (scores // 100, scores // 10, scores):
            write(path, size // 2)
            answer = subprocess.run(
                [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True
            )
            wall, used, peak, bias, low, high = json.loads(answer.stdout)
            lines.append(
                f"| {size:,} | {path.stat().st_size / 2**30:.2f} | {wall:.1f} | {used:.1f} | {peak:.2f} |"
                f" {bias:.6f} | {low:.6f} to {high:.6f} |"
            )
            print(lines[-1], flush=True)
    text = (
        "# Audit of files larger than memory\n\nMade by `nice python -m benchmarks.audit_stream`: one Parquet"
        " file, two tasks, 4,096 bins, δ = 0.275.\n\n" + "\n".join(lines) + f"\n\n{machine()}.\n"
    )
    (Path(__file__).parent / "results" / "audit_stream.md").write_text(text)


if __name__ == "__main__":
    main()
