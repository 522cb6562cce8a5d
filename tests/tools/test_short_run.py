"""The short run without a GPU: its schedule, what it writes, its page, and all of it dry."""

import json
import subprocess
import sys
import time
from dataclasses import asdict

import pytest
from short_run import plan, results, summary
from short_run.parent import Parent
from short_run.plan import Stage, Step
from short_run.results import Recorder
from short_run.settings import Settings

from ptmkernels.benchmarks.report import Row
from tests.tools.conftest import ROOT

SCRIPT = str(ROOT / "tools" / "gpu_short.py")


def settings(folder, **more):
    return Settings(**{"output": str(folder), "start": time.time(), "deadline": 30.0, **more})


def python(source, name="toy", seconds=20.0, **more):
    return Step(name, "", "toy", seconds, command=(sys.executable, "-c", source), **more)


def run(folder, stages, **more):
    given = settings(folder, **more)
    Parent(given).run(stages)
    return results.read(given.results)


def test_settings_survive_the_way_to_a_child(tmp_path):
    given = settings(
        tmp_path, backends=("cuda",), tiles={"forward": (64, 64, 4, 3)}, caps=(64, 128)
    )
    same = Settings.from_json(given.to_json())
    assert same.tiles == {"forward": [64, 64, 4, 3]}
    assert same == Settings(**asdict(given) | {"tiles": same.tiles})


def test_a_half_written_line_is_passed_over(tmp_path):
    path = tmp_path / "results.jsonl"
    results.append(path, {"name": "whole"})
    with path.open("a") as file:
        file.write('{"name": "ha')
    assert results.read(path) == [{"name": "whole"}]


def test_an_error_becomes_a_result_and_the_next_one_has_its_turn(tmp_path):
    recorder = Recorder(settings(tmp_path, step="toy"))
    for name, error in (("one", AssertionError("off by 3")), ("two", ValueError("no such mask"))):
        with recorder.guarded(name):
            raise error
    assert not Recorder(settings(tmp_path, until=5.0)).in_time("late", 6.0)
    found = [(r["name"], r["status"], r["reason"]) for r in results.read(recorder.settings.results)]
    assert found == [
        ("one", "wrong", "AssertionError: off by 3"),
        ("two", "failed", "ValueError: no such mask"),
        ("late", "skipped", "its latest start has passed"),
    ]


def test_a_step_that_dies_or_hangs_is_told_and_the_next_one_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("short_run.parent.GRACE", 0.5)
    stages = [
        Stage([python("import os; os.abort()", "dies")]),
        Stage([python("import time; time.sleep(60)", "hangs", seconds=0.5)]),
        Stage([python("print('reached')", "last")]),
    ]
    found = run(tmp_path, stages)
    assert [(r["step"], r["status"]) for r in found] == [("dies", "failed"), ("hangs", "failed")]
    assert "exit status -6" in found[0]["reason"]
    assert "time limit" in found[1]["reason"]
    assert (tmp_path / "log.txt").read_text() == "reached\n"
    assert "dies: the whole step: failed" in (tmp_path / "summary.txt").read_text()


def test_a_step_whose_latest_start_has_passed_is_skipped(tmp_path):
    (found,) = run(tmp_path, [Stage([python("print(1)", need=100.0)])])
    assert (found["status"], found["reason"]) == ("skipped", "its latest start has passed")


def test_a_stage_that_times_waits_for_the_background(tmp_path):
    slow = "import time; time.sleep(1); print('background')"
    first = Stage([python(slow, background=True), python("print('beside')")])
    run(tmp_path, [first, Stage([python("print('alone')")], times=True)])
    assert (tmp_path / "log.txt").read_text().split() == ["beside", "background", "alone"]


def test_only_keeps_what_others_need():
    stages = plan.short(settings("out"), cores=16)
    kept = plan.chosen(stages, ("masked",))
    assert plan.groups(kept) == ["environment", "compile", "masked"]
    assert len([s for s in kept[1].steps if s.work == "compile"]) == 12
    assert plan.chosen(stages, ()) == stages


def test_the_short_run_fits_its_deadline():
    """What comes before the sweep of tiles, each step as long as it may take."""
    stages = plan.short(settings("out"), cores=16)
    before = [s for s in stages if s.steps[0].group not in ("compile", "correctness", "sweep")]
    foreground = [max(s.seconds for s in stage.steps if not s.background) for stage in before]
    assert sum(foreground) + 2 * 40 + 8.0 < plan.DEADLINE


