"""Learning-rate schedules against their formulas."""

import math

import pytest

from ptmkernels.training import create_schedule

W, N = 7, 41


@pytest.mark.parametrize("name", ["linear", "polynomial", "inverse-sqrt", "constant"])
def test_warm_up_is_linear_and_meets_the_decay(name):
    factor = create_schedule(name, W, N, power=0.5)
    assert [factor(done) for done in range(W)] == pytest.approx([n / W for n in range(1, W + 1)])
    assert factor(W - 1) == 1.0
    assert factor(W) == pytest.approx(1.0, rel=0.08)


@pytest.mark.parametrize("warmup", [0, 1, W])
def test_decay(warmup):
    linear = create_schedule("linear", warmup, N)
    polynomial = create_schedule("polynomial", warmup, N, power=2.0)
    inverse = create_schedule("inverse-sqrt", warmup, N)
    for done in range(warmup, N):
        left = (N - done) / (N - warmup)
        assert linear(done) == pytest.approx(left)
        assert polynomial(done) == pytest.approx(left**2)
        assert inverse(done) == pytest.approx(math.sqrt(max(warmup, 1) / (done + 1)))
        assert create_schedule("constant", warmup, N)(done) == 1.0
    assert linear(N - 1) > 0


def test_vaswanis_formula():
    factor = create_schedule("inverse-sqrt", 400, 10**6)
    for done in (0, 10, 399, 400, 5000):
        n = done + 1
        paper = min(n**-0.5, n * 400**-1.5) / 400**-0.5
        assert factor(done) == pytest.approx(paper)


@pytest.mark.parametrize(
    "arguments, word",
    [
        (("cosine", 0, 9), "schedule is 'cosine'; expected one of"),
        (("linear", 10, 9), "warmup is 10 updates"),
        (("linear", -1, 9), "warmup is -1 updates"),
        (("polynomial", 0, 9, 0.0), "power is 0.0"),
    ],
)
def test_bad_arguments(arguments, word):
    with pytest.raises(ValueError, match=word):
        create_schedule(*arguments)
