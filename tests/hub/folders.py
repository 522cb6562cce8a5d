"""A small model's folder, and how the tests of folders change it."""

import json
import os

import torch
from safetensors.torch import load_file, save_file

import ptmkernels as ptm

SIZES = {
    "vocab_size": 31,
    "hidden_size": 10,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 7,
    "max_position_embeddings": 12,
}
IDS = torch.tensor([[4, 9, 30, 1, 2]])
WORDS = "bert.embeddings.word_embeddings.weight"


def make(head="pretraining", **overrides):
    torch.manual_seed(0)
    return ptm.create_model("bert-tiny", head, **(SIZES | overrides)).eval()


def change_weights(folder, change):
    """Rewrite model.safetensors after `change` has worked on the dict of its tensors."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def change_config(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Trap:
    """Makes a folder where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)
