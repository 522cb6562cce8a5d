"""Results go to the standard output, progress and messages to the standard error."""

import pytest
import torch
from typer.testing import CliRunner

from ptmkernels.cli import app

pytestmark = pytest.mark.xdist_group("streams")  # one process writes the files

# Commands that write files, and what they say; {0} stands for the folder.
WRITERS = {
    "embed {0}/text.txt --output {0}/v.txt --epochs 1 --dim 4": "vectors of 4 numbers",
    "classify train {0}/lines.txt {0}/m.bin --epochs 1 --dim 4 --minn 1 --maxn 2 --bucket 300": (
        "2 labels: "
    ),
    "classify quantize {0}/m.bin {0}/m.ftz": "MB: ",
    "convert {0} --output {0}/new": "1 tensors written to ",
    "pretrain bert --output {0}/run --steps 1 --batch-size 2 --max-length 16 --vocab-size 200 "
    "--held-out 0.02 --set num_hidden_layers=1": "The model lies in ",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with inputs, what the writers made of them, and what these said by command."""
    folder = tmp_path_factory.mktemp("streams")
    (folder / "text.txt").write_text("the cat sat on the mat and the dog sat on the rug\n" * 20)
    (folder / "lines.txt").write_text("__label__a the cat sat\n__label__b a dog ran\n" * 20)
    (folder / "questions.txt").write_text(": animals\ncat mat dog rug\n")
    (folder / "pairs.txt").write_text("cat\tdog\t7\nmat\trug\t6\ncat\trug\t1\n")
    torch.save({"weight": torch.ones(2)}, folder / "pytorch_model.bin")
    return folder, {command: run(folder, command) for command in WRITERS}


def run(folder, command):
    """Standard output and error of a command."""
    arguments = [word.format(folder) for word in command.split()]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout, result.stderr


@pytest.mark.parametrize("command", WRITERS, ids=lambda command: command.partition(" {")[0])
def test_commands_that_write_files_say_nothing_on_standard_output(files, command):
    out, err = files[1][command]
    assert out == ""
    assert WRITERS[command] in err


@pytest.mark.parametrize(
    ("command", "result"),
    [
        ("--version", "ptmkernels "),
        ("info", "masked_attention"),
        ("info --json", '"versions"'),
        ("zoo", "bert"),
        ("zoo bert", "bert-tiny"),
        ("bench --list", "masked_attention"),
        ("neighbors {0}/v.txt cat --count 2", "0."),
        ("analogies {0}/v.txt {0}/questions.txt", "animals"),
        ("word-pairs {0}/v.txt {0}/pairs.txt", "Spearman"),
        ("classify test {0}/m.bin {0}/lines.txt", "P@1"),
        ("classify predict {0}/m.bin {0}/lines.txt", "__label__"),
        ("fill-mask {0}/run [MASK]", "[MASK]"),
    ],
)
def test_results_are_all_that_standard_output_holds(files, command, result):
    out, err = run(files[0], command)
    assert result in out
    assert err == ""


def test_a_benchmark_prints_its_table_and_says_the_rest_apart(files):
    out, err = run(
        files[0], "bench masked_attention --quick --device cpu --seconds 0.01 --series causal --size 65 "
        "--mode forward --output {0}/bench",
    )  # fmt: skip
    assert "causal 65" in out
    assert "written: " not in out
    assert err.count("written: ") == 3
