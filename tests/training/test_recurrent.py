"""Models with memory: pre-training lowers the loss, and a run that goes on gives the same weights."""

import pytest
import torch
from typer.testing import CliRunner

import ptmkernels as ptm
from ptmkernels.cli import app
from ptmkernels.objectives import CausalLanguageModelling, PermutationLanguageModelling
from ptmkernels.training import PretrainingConfig, TrainingConfig, prepare_pretraining
from tests.training.runs import same_bits, weights

SIZES = {"d_model": 24, "n_head": 2, "d_inner": 31, "n_layer": 2}
RUNS = {
    "lm": ("transformer-xl-base", {"d_head": 9, "d_embed": 24, "mem_len": 14}),
    "plm": ("xlnet-base-cased", {}),
}


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    sentences = (f"The number {n} follows {n - 1}.\nIt is a number." for n in range(1, 60))
    path.write_text("\n\n".join(sentences))
    return path


def trainer(text, objective, output=None, resume=False, **settings):
    model, sizes = RUNS[objective]
    settings = {"steps": 6, "batch_size": 4, "learning_rate": 1e-2, "log_every": 1} | settings
    config = PretrainingConfig(
        model=model,
        overrides=SIZES | sizes,
        corpus=[str(text)],
        held_out=0.2,
        vocab_size=90,
        objective=objective,
        max_length=16,
        training=TrainingConfig(**settings),
    )
    return prepare_pretraining(config, output, resume=resume)


@pytest.mark.parametrize("objective", RUNS)
def test_a_run_that_goes_on_gives_the_same_weights(text, tmp_path, objective):
    whole = trainer(text, objective, tmp_path / "whole", save_every=0)
    whole.run()
    parts = trainer(text, objective, tmp_path / "parts", save_every=3, keep=9)
    parts.run()
    (tmp_path / "parts" / "checkpoints" / "step-00000006").rename(tmp_path / "away")
    again = trainer(text, objective, tmp_path / "parts", resume=True, save_every=0)
    assert again.state.step == 3
    memory = again.objective.state()["memory"]
    assert memory.any()
    again.run()
    assert same_bits(weights(again), weights(whole))
    forgetful = trainer(text, objective, tmp_path / "parts2", save_every=3, keep=9)
    forgetful.resume(tmp_path / "parts" / "checkpoints" / "step-00000003")
    forgetful.objective.__init__()
    forgetful.run()
    assert not same_bits(weights(forgetful), weights(whole))  # the memory was needed


@pytest.mark.parametrize("objective", RUNS)
def test_the_loss_falls(text, objective):
    run = trainer(text, objective, steps=12, accumulation=2)
    losses = [row["loss"] for row in run.run().history.training]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    assert run.evaluate()


@pytest.mark.parametrize("objective", [CausalLanguageModelling(), PermutationLanguageModelling()])
def test_memory_is_handed_on_until_a_row_begins(objective):
    seen = []

    class Model(torch.nn.Module):
        def forward(self, mems=None, labels=None, **inputs):
            seen.append(mems)
            assert "continues" not in inputs
            output = torch.nn.Module()
            output.mems = (torch.full((1, 1, 1), float(len(seen))),)
            output.losses = torch.zeros(1, 2, requires_grad=True)
            output.logits = torch.zeros(1, 2, 3, requires_grad=True)
            return output

    model = Model()
    labels = torch.ones(1, 2, dtype=torch.long)
    for training, continues in ((1, 0), (1, 1), (0, 1), (0, 1), (1, 1), (1, 0)):
        model.train(bool(training))
        objective(model, {"labels": labels, "continues": torch.tensor([bool(continues)])})
    memories = [None if m is None else int(m[0]) for m in seen]
    assert memories == [None, 1, None, 3, 2, None]
    objective.load_state(objective.state(), torch.device("cpu"))
    objective(model, {"labels": labels, "continues": torch.tensor([True])})
    assert int(seen[-1][0]) == 6


@pytest.mark.parametrize("objective", RUNS)
def test_what_is_read_in_every_step_stays_on_the_cpu(text, objective, monkeypatch):
    run = trainer(text, objective)
    monkeypatch.setattr(type(run.accelerator), "device", torch.device("meta"))
    batch = run._on_device(next(run._batches()))
    places = {name: tensor.device.type for name, tensor in batch.items()}
    assert places.pop("continues") == "cpu"
    assert set(places.values()) == {"meta"}


@pytest.mark.parametrize(("model", "preset"), [("transformer-xl", "base"), ("xlnet", "base")])
def test_the_command(text, tmp_path, model, preset):
    sizes = [f"--set={name}={value}" for name, value in SIZES.items()]
    arguments = ["--corpus", text, "--max-length", 16, "--vocab-size", 90, "--batch-size", 2]
    result = CliRunner().invoke(
        app,
        [str(a) for a in ("pretrain", model, "--preset", preset, "--output", tmp_path / "run")]
        + [str(a) for a in (*arguments, "--steps", 2, "--held-out", 0)]
        + [*sizes, *(["--set=d_embed=24"] if model == "transformer-xl" else [])],
    )
    assert result.exit_code == 0, result.output
    assert "fill-mask" not in result.output
    head = "causal-lm" if model == "transformer-xl" else "permutation-lm"
    assert ptm.from_pretrained(tmp_path / "run").head == head


def test_settings_that_do_not_go_together():
    model, training = "xlnet-base-cased", TrainingConfig(steps=1)
    with pytest.raises(ValueError, match="max_length is 15; objective 'plm' needs an even"):
        PretrainingConfig(model=model, objective="plm", max_length=15, training=training)
    with pytest.raises(ValueError, match="start is 'local'"):
        PretrainingConfig(model=model, objective="plm", start="local", training=training)
