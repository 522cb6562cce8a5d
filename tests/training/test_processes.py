"""Runs in other processes: killed, interrupted, and spread over two."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ptmkernels.training import checkpoints_of, latest_checkpoint
from tests.training.runs import same_bits

ROOT = Path(__file__).parents[2]
TWO_PROCESSES = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def command(output, settings, launcher=()):
    return [
        sys.executable,
        "-m",
        *launcher,
        "tests.training.runs",
        str(output),
        json.dumps(settings),
    ]


def start(output, settings):
    return subprocess.Popen(
        command(output, settings), cwd=ROOT, env=ENVIRONMENT, text=True, stderr=subprocess.PIPE
    )


def history(arguments):
    done = subprocess.run(
        arguments, cwd=ROOT, env=ENVIRONMENT, text=True, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def wait_for(condition, process, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path):
    settings = {"steps": 60, "save_every": 1, "keep": 2, "warmup": 5}
    history(command(tmp_path / "whole", settings | {"save_every": 0}))
    killed = tmp_path / "killed"
    for least in (3, 20):  # kill twice, at whatever moment it is
        process = start(killed, settings)
        wait_for(lambda least=least: _last_step(killed) >= least, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert _last_step(killed) < 60
        state = json.loads((latest_checkpoint(killed) / "state.json").read_text())
        assert state["step"] == _last_step(killed)
    history(command(killed, settings))
    files = [latest_checkpoint(tmp_path / run) for run in ("whole", "killed")]
    for name in ("model", "optimizer", "random"):
        first, second = (load_file(file / f"{name}.safetensors") for file in files)
        assert same_bits(first, second)


def _last_step(run):
    path = latest_checkpoint(run)
    return int(path.name.partition("-")[2]) if path else 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_and_stops(tmp_path, number):
    process = start(tmp_path, {"steps": 100_000, "save_every": 2, "log_every": 1000})
    wait_for(lambda: _last_step(tmp_path) >= 2, process)
    process.send_signal(number)
    assert process.wait(60) == 0
    assert 2 <= _last_step(tmp_path) < 100_000
    assert len(checkpoints_of(tmp_path)) <= 3


def test_two_processes_equal_one_with_twice_the_batch(tmp_path):
    settings = {"steps": 5, "dropout": 0.0, "accumulation": 2}
    alone = history(command(tmp_path / "one", settings | {"batch_size": 6}))
    together = history(command(tmp_path / "two", settings | {"batch_size": 3}, TWO_PROCESSES))
    assert len(alone) == len(together) == 5
    for one, two in zip(alone, together, strict=True):
        for name in ("loss", "mlm_loss", "nsp_loss", "gradient_norm"):
            assert two[name] == pytest.approx(one[name], rel=1e-4)
    # A run of two processes goes on as such: each has a generator of its own.
    random_states = load_file(latest_checkpoint(tmp_path / "two") / "random.safetensors")
    assert random_states["cpu"].shape[0] == 2
    assert not (random_states["cpu"][0] == random_states["cpu"][1]).all()


def test_two_processes_keep_the_memory_of_their_own_rows(tmp_path):
    """They equal one with twice the batch, and go on after a checkpoint with the same memories."""
    settings = {"recurrent": True, "steps": 6, "save_every": 3, "accumulation": 2, "keep": 9}
    alone = history(command(tmp_path / "one", settings | {"batch_size": 6}))
    own = settings | {"batch_size": 3}
    together = history(command(tmp_path / "two", own, TWO_PROCESSES))
    assert len(alone) == len(together) == 6
    for one, two in zip(alone, together, strict=True):
        for name in ("loss", "gradient_norm"):
            assert two[name] == pytest.approx(one[name], rel=1e-4)
    whole, memories = (
        [
            load_file(latest_checkpoint(tmp_path / run) / f"{name}.safetensors")
            for run in ("one", "two")
        ]
        for name in ("model", "random")
    )
    one, two = (each["memory"] for each in memories)  # (processes, layers, B, M, E)
    torch.testing.assert_close(two.transpose(0, 1).flatten(1, 2), one[0], rtol=1e-3, atol=1e-4)
    latest_checkpoint(tmp_path / "two").rename(tmp_path / "away")
    history(command(tmp_path / "two", own, TWO_PROCESSES))
    again = load_file(latest_checkpoint(tmp_path / "two") / "model.safetensors")
    assert same_bits(again, whole[1])
