"""The CUDA kernels of word vectors as nvcc compiled them: registers, spills, memory instructions."""

import re
from collections import Counter

import pytest

from tests.ops.test_attention_cuda_compiled import ARCHITECTURES, resources, run
from tests.ops.test_attention_cuda_compiled import pytestmark as pytestmark

# Rows of float32 and of bfloat16, in vectors of 4 and one by one.
ROWS = [f"I{dtype}Li{wide}E" for dtype in ("f", "NS_8bfloat16E") for wide in (1, 4)]
LOSSES = [
    f"{op}4cuda{size}{direction}Kernel{rows}"
    for op in ("17negative_sampling", "20hierarchical_softmax")
    for size, direction in ((13, "Forward"), (14, "Backward"))
    for rows in ROWS
]
GRADIENTS = [
    f"{name}ILi{wide}E" for name in ("WeightGradientKernel", "JoinKernel") for wide in (1, 4)
]
LOG_PROB = ["DescendKernel", "AscendKernel"]
PLAN = ["MarkKernel", "RunStartKernel", "CompactKernel"]
STEPS = [f"StepKernel{rows}Lb1E" for rows in ROWS]
STEPS += [f"StepKernel{rows}Lb0E" for rows in ROWS if "Li1E" in rows]


def name_of(architecture: str, part: str) -> str:
    (name,) = [n for n in resources()[architecture] if part in n]
    return name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_kernel_spills(architecture, record_property):
    for part in LOSSES + LOG_PROB + GRADIENTS + PLAN + STEPS:
        used = resources()[architecture][name_of(architecture, part)]
        record_property(f"{architecture} {part}", str(used))
        assert used.stack == 0, (part, used)


def instructions(architecture: str, part: str) -> Counter:
    name = name_of(architecture, part)
    listing = run("cuobjdump", "-sass", "-arch", architecture, "-fun", name)
    return Counter(re.findall(r"/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Za-z0-9_.]*)", listing))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_move_as_vectors(architecture, dtype):
    """A loss has the loads of all rows of a group side by side; a step adds its changes atomically."""
    rows, size = ("IfLi4E", "128") if dtype == "float32" else ("INS_8bfloat16ELi4E", "64")
    loss = instructions(architecture, f"17negative_sampling4cuda13ForwardKernel{rows}")
    assert sum(n for i, n in loss.items() if i.startswith("LDG") and i.endswith(size)) >= 8
    step = instructions(architecture, f"StepKernel{rows}Lb1E")
    loads = [i for i in step.elements() if i.startswith("LDG") and i.endswith(size + ".STRONG.GPU")]
    assert len(loads) >= 8, step
    # Reductions of four together from sm_90 on; nothing waits for what was there before.
    together = "F32x4" if architecture.startswith("sm_9") else "F32"
    changes = rf"REDG?\.E\.ADD\.{together}\." if dtype == "float32" else r"ATOM.*CAS.*64"
    assert any(re.match(changes, i) for i in step), step
    assert dtype != "float32" or not any(i.startswith("ATOM") for i in step), step
    assert not any(i.startswith(("STL", "LDL")) for i in step), step
