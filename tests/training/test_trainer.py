"""The loop: accumulation, precision, resuming, stopping, failing."""

import errno
import json
import math
import resource
import shutil

import pytest
import torch
from safetensors.torch import load_file

from ptmkernels import from_pretrained
from ptmkernels.data import Cursor
from ptmkernels.objectives import BertPretraining, Outcome
from ptmkernels.training import (
    Trainer,
    TrainingConfig,
    checkpoints,
    checkpoints_of,
    latest_checkpoint,
)
from tests.data.corpora import topical_corpus
from tests.tolerances import ORACLE_GRADIENT
from tests.training.runs import same_bits, tiny_dataset, tiny_model, tiny_trainer, weights


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def finished(output=None, **settings):
    trainer = tiny_trainer(output, **settings)
    return trainer, trainer.run()


def test_the_loss_falls_far_below_the_entropy_of_the_tokens():
    """Which of 8 tokens a text is made of can only be told from the tokens around a masked one."""
    topics = 8
    trainer = Trainer(
        tiny_model(dropout=0.0, initializer_range=0.2),
        BertPretraining(),
        tiny_dataset(0, documents=60, corpus=topical_corpus),
        TrainingConfig(steps=80, batch_size=8, learning_rate=1e-2, warmup=6, evaluate_every=40),
        held_out=tiny_dataset(1, 1, documents=12, corpus=topical_corpus),
    )
    early, late = trainer.run().history.evaluation
    assert (early["step"], late["step"]) == (40, 80)
    assert late["mlm_loss"] < early["mlm_loss"] < math.log(topics)
    assert late["mlm_loss"] < 0.4 * math.log(topics)
    assert late["nsp_accuracy"] > 0.65


def gradients_of_first_step(**settings):
    trainer = tiny_trainer(steps=1, dropout=0.0, max_gradient_norm=None, **settings)
    found = {}

    def keep(optimizer, arguments, options):
        found.update({n: p.grad.clone() for n, p in trainer.bare_model.named_parameters()})

    trainer.optimizer.optimizer.register_step_pre_hook(keep)
    trainer.run()
    return found


def test_accumulation_has_the_gradients_of_one_large_batch():
    data = tiny_dataset()
    batches = [data.batch(Cursor(0, start), 2) for start in (0, 2, 4, 6)]
    # Batches have different numbers of predictions: a mean of their means would be something else.
    assert len({int((batch["labels"] >= 0).sum()) for batch in batches}) > 2
    large = gradients_of_first_step(data=data, batch_size=8)
    small = gradients_of_first_step(data=data, batch_size=2, accumulation=4)
    for name, gradient in large.items():
        torch.testing.assert_close(small[name], gradient, **ORACLE_GRADIENT)


def test_activation_checkpointing_changes_no_gradient():
    plain, _ = finished(steps=3)
    less_memory, _ = finished(steps=3, checkpoint_activations=True)
    for name, weight in weights(plain).items():
        torch.testing.assert_close(weights(less_memory)[name], weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "lamb", "adafactor"])
@pytest.mark.parametrize("duplicates", [None, 2], ids=["dynamic", "static"])
def test_a_resumed_run_has_the_same_bits(tmp_path, optimizer, duplicates):
    settings = {"optimizer": optimizer, "accumulation": 2, "warmup": 2, "steps": 7}
    data = tiny_dataset(duplicates=duplicates)
    whole, result = finished(data=data, **settings)
    first, _ = finished(tmp_path, data=data, save_every=3, keep=9, **settings)
    assert same_bits(weights(whole), weights(first))
    for number in (3, 6):
        again = tiny_trainer(tmp_path, data=data, **settings)
        again.resume(tmp_path / "checkpoints" / f"step-{number:08d}")
        assert not same_bits(weights(whole), weights(again))
        rest = again.run().history.training
        assert same_bits(weights(whole), weights(again))
        assert [row["loss"] for row in rest] == [
            row["loss"] for row in result.history.training[number:]
        ]
        assert again.state.tokens == whole.state.tokens


