"""The harness on a toy op: what is right is timed, what is wrong is said, rows hold what they say."""

import csv
import json

import pytest
import torch

from ptmkernels.benchmarks import OPS, harness, load, report, timing
from ptmkernels.benchmarks.harness import (
    BACKWARD,
    BOTH,
    FORWARD,
    Benchmark,
    Case,
    Options,
    Provider,
)
from ptmkernels.benchmarks.machine import Work, copy_rate, floor_seconds, matmul_rate
from ptmkernels.benchmarks.memory import peak_bytes, peak_resident_bytes

CPU = torch.device("cpu")
MIB = 2**20


def cube(x, y):
    return x**3 * y


def raising(x, y):
    raise NotImplementedError("not for this dtype\nand a long explanation")


def not_built(case):
    raise RuntimeError("no compiler")


def make_benchmark(*peers, ours=cube, goal=None):
    def cases(options):
        for size in options.sizes:
            yield Case(
                series="toy",
                size=size,
                shape={"N": size},
                dtype=torch.float32,
                device=CPU,
                inputs=lambda size=size: {name: torch.randn(size) for name in "xy"},
                reference=cube,
                work={mode: Work(3 * size, 12 * size) for mode in harness.MODES},
            )

    def providers(case, options):
        return [Provider("ptmkernels", lambda case: ours, against=None), *peers]

    return Benchmark("toy", "peer", cases, providers, lambda case, mode, name: goal)


def measure(benchmark, **options):
    chosen = {"threads": (1,), "sizes": (65,), "modes": (FORWARD,), "budget": 0.01} | options
    return [row for rows in harness.run(benchmark, Options(**chosen)) for row in rows]


def peer(function, name="peer", **more):
    return Provider(name, lambda case: function, **more)


def test_every_mode_of_a_right_provider_is_timed():
    rows = measure(make_benchmark(peer(cube)), modes=harness.MODES, threads=(1, 2))
    assert [(r.provider, r.mode, r.threads) for r in rows] == [
        (name, mode, threads)
        for mode in harness.MODES
        for threads in (1, 2)
        for name in ("ptmkernels", "peer")
    ]
    for row in rows:
        assert row.status == "ok"
        assert 0 < row.q20_ms <= row.q50_ms <= row.q80_ms
        assert row.samples >= timing.ROUNDS[0]
        assert row.error < 1e-6
        assert row.peak_bytes > 0
        assert row.floor_ms == pytest.approx(row.of_floor * row.q50_ms)
        assert row.speedup > 0
        assert "torch=" in row.versions
        assert row.shape == "N=65"


def test_the_number_of_threads_is_put_back():
    before = torch.get_num_threads()
    measure(make_benchmark(), threads=(before + 1,))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("mode", [FORWARD, BACKWARD, BOTH])
def test_a_wrong_answer_gets_no_time(mode):
    rows = measure(make_benchmark(peer(lambda x, y: x**3 * y * 1.01)), modes=(mode,))
    wrong = rows[1]
    assert wrong.status == "wrong"
    assert wrong.error == pytest.approx(0.01, rel=1e-3)
    assert "off by 0.01" in wrong.reason
    assert wrong.q50_ms is None
    assert wrong.speedup is None
    assert rows[0].status == "ok"


def test_a_wrong_gradient_alone_is_found():
    def detached(x, y):
        return x.detach() ** 3 * y

    row = measure(make_benchmark(peer(detached)), modes=(BOTH,))[1]
    assert row.status == "wrong"
    assert "gradient of x" in row.reason
    assert measure(make_benchmark(peer(detached)), modes=(FORWARD,))[1].status == "ok"


def test_an_answer_that_is_not_finite_is_wrong():
    def nan(x, y):
        out = cube(x, y)
        return torch.where(torch.arange(len(x)) == 3, torch.nan, out)

    row = measure(make_benchmark(peer(nan)))[1]
    assert row.status == "wrong"
    assert row.error == float("inf")


@pytest.mark.parametrize(
    "build, reason",
    [
        (lambda case: raising, "NotImplementedError: not for this dtype"),
        (not_built, "RuntimeError: no compiler"),
    ],
)
def test_a_peer_that_does_not_run_is_shown_with_the_reason(build, reason):
    row = measure(make_benchmark(Provider("peer", build)))[1]
    assert (row.status, row.reason, row.q50_ms) == ("failed", reason, None)


def test_no_ratio_where_our_own_answer_is_wrong():
    rows = measure(make_benchmark(peer(cube), ours=lambda x, y: x * y, goal=0.0))
    assert [row.status for row in rows] == ["wrong", "ok"]
    assert rows[1].q50_ms > 0
    assert [row.speedup for row in rows] == [None, None]
    assert [row.goal_met for row in rows] == [None, None]


