"""Which engine reads CHARTEVENTS best: the scan that preparation needs, alone, by Polars, DuckDB and PyArrow.

    python benchmarks/mimic3_engines.py CHARTEVENTS.csv.gz

The scan: nine of fifteen columns, rows of the mapped items only, times parsed, and rows counted by subject,
admission and stay on the way. Each engine runs in a process of its own; processor time tells them apart on a
busy machine, too. An engine that is not installed is left out. DuckDB reads the file twice, since one query
has one result; the others read it once.
"""

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from relif_core.files import atomic_file

RESULTS = Path(__file__).parent / "results" / "mimic3_engines.csv"
COMMON = """
import json, sys, time
start = time.perf_counter()
from relif_data.mimic3.channels import items
wanted = items()["itemid"].to_list()
path = sys.argv[1]
"""
REPORT = """
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
mebibytes = int(peak.split()[1]) / 1024
print(json.dumps([kept, groups, time.perf_counter() - start, time.process_time(), mebibytes]))
"""
ENGINES = {
    "polars": (
        """
import tempfile
from pathlib import Path
import polars as pl
from relif_data.mimic3.events import _GroupCounter
from relif_data.mimic3.sources import TIME_FORMAT, TABLES, _open, scan
ids = ("row_id", "subject_id", "hadm_id", "icustay_id")
types = {**dict.fromkeys(ids, pl.Int64), "itemid": pl.Int32}
types |= dict.fromkeys(("charttime", "value", "valueuom", "error"), pl.String)
counter = _GroupCounter("chartevents", wanted, lambda message: None)
lazy = scan(_open("chartevents", Path(path)), types).map_batches(counter, streamable=True)
lazy = lazy.with_columns(pl.col("charttime").str.to_datetime(TIME_FORMAT, strict=False))
with tempfile.TemporaryDirectory() as folder:
    lazy.sink_parquet(Path(folder) / "kept.parquet", compression="lz4", engine="streaming")
    kept = pl.scan_parquet(Path(folder) / "kept.parquet").select(pl.len()).collect().item()
groups = counter.total().height
"""
    ),
    "duckdb": (
        """
import tempfile
from pathlib import Path
import duckdb
connection = duckdb.connect()
connection.execute("set memory_limit='3GB'")
connection.execute("set enable_progress_bar=false")
columns = "row_id, subject_id, hadm_id, icustay_id, itemid, charttime, value, valueuom, error"
read = f"read_csv('{path}', all_varchar=true, header=true, quote='\\"', escape='\\"')"
with tempfile.TemporaryDirectory() as folder:
    target = Path(folder) / "kept.parquet"
    connection.execute(
        f"copy (select {columns}, try_cast(charttime as timestamp) as time from {read} "
        f"where cast(itemid as integer) in ({','.join(map(str, wanted))})) "
        f"to '{target}' (format parquet, compression lz4_raw)"
    )
    kept = connection.execute(f"select count(*) from '{target}'").fetchone()[0]
groups = connection.execute(
    f"select count(*) from (select 1 from {read} group by subject_id, hadm_id, icustay_id)"
).fetchone()[0]
"""
    ),
    "pyarrow": (
        """
import pyarrow as pa, pyarrow.csv, pyarrow.compute as pc
names = ["row_id", "subject_id", "hadm_id", "icustay_id", "itemid", "charttime", "value", "valueuom", "error"]
first = pa.csv.open_csv(path).schema.names
written = {name.lower(): name for name in first}
types = {written[name]: pa.int64() if name.endswith("id") else pa.string() for name in names}
types[written["charttime"]] = pa.timestamp("s")
options = pa.csv.ConvertOptions(include_columns=[written[name] for name in names], column_types=types)
keys = [written[name] for name in ("subject_id", "hadm_id", "icustay_id")]
kept, counted, members = 0, [], pa.array(wanted)
for batch in pa.csv.open_csv(path, convert_options=options):
    table = pa.Table.from_batches([batch])
    counted.append(table.group_by(keys).aggregate([([], "count_all")]))
    kept += table.filter(pc.is_in(table[written["itemid"]], members)).num_rows
groups = pa.concat_tables(counted).group_by(keys).aggregate([]).num_rows
"""
    ),
}


def main() -> None:
    """Run every installed engine on the file and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("chartevents", type=Path)
    path = parser.parse_args().chartevents
    lines = ["engine,version,rows_kept,groups,seconds,processor_seconds,peak_memory_mib,file_bytes,machine"]
    for engine, program in ENGINES.items():
        if importlib.util.find_spec(engine) is None:
            continue
        output = subprocess.run(
            [sys.executable, "-c", COMMON + program + REPORT, str(path)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        kept, groups, seconds, processor, peak = json.loads(output.splitlines()[-1])
        place = f'"{platform.machine()}, {os.cpu_count()} cores"'
        lines.append(
            f"{engine},{version(engine)},{kept},{groups},{seconds:.2f},{processor:.2f},{peak:.0f},{path.stat().st_size},{place}"
        )
        print(lines[-1], flush=True)
    with atomic_file(RESULTS) as stream:
        stream.write("\n".join(lines).encode() + b"\n")


if __name__ == "__main__":
    main()
