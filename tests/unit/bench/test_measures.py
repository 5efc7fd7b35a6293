"""Conditions, file trees and the pairing of passes."""

import os
import time
from pathlib import Path

from atlas.bench import machine
from atlas.bench.fronts import ratio, read_in_turn, rounds
from atlas.bench.large import Seconds
from atlas.bench.readers import Pass, read_in_python
from atlas.bench.speed import tables
from atlas.testing.trees import make_empty_files, make_files, total_bytes


def test_conditions_name_machine_and_commit() -> None:
    found = machine.conditions()
    assert found["processors"] >= 1
    assert found["kernel"] == os.uname().release
    assert found["commit"]
    assert str(found["processor"]) in machine.words(found)


def test_the_file_system_of_a_path_is_found() -> None:
    assert machine.file_system(Path("/proc")) == "proc"
    assert machine.file_system(Path("/dev/shm")) == "tmpfs"


def test_process_seconds_count_what_a_process_used() -> None:
    before = machine.process_seconds(os.getpid())
    limit = time.process_time() + 0.1
    while time.process_time() < limit:
        pass
    assert machine.process_seconds(os.getpid()) - before >= 0.05


def test_made_files_are_the_same_each_time(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    names = make_files(one, 25, 100, folders=3)
    assert names == make_files(other, 25, 100, folders=3)
    assert len({(one / name).read_bytes() for name in names}) == 25
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in names)
    assert total_bytes(one) == 2_500


def test_empty_files_are_counted_and_empty(tmp_path: Path) -> None:
    make_empty_files(tmp_path, 25, 10)
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(found) == 25
    assert total_bytes(tmp_path) == 0


def test_passes_change_places_and_the_settling_ones_are_left_out() -> None:
    calls: list[str] = []

    def recorder(name: str):
        def run(number: int) -> Pass:
            calls.append(name)
            return Pass(files=1, bytes=1, seconds=float(number), cpu_seconds=1.0)

        return run

    found = rounds({name: recorder(name) for name in "abc"}, passes=4)
    assert [[one.seconds for one in passes] for passes in found.values()] == [[2, 3, 4, 5]] * 3
    assert "".join(calls) == "abc" + "cba" + "bca" + "acb" + "cab" + "bac"


def test_a_ratio_is_the_median_of_passes_next_to_each_other() -> None:
    plain = [Seconds(2.0), Seconds(4.0), Seconds(90.0)]
    assert ratio(plain, [Seconds(4.0), Seconds(4.0), Seconds(100.0)]) == 0.9


def test_sets_are_read_whole_and_dropped(tmp_path: Path) -> None:
    names = make_files(tmp_path, 5, 100)
    paths = [os.fsencode(tmp_path / name) for name in names]
    read_in_turn([paths, paths])
    report = read_in_python(paths, range(len(paths)))
    assert (report["files"], report["bytes"]) == (5, 500)


def test_every_figure_has_a_table() -> None:
    cells = [
        {
            "figure": "S1", "case": "C x 4, pages kept", "files": 10, "file_bytes": 8_000,
            "passes": 3, "plain_us_per_file": 4.0, "load_average": 1.0,
            "fronts": {"sealed": {"ratio": 0.75, "messages_per_pass": 0}},
        },
        {
            "figure": "S4", "case": "filling", "passes": 3, "plain_seconds": 4.0,
            "load_average": 1.0, "fronts": {"lazy": {"ratio": 0.5}},
        },
        {
            "figure": "S7", "files": 10, "file_bytes": 8_000, "ratio": 3.5, "ratio_with_scan": 3.0,
            "cp_cpu_seconds": 7.0, "scan_cpu_seconds": 0.3, "load_cpu_seconds": 2.0,
            "load_seconds": 1.0, "load_average": 1.0,
        },
        {
            "figure": "quick", "files": 10, "create_seconds": 0.2, "first_file_seconds": 0.01,
            "scanned_files_after_it": 3, "load_average": 1.0,
        },
    ]  # fmt: skip
    shown = "\n".join(table.text() for table in tables(cells))
    assert "10 x 8 kB, C x 4, pages kept    0.75" in shown
    assert "3.50" in shown
    assert "0.010 s" in shown
