"""Are the answers right? The tests' own checks, called directly; and our kernels alone, for the sanitizer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch

from ptmkernels.ops import cbow_step_, skipgram_step_
from short_run.results import SKIPPED, Recorder
from tests import interpreter
from tests.ops import (
    test_attention_cuda_gpu,
    test_masked_attention,
    test_relative_attention,
)
from tests.ops.attention_cases import HEAD_DIMS, MASKS, Case, build, kernel
from tests.ops.relative_cases import TERMS, RelativeCase
from tests.ops.relative_cases import build as build_relative
from tests.ops.relative_cases import call as call_relative
from tests.ops.word_vectors import test_cuda_gpu, test_triton_gpu
from tests.ops.word_vectors.test_steps import case as word_case

HALF = {"dtype": torch.bfloat16}
LONG = {"head_dim": 64, "query_len": 150, "key_len": 150}  # some tiles and a part of one
DECODE = {"head_dim": 64, "query_len": 1, "key_len": 300}
STEPS, DTYPES = (skipgram_step_, cbow_step_), (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Check:
    """One check.

    Args:
        run: raises an AssertionError where an answer is wrong.
        kernels: the same call of our kernels without its reference; None = it has no such form.
    """

    name: str
    run: Callable[[], object]
    kernels: Callable[[], object] | None = None


def check(recorder: Recorder, backend: str) -> None:
    """Every check of a backend that is this child's."""
    if refusal := _refusal(recorder, backend):
        recorder.add("all of them", SKIPPED, refusal)
        return
    for one in _mine(recorder, checks(backend, recorder.settings.dry)):
        if recorder.in_time(one.name):
            with recorder.guarded(one.name):
                start = time.perf_counter()
                one.run()
                _synchronize()
                recorder.add(one.name, seconds=round(time.perf_counter() - start, 2))


def run_kernels(recorder: Recorder, backend: str) -> None:
    """Our kernels alone: what compute-sanitizer reports is its exit status and stands in the log."""
    only = recorder.settings.only
    for one in checks(backend, recorder.settings.dry):
        if one.kernels is None or (only and not one.name.startswith(only)):
            continue
        if recorder.in_time(one.name):
            with recorder.guarded(one.name):
                one.kernels()
                _synchronize()
                recorder.add(one.name)


def _refusal(recorder: Recorder, backend: str) -> str | None:
    return interpreter._refusal() if recorder.settings.dry and backend == "triton" else None


def _mine(recorder: Recorder, all_of_them: list[Check]) -> list[Check]:
    return all_of_them[recorder.settings.part :: recorder.settings.parts]


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def checks(backend: str, dry: bool = False) -> list[Check]:
    """All of a backend, the most telling ones first.

    Args:
        dry: a few small ones, which the interpreter of Triton takes seconds for.
    """
    if dry:
        tiny = {"batch": 1, "query_len": 19, "key_len": 35}
        return [_masked(Case("causal", **tiny), backend), _relative(RelativeCase(**tiny), backend)]
    found = [_masked(case, backend) for case in masked_cases(backend)]
    found += [_relative(case, backend) for case in relative_cases()]
    losses = product((41, 100), DTYPES)
    found += [_losses(backend, width, dtype) for width, dtype in losses]
    return found + (_of_cuda() if backend == "cuda" else _of_triton())


def masked_cases(backend: str) -> list[Case]:
    """Cases of the sanitizer, every mask, every padded head dimension, float32, one query."""
    cases = [Case(mask, **LONG, **HALF) for mask in MASKS]
    cases += test_attention_cuda_gpu.SANITIZED
    if backend == "cuda":
        cases += [Case("causal", **LONG | {"head_dim": d}, **HALF) for d in HEAD_DIMS]
    cases += [Case("documents", "table", 0.1, 2, **LONG), Case("causal", **LONG)]
    return cases + [Case("keys", **DECODE, **HALF), Case("causal", "full", **DECODE, **HALF)]


def relative_cases() -> list[RelativeCase]:
    """Cases of the sanitizer, and the kinds of rows, of positions and of masks."""
    xlnet = RelativeCase("xlnet", "b", TERMS[:3], **LONG, **HALF)
    return [
        xlnet,
        xlnet.with_(rows="xl", mask="recurrence", terms=TERMS[:2], query_len=100),
        xlnet.with_(position="sorted", mask="query"),
        xlnet.with_(position="any", mask="content", terms=TERMS),
        xlnet.with_(rows="clip", shared="bh", mask="causal", bias="full", key_heads=2),
        xlnet.with_(mask="documents", dropout_p=0.3),
        *test_attention_cuda_gpu.SANITIZED_RELATIVE,
        xlnet.with_(dtype=torch.float32),
    ]


def _masked(case: Case, backend: str) -> Check:
    return Check(
        f"masked {case}",
        partial(test_masked_attention.check, case, backend),
        lambda: kernel(build(case, backend), backend),
    )


def _relative(case: RelativeCase, backend: str) -> Check:
    return Check(
        f"relative {case}",
        partial(test_relative_attention.check, case, backend),
        lambda: call_relative(*build_relative(case, backend), backend),
    )


def _losses(backend: str, width: int, dtype: torch.dtype) -> Check:
    return Check(
        f"losses D {width} {dtype}",
        partial(test_cuda_gpu.check_losses, width, dtype, backend),
        partial(test_cuda_gpu.losses, width, dtype, backend),
    )


def _of_cuda() -> list[Check]:
    gpu, words = test_attention_cuda_gpu, test_cuda_gpu
    found = [
        Check("current stream", gpu.test_the_current_stream_is_used),
        Check("graph capture", gpu.test_graph_capture, gpu.test_graph_capture),
        Check("precision of float32", gpu.test_float32_follows_the_precision_of_matrix_products),
    ]
    for step, width, tree in product(STEPS, (26, 100, 1024), (False, True)):
        run = partial(words.test_sanitizer_steps, step, width, tree)
        found.append(Check(f"{step.__name__} D {width}, tree {tree}", run, run))
    for step, dtype in product(STEPS, DTYPES):
        run = partial(words.test_many_warps_train_every_pair_once, step, dtype)
        found.append(Check(f"{step.__name__} {dtype}, many warps", run))
    return found


def _of_triton() -> list[Check]:
    found = [Check("Word2Vec.fit", test_triton_gpu.test_fit_brings_the_vectors_back)]
    for step, dtype in product(STEPS, DTYPES):
        run = partial(test_triton_gpu.test_programs_train_every_pair_once, step, dtype)
        kernels = partial(_train, step, dtype)
        found.append(Check(f"{step.__name__} {dtype}, many programs", run, kernels))
    return found


def _train(step: Callable, dtype: torch.dtype) -> None:
    _, tokens, matrices = word_case(vocabulary=500, tokens=1000, width=100, dtype=dtype)
    test_triton_gpu.train(step, tokens, matrices, "cuda", "triton")
