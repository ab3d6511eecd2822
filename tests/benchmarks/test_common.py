"""The code that measures; nothing here asserts how fast anything is."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.common import ROOT, CommandFailed, Comparison, Cost, Row, cores, in_turn, machine, measure, typical

MB = 1 << 20


def python(code: str) -> tuple[str, ...]:
    return sys.executable, "-I", "-S", "-c", code


def test_measure_counts_what_a_child_allocates_and_nothing_of_this_process():
    held = bytearray(300 * MB)
    large = measure(python(f"held = bytearray(b'1' * {200 * MB})"))
    small = measure(python("pass"))
    del held
    assert 200 * MB <= large.peak_bytes <= 450 * MB
    assert 1 * MB <= small.peak_bytes <= 60 * MB


def test_measure_counts_the_largest_process_that_a_child_started_and_waited_for():
    grandchild = f"import subprocess, sys; subprocess.run([sys.executable, '-c', \"b'1' * {200 * MB}\"], check=True)"
    assert measure(python(grandchild)).peak_bytes >= 200 * MB


def test_measure_tells_wall_time_from_processor_time():
    idle = measure(python("import time; time.sleep(0.5)"))
    busy = measure(python("import time\nwhile time.process_time() < 0.5: pass"))
    assert idle.seconds >= 0.5 > 0.3 > idle.cpu_seconds
    assert busy.cpu_seconds >= 0.5


def test_measure_hands_over_environment():
    code = "import os, sys; sys.exit(os.environ['EDGEBIG_BENCH'] != 'here')"
    measure(python(code), {"EDGEBIG_BENCH": "here"})


def test_measure_reports_a_failed_command_with_the_end_of_its_output():
    with pytest.raises(CommandFailed, match=r"(?s)exit code 3:.*the reason"):
        measure(python("import sys; print('the reason'); sys.exit(3)"))
    with pytest.raises(CommandFailed, match="cannot start /no/such/program"):
        measure(("/no/such/program",))


def test_in_turn_alternates():
    order = []

    def side(name):
        def run():
            order.append(name)
            return Cost(len(order), 1.0, 1)

        return run

    costs = in_turn({"a": side("a"), "b": side("b")}, 3)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert [c.seconds for c in costs["b"]] == [2, 4, 6]


def test_typical_is_the_median_of_each_figure_and_then_adds_time_but_not_memory():
    assert typical([Cost(9.0, 0.1, 30), Cost(1.0, 0.3, 10), Cost(2.0, 0.2, 20)]) == Cost(2.0, 0.2, 20)
    assert Cost(1.5, 1.0, 30).then(Cost(2.0, 0.5, 20)) == Cost(3.5, 1.5, 30)


@pytest.mark.parametrize(
    ("row", "cells"),
    [
        (Row("time, s", 15.0, 20.0, 2), ("time, s", "15.00", "20.00", "0.75")),
        (Row("changed", 2, 0, 0), ("changed", "2", "0", "-")),
        (Row("distance", 3e-13, 2e-13, 5, noise=1e-6), ("distance", "< 1e-06", "< 1e-06", "-")),
        (Row("distance", 0.01, 1e-9, 5, noise=1e-6), ("distance", "0.01000", "< 1e-06", "-")),
        (Row("distance", 1e-9, 0.01, 5, noise=1e-6), ("distance", "< 1e-06", "0.01000", "0.00")),
    ],
)
def test_row(row, cells):
    assert row.cells() == cells


def test_comparison_is_a_markdown_table_with_aligned_columns():
    runs = {"edgebig": (1.0, 2.0), "peer": (4.0, 3.0)}
    comparison = Comparison("Model, INT8", "a peer", (Row("size, MB", 1, 4), Row("time, s", 10, 5)), runs)
    assert comparison.text().splitlines() == [
        "### Model, INT8",
        "",
        "Peer: a peer.",
        "",
        "|          | edgebig | peer | edgebig / peer |",
        "|----------|--------:|-----:|---------------:|",
        "| size, MB |     1.0 |  4.0 |           0.25 |",
        "| time, s  |    10.0 |  5.0 |           2.00 |",
        "",
        "Single runs, s: edgebig 1.00, 2.00; peer 4.00, 3.00.",
    ]
    assert [row["ratio"] for row in comparison.to_json()["rows"]] == [0.25, 2.0]


def test_machine_names_processor_and_cores():
    found = machine()
    assert found["processor"] and int(found["cores"]) == cores() >= 1


def test_the_process_that_measures_imports_nothing_that_compiles():
    code = (
        "import sys; sys.argv = ['run.py']; import benchmarks.compile.run; "
        "print({'numpy', 'onnx', 'onnxruntime', 'torch', 'edgebig'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