def test_a_provider_may_have_a_reference_of_its_own():
    def square(x, y):
        return x**2

    rows = measure(make_benchmark(peer(square, reference=square)), modes=(FORWARD, BOTH))
    assert [row.status for row in rows] == ["ok"] * 4


def test_speedup_is_time_of_peer_over_ours_and_meets_its_goal():
    def slow(x, y):
        for _ in range(200):
            out = cube(x, y)
        return out

    row = measure(make_benchmark(peer(slow), goal=10.0))[1]
    assert row.speedup > 10
    assert row.goal_met
    assert not measure(make_benchmark(peer(cube), goal=1e6))[1].goal_met


def test_providers_can_be_chosen_but_ours_always_runs():
    rows = measure(make_benchmark(peer(cube), peer(cube, "other")), providers=("other",))
    assert [row.provider for row in rows] == ["ptmkernels", "other"]


def test_count_says_how_many_groups_come():
    benchmark = make_benchmark(peer(cube))
    options = Options(threads=(1, 2), sizes=(5, 7), modes=(FORWARD, BOTH), budget=0.01)
    assert harness.count(benchmark, options) == len(list(harness.run(benchmark, options))) == 8


def test_peak_memory_counts_what_is_alive_at_once():
    size = 8 * MIB // 4

    def three_alive():
        a = torch.ones(size)
        b = a + 1
        return a * b

    def two_alive():
        return (torch.ones(size) + 1) * 2

    assert peak_bytes(three_alive, CPU) == pytest.approx(24 * MIB, rel=0.01)
    assert peak_bytes(two_alive, CPU) == pytest.approx(16 * MIB, rel=0.01)


def test_resident_peak_sees_memory_that_torch_does_not_allocate():
    def plain():
        return bytearray(b"x") * (64 * MIB)

    assert peak_bytes(plain, CPU) < MIB
    height = peak_resident_bytes(plain)
    assert height is None or 60 * MIB < height < 160 * MIB


def test_floor_is_the_larger_of_arithmetic_and_traffic():
    threads = torch.get_num_threads()
    rate, copied = matmul_rate(CPU, torch.float32, threads), copy_rate(CPU, threads)
    assert floor_seconds(Work(2 * rate, copied), CPU, torch.float32) == pytest.approx(2)
    assert floor_seconds(Work(rate, 3 * copied), CPU, torch.float32) == pytest.approx(3)


@pytest.fixture(scope="module")
def rows():
    wrong, failing = peer(lambda x, y: -cube(x, y), "wrong one"), peer(raising, "failing one")
    benchmark = make_benchmark(peer(cube), wrong, failing, goal=0.1)
    return measure(benchmark, sizes=(65, 130), modes=(FORWARD, BOTH))


def test_rows_are_written_as_csv_and_json(rows, tmp_path):
    csv_path, json_path = report.write(rows, tmp_path / "new", "toy")
    with csv_path.open(newline="") as file:
        table = list(csv.DictReader(file))
    records = json.loads(json_path.read_text())
    assert len(table) == len(records) == len(rows) == 16
    assert [float(r["q50_ms"] or 0) for r in table] == [r["q50_ms"] or 0 for r in records]
    assert records[2]["status"] == table[2]["status"] == "wrong"


def test_table_has_a_line_for_each_case_and_says_what_is_wrong(rows):
    from rich.console import Console

    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(report.table(rows))
    text = console.export_text()
    assert text.count("toy 65") == text.count("toy 130") == 2
    assert text.count("wrong") == 4 + 1  # and the heading
    assert "(0.1)" in text


def test_remarks_say_each_reason_once(rows):
    remarks = report.remarks(rows)
    assert len([r for r in remarks if r.startswith("failing one failed: NotImplementedError")]) == 1
    assert len([r for r in remarks if r.startswith("wrong one wrong: output")]) == 1
    assert any(r.startswith("failing one") and r.endswith("and 1 more)") for r in remarks)


def test_plot_is_a_png(rows, tmp_path):
    path = report.plot(rows, "peer", tmp_path / "toy.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert report.plot(rows, "wrong one", tmp_path / "none.png") is None
    assert not (tmp_path / "none.png").exists()


def test_every_listed_op_has_a_benchmark():
    for op in OPS:
        assert load(op).op == op
    with pytest.raises(ValueError, match=r"op is 'nothing'; expected one of .*masked_attention"):
        load("nothing")