def test_a_checkpoint_is_a_model_and_nothing_is_pickled(tmp_path):
    trainer, result = finished(tmp_path, save_every=2, keep=2)
    assert [path.name for path in checkpoints_of(tmp_path)] == ["step-00000004", "step-00000006"]
    assert result.checkpoint == latest_checkpoint(tmp_path)
    for folder in (result.checkpoint, tmp_path):
        model = from_pretrained(folder)
        assert same_bits(dict(model.state_dict()), weights(trainer))
    names = {path.name for path in result.checkpoint.iterdir()}
    assert names == {
        "config.json",
        "model.safetensors",
        "optimizer.safetensors",
        "random.safetensors",
        "state.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    }
    state = json.loads((result.checkpoint / "state.json").read_text())
    assert state["step"] == 6
    moments = load_file(result.checkpoint / "optimizer.safetensors")
    assert {key.partition("|")[2] for key in moments} == {"exp_avg", "exp_avg_sq", "step"}
    assert list((tmp_path / "tensorboard").iterdir())


def test_another_run_is_refused(tmp_path):
    finished(tmp_path, steps=2)
    checkpoint = latest_checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"learning_rate = 0\.01, not 0\.5"):
        tiny_trainer(steps=2, learning_rate=0.5).resume(checkpoint)
    with pytest.raises(ValueError, match="other data"):
        tiny_trainer(steps=2, data=tiny_dataset(5)).resume(checkpoint)
    tiny_trainer(steps=2, log_every=2, save_every=1).resume(checkpoint)


@pytest.mark.parametrize("name", ["model", "optimizer", "random"])
def test_a_damaged_checkpoint_names_the_file(tmp_path, name):
    finished(tmp_path, steps=1)
    path = latest_checkpoint(tmp_path) / f"{name}.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=f"{name}.safetensors is not a whole safetensors file"):
        tiny_trainer(steps=1).resume(path.parent)


def test_a_damaged_state_names_the_file(tmp_path):
    finished(tmp_path, steps=1)
    path = latest_checkpoint(tmp_path) / "state.json"
    for text, message in (("{", "is not JSON"), ('{"step": 1}', "is no state of a run")):
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"state\.json {message}"):
            tiny_trainer(steps=1).resume(path.parent)


def test_state_of_a_stranger_is_refused(tmp_path):
    finished(tmp_path, steps=1)
    path = latest_checkpoint(tmp_path) / "state.json"
    content = json.loads(path.read_text())
    content["optimizer"] = {"no.such.weight": {"step": 1.0}}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"state of 'no\.such\.weight'"):
        tiny_trainer(steps=1).resume(path.parent)


def nan_from(step):
    class Broken(BertPretraining):
        calls = 0

        def __call__(self, model, batch, counts=None):
            outcome = super().__call__(model, batch, counts)
            Broken.calls += counts is not None
            scale = float("nan") if Broken.calls >= step else 1.0
            return Outcome(outcome.loss * scale, outcome.metrics)

    return Broken()


def test_a_nan_stops_the_run_and_names_the_step(tmp_path):
    trainer = tiny_trainer(tmp_path, objective=nan_from(5), save_every=2, log_every=3, steps=9)
    with pytest.raises(RuntimeError, match="the loss is nan at step 5"):
        trainer.run()
    last = latest_checkpoint(tmp_path)
    assert last.name == "step-00000004"
    assert all(t.isfinite().all() for t in load_file(last / "model.safetensors").values())


