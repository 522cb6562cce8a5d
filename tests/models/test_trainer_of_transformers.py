"""Outputs as mappings, and Transformers' Trainer on models of the zoo, without an adapter."""

import copy
import pickle
import shutil
import warnings

import pytest
import torch

import ptmkernels as ptm

transformers = pytest.importorskip("transformers")


def create(preset="bert-tiny", head="sequence-classification"):
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 1} if preset.startswith("bert") else {"n_layer": 1}
    return ptm.create_model(preset, head, vocab_size=50, **sizes)


def trainer(model, folder, labels, **options):
    ids = torch.randint(6, 50, (7,), generator=torch.Generator().manual_seed(1))
    data = [{"input_ids": ids, "attention_mask": torch.ones(7).long(), "labels": labels}] * 6
    arguments = transformers.TrainingArguments(
        str(folder), report_to=[], use_cpu=True, disable_tqdm=True, max_steps=2, **options
    )
    return transformers.Trainer(model, arguments, train_dataset=data, eval_dataset=data)


@pytest.mark.parametrize(
    ("preset", "head", "labels"),
    [
        ("bert-tiny", "sequence-classification", torch.tensor(1)),
        ("bert-tiny", "masked-lm", torch.full((7,), 8)),
        ("xlnet-tiny", "sequence-classification", torch.tensor(1)),
    ],
)
def test_trains_evaluates_and_saves(tmp_path, preset, head, labels):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = create(preset, head)
        run = trainer(model, tmp_path, labels, save_steps=2)
        assert run.train().training_loss > 0
        assert run.evaluate()["eval_loss"] > 0
        logits = run.predict(run.eval_dataset).predictions
        assert logits.shape[0] == 6
        run.train(resume_from_checkpoint=True)
    folder = tmp_path / "checkpoint-2"
    model.save_pretrained(tmp_path / "model")
    shutil.copyfile(tmp_path / "model" / "config.json", folder / "config.json")
    for saved in (tmp_path / "model", folder):
        loaded = ptm.from_pretrained(saved)
        for one, other in zip(loaded.parameters(), model.parameters(), strict=True):
            assert torch.equal(one, other)


def test_outputs_are_mappings():
    model, ids = create().eval(), torch.full((2, 5), 7)
    output = model(ids, labels=torch.tensor([0, 1]), output_hidden_states=True)
    assert list(output) == ["loss", "logits", "hidden_states"]
    assert output["logits"] is output.logits is output[1]
    assert output[:2] == (output.loss, output.logits)
    assert "attentions" not in output
    assert output.attentions is None
    assert type(output)(dict(output)).logits is output.logits
    for other in (copy.copy(output), pickle.loads(pickle.dumps(output))):
        assert list(other) == list(output)
        torch.testing.assert_close(other.logits, output.logits)
    assert list(model(ids)) == ["logits"]
    with pytest.raises(KeyError):
        model(ids)["loss"]