def row(**more):
    given = {
        "op": "masked_attention", "provider": "sdpa, cudnn", "mode": "forward", "series": "full",
        "size": 1024, "shape": "", "dtype": "bfloat16", "device": "cuda", "device_name": "NVIDIA X1",
        "threads": 1, "status": "ok", "q50_ms": 0.5, "speedup": 0.9, "goal": 0.85, "goal_met": True,
        "commit": "1a2b3c4",
    }  # fmt: skip
    return asdict(Row(**given | more))


def record(**more):
    return {"step": "toy", "name": "one", "status": "ok", "reason": "", "at": 1.0, **more}


def test_the_page_begins_with_what_is_wrong():
    missed = row(speedup=0.7, goal_met=False, size=4096)
    ours = row(provider="ptmkernels", speedup=1.0, goal=None, goal_met=None, of_floor=0.5)
    peer = row(status="failed", q50_ms=None, speedup=None)
    records = [
        record(row=row()),
        record(row=missed),
        record(row=ours),
        record(status="failed", reason="no cudnn", row=peer),
        record(status="wrong", reason="output is off"),
        record(status="skipped", reason="its latest start has passed"),
        record(kernel="forward", length=1024, tile="64,64,4,3", ms=0.4),
        record(kernel="forward", length=1024, tile="default", ms=0.3),
    ]
    page = summary.summary(records, "1a2b3c4")
    parts = [
        "commit 1a2b3c4: 5 ok, 1 wrong, 1 failed, 1 skipped",
        "failed or wrong (2)",
        "toy: one: wrong: output is off",
        "toy: one: failed: no cudnn",
        "below the goal (1)",
        "full 4096 forward: 0.70 of sdpa, cudnn (goal 0.85)",
        "at the goal (1)",
        "0.500 ms, 50% of the floor",
        "forward L 1024: default 0.300 ms, 64,64,4,3 0.400 ms",
        "skipped (1)",
    ]
    places = [page.index(part) for part in parts]
    assert places == sorted(places)


def test_results_become_files_of_the_benchmarks(tmp_path):
    for record_ in (record(row=row()), record(), record(row=row(op="relative_attention"))):
        results.append(tmp_path / "results.jsonl", record_)
    command = [sys.executable, SCRIPT, "--convert", str(tmp_path / "results.jsonl")]
    subprocess.run([*command, "--output", str(tmp_path / "files")], check=True)
    written = sorted((tmp_path / "files").iterdir())
    assert [path.name for path in written] == [
        "masked_attention-nvidia-x1-1a2b3c4.json",
        "relative_attention-nvidia-x1-1a2b3c4.json",
    ]
    assert json.loads(written[0].read_text()) == [row()]


def test_the_parent_imports_no_torch():
    source = f"import runpy, sys; runpy.run_path({SCRIPT!r}); assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", source]
    environment = {"PYTHONPATH": str(ROOT / "tools"), "PATH": "/usr/bin:/bin"}
    subprocess.run(command, check=True, capture_output=True, env=environment)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--tile", "forward=64,64"),
            "--tile is 'forward=64,64'; expected KERNEL=M,N,WARPS,STAGES",
        ),
        (
            ("--only", "masks"),
            "--only is 'masks'; expected one of environment, compile, correctness",
        ),
    ],
)
def test_what_is_not_known_is_refused(arguments, message, tmp_path):
    command = [sys.executable, SCRIPT, "--output", str(tmp_path / "out"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert message in done.stderr


def test_all_of_it_dry(tmp_path):
    """Every step on tiny sizes: the reference and the interpreted kernels in place of a GPU's."""
    command = [sys.executable, SCRIPT, "--dry", "--deadline", "900", "--commit", "1a2b3c4"]
    environment = {"OUT": str(tmp_path / "out"), "TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    found = results.read(tmp_path / "out" / "results.jsonl")
    assert done.returncode == 0, done.stdout
    planned = plan.short(settings("out", dry=True), cores=2)
    works = {step.work for stage in planned for step in stage.steps}
    assert {r["step"] for r in found} == works - {
        "peers"
    }  # whose compiled peers a dry run leaves out
    assert {r["status"] for r in found} <= {"ok", "skipped"}, done.stdout
    assert {r["row"]["commit"] for r in found if "row" in r}
    masked = {r["row"]["provider"] for r in found if r["step"] == "masked" and "row" in r}
    assert "ptmkernels, deterministic" in masked
    assert "tiles, fastest first" in done.stdout