def test_the_files_of_a_checkpoint_are_for_the_same_readers(tmp_path):
    finished(tmp_path, steps=1)
    modes = {path.name: path.stat().st_mode for path in latest_checkpoint(tmp_path).iterdir()}
    assert len(set(modes.values())) == 1, modes


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path):
    """A limit on the size of files stands for the full disk: the system refuses to write on."""
    finished(tmp_path, steps=2)
    before = {path: path.read_bytes() for path in latest_checkpoint(tmp_path).iterdir()}
    again = tiny_trainer(tmp_path, steps=4)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = max(len(content) for content in before.values())
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 4, limits[1]))
    try:
        with pytest.raises(
            OSError, match=r"step-00000000 could not be written.*step-00000002 is kept"
        ):
            again.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_failure_at_any_point_of_writing_leaves_no_half_checkpoint(tmp_path, monkeypatch):
    trainer, _ = finished(tmp_path, steps=2)
    full = OSError(errno.ENOSPC, "No space left on device")

    def refuse(*arguments, **options):
        raise full

    for name in ("save_file", "flush_tree", "flush"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, name, refuse)
            with pytest.raises(OSError, match="No space left on device"):
                trainer.save()
    assert [path.name for path in checkpoints_of(tmp_path)] == ["step-00000002"]
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_leftovers_of_a_killed_run_are_swept(tmp_path):
    leftover = tmp_path / "checkpoints" / ".step-00000001.77.tmp"
    leftover.mkdir(parents=True)
    (leftover / "model.safetensors").write_bytes(b"half")
    assert latest_checkpoint(tmp_path) is None
    finished(tmp_path, steps=1)
    assert not leftover.exists()


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(checkpoints.os, "link", refuse)
    trainer, _ = finished(tmp_path, steps=1)
    assert same_bits(dict(from_pretrained(tmp_path).state_dict()), weights(trainer))


def test_evaluation_draws_nothing_and_repeats():
    trainer = tiny_trainer(steps=1)
    before = torch.get_rng_state()
    first = trainer.evaluate()
    assert torch.equal(before, torch.get_rng_state())
    assert trainer.evaluate() == first
    assert set(first) == {"mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy"}
    with pytest.raises(ValueError, match="held_out is None"):
        tiny_trainer(held_out=False).evaluate()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_run_outlives_its_curves(tmp_path, capsys):
    """The folder of the curves goes away, as good as a full disk: TensorBoard cannot write on."""
    trainer = tiny_trainer(tmp_path, steps=3, log_every=1)
    step = trainer._step

    def without_a_folder(*arguments):
        shutil.rmtree(tmp_path / "tensorboard", ignore_errors=True)
        return step(*arguments)

    trainer._step = without_a_folder
    assert len(trainer.run().history.training) == 3
    assert capsys.readouterr().err.count("no more curves: ") == 1


def test_without_a_folder_there_is_nowhere_to_save():
    with pytest.raises(ValueError, match="output is None"):
        tiny_trainer().save()


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 works here")
def test_fp16_needs_a_gpu():
    with pytest.raises(ValueError, match="precision is 'fp16', which needs a GPU"):
        tiny_trainer(precision="fp16")


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0},
        {"steps": 9, "batch_size": 0},
        {"steps": 9, "warmup": 10},
        {"steps": 9, "learning_rate": float("nan")},
        {"steps": 9, "betas": (0.9, 1.0)},
        {"steps": 9, "optimizer": "sgd"},
        {"steps": 9, "schedule": "cosine"},
        {"steps": 9, "precision": "fp8"},
        {"steps": 9, "max_gradient_norm": 0.0},
        {"steps": 9, "seed": -1},
        {"steps": 9, "keep": 0},
        {"steps": 9, "save_every": -1},
    ],
)
def test_bad_settings_are_named(settings):
    with pytest.raises(ValueError, match=f"{list(settings)[-1]} is"):
        TrainingConfig(**settings)


def test_finished_runs_do_nothing_more(tmp_path):
    trainer, _ = finished(tmp_path, steps=2)
    again = tiny_trainer(tmp_path, steps=2)
    again.resume(latest_checkpoint(tmp_path))
    result = again.run()
    assert result.step == 2
    assert not result.interrupted
    assert same_bits(weights(trainer), weights(again))
    shutil.rmtree(tmp_path)
