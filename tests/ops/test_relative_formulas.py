"""`relative_attention` and `two_stream_attention` against the formulas of the papers, written out plainly."""

import pytest
import torch

from ptmkernels import AttentionMask
from ptmkernels.ops import attention_weights, relative_attention, two_stream_attention

B, H, D = 2, 3, 5
SCALE = D**-0.5


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def inputs(length, memory):
    """Query, key, value, u, v."""
    key_len = length + memory
    return (
        normal(B, H, length, D),
        normal(B, H, key_len, D, seed=1),
        normal(B, H, key_len, D, seed=2),
        normal(H, D, seed=3),
        normal(H, D, seed=4),
    )


def weigh(scores, visible, value):
    """Softmax over what is visible, zeros where nothing is."""
    weights = scores.masked_fill(~visible, -1e30).softmax(-1) * visible
    return weights @ value


def transformer_xl_shift(x):
    """Row i of (B, H, L, R) moved left by L - 1 - i: a column of zeros in front, then read L steps apart."""
    batch, heads, length, rows = x.shape
    padded = torch.cat([x.new_zeros(batch, heads, length, 1), x], dim=-1)
    return padded.view(batch, heads, rows + 1, length)[:, :, 1:].reshape(x.shape)


@pytest.mark.parametrize(("length", "memory"), [(1, 0), (4, 0), (4, 7), (1, 6)])
def test_transformer_xl(length, memory):
    """Dai et al. 2019, appendix B: R = S rows, the first for the largest distance."""
    query, key, value, u, v = inputs(length, memory)
    relative_key = normal(1, H, length + memory, D, seed=5)
    content = (query + u[:, None]) @ key.mT
    position = transformer_xl_shift((query + v[:, None]) @ relative_key.mT)
    mask = AttentionMask.recurrence(length, memory)
    expected = weigh((content + position) * SCALE, mask.to_dense()[:, None], value)
    actual = relative_attention(query, key, value, relative_key, u, v, mask)
    torch.testing.assert_close(actual, expected)


def xlnet_shift(x, key_len):
    """Row i of (B, H, L, R) moved left by L - i."""
    batch, heads, length, rows = x.shape
    turned = x.reshape(batch, heads, rows, length)[:, :, 1:]
    return turned.reshape(batch, heads, length, rows - 1)[..., :key_len]


def xlnet_scores(query, key, relative_key, u, v, segments):
    """Yang et al. 2019, sections 2.5 and 2.6; `segments`: w, g, those of the queries and of the keys."""
    segment_bias, segment_key, query_segment, key_segment = segments
    content = (query + u[:, None]) @ key.mT
    position = xlnet_shift((query + v[:, None]) @ relative_key.mT, key.shape[2])
    shifted = query + segment_bias[:, None]
    differ = (query_segment[:, :, None] != key_segment[:, None, :])[:, None]
    same, other = ((shifted * g[:, None]).sum(-1, keepdim=True) for g in segment_key)
    return (content + position + torch.where(differ, other, same)) * SCALE


def segments_of(length, memory):
    segment = torch.arange(length).expand(B, length) > torch.tensor([[1], [2]])
    keys = torch.cat([torch.full((B, memory), 7), segment.long()], dim=1)
    return normal(H, D, seed=6), normal(2, H, D, seed=7), segment.long(), keys


@pytest.mark.parametrize("rows_differ", [False, True])
@pytest.mark.parametrize(("length", "memory"), [(1, 0), (4, 0), (5, 3)])
def test_xlnet(length, memory, rows_differ):
    query, key, value, u, v = inputs(length, memory)
    rows = 2 * length + memory
    relative_key = normal(B if rows_differ else 1, H, rows, D, seed=5)
    segments = segments_of(length, memory)
    scores = xlnet_scores(query, key, relative_key, u, v, segments)
    names = ("segment_bias", "segment_key", "query_segment", "key_segment")
    given = dict(zip(names, segments, strict=True))
    rank = torch.stack([torch.randperm(length) for _ in range(B)])
    mask = AttentionMask.permutation(rank, torch.ones_like(rank).bool(), "query", memory)
    actual = relative_attention(query, key, value, relative_key, u, v, mask, **given)
    expected = weigh(scores, mask.to_dense()[:, None], value)
    torch.testing.assert_close(actual, expected)
    weights = attention_weights(
        *(query, key, None, mask),
        relative_key=relative_key,
        content_bias=u,
        position_bias=v,
        **given,
    )
    torch.testing.assert_close(weights @ value, expected)


@pytest.mark.parametrize("clip", [0, 1, 3, 20])
def test_clipped_keys_and_values(clip):
    """Shaw et al. 2018, equations 3 to 5, and NEZHA: Wei et al. 2019, section 2.2."""
    length = 6
    query, key, value, _, _ = inputs(length, 0)
    keys, values = (normal(1, 1, 2 * clip + 1, D, seed=s) for s in (5, 6))
    expected = torch.empty_like(query)
    for i in range(length):
        of_distance = [max(-clip, min(clip, j - i)) + clip for j in range(length)]
        score = (query[:, :, i, None] * (key + keys[:, :, of_distance])).sum(-1) * SCALE
        weights = score.softmax(-1)[..., None]
        expected[:, :, i] = (weights * (value + values[:, :, of_distance])).sum(2)
    actual = relative_attention(
        query, key, value, keys, relative_value=values, relative_offset=clip
    )
    torch.testing.assert_close(actual, expected)
    if clip != 3:  # R = 7 rows, which L + S or S might be taken for elsewhere
        torch.testing.assert_close(
            relative_attention(query, key, value, keys, relative_value=values), actual
        )


@pytest.mark.parametrize("as_matrix", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_two_streams(as_matrix, dense):
    """Yang et al. 2019, section 2.3: the query stream of all tokens, of which the targets are kept."""
    length, memory = 6, 2
    query, key, value, u, v = inputs(length, memory)
    stream = normal(B, H, length, D, seed=9)
    relative_key = normal(1, H, 2 * length + memory, D, seed=5)
    segments = segments_of(length, memory)
    rank = torch.tensor([[3, 1, 4, 0, 5, 2], [0, 5, 1, 2, 4, 3]])
    targets = torch.tensor([[1, 4], [0, 5]])
    masks = [
        AttentionMask.permutation(rank, torch.ones_like(rank).bool(), each, memory)
        for each in ("content", "query")
    ]
    expected = [
        weigh(xlnet_scores(q, key, relative_key, u, v, segments), m.to_dense()[:, None], value)
        for q, m in zip((query, stream), masks, strict=True)
    ]
    chosen = targets[:, None, :, None].expand(B, H, 2, D)
    visible = masks[1].to_dense().gather(1, targets[..., None].expand(B, 2, length + memory))
    rows = torch.arange(B)[:, None]
    stream_mask = AttentionMask(
        masks[1].key_rank, masks[1].query_low[rows, targets], masks[1].query_high[rows, targets]
    )
    content, predicted = two_stream_attention(
        query,
        stream.gather(2, chosen),
        *(key, value, relative_key, u, v, masks[0]),
        AttentionMask.dense(visible) if dense else stream_mask,
        target_mapping=torch.nn.functional.one_hot(targets, length) if as_matrix else targets,
        segment_bias=segments[0],
        segment_key=segments[1],
        query_segment=segments[2],
        key_segment=segments[3],
    )
    torch.testing.assert_close(content, expected[0])
    torch.testing.assert_close(predicted, expected[1].gather(2, chosen))


@pytest.mark.parametrize("as_matrix", [False, True])
def test_rows_that_stand_nowhere(as_matrix):
    """They give zeros and take no gradient; the rows beside them are what they are without them."""
    query, key, value, u, v = inputs(5, 2)
    stream = normal(B, H, 3, D, seed=9).requires_grad_()
    relative_key = normal(1, H, 12, D, seed=5)
    targets = torch.tensor([[4, -1, 0], [-1, 2, -1]])
    mapping = targets
    if as_matrix:
        mapping = (targets[..., None] == torch.arange(5)).bool()
    shared = (key, value, relative_key, u, v)
    content, predicted, _, lse = two_stream_attention(
        query, stream, *shared, target_mapping=mapping, return_lse=True
    )
    at_zero = two_stream_attention(query, stream, *shared, target_mapping=targets.clamp(min=0))
    nowhere = targets < 0
    torch.testing.assert_close(content, at_zero[0])
    expected = at_zero[1].masked_fill(nowhere[:, None, :, None], 0.0)
    torch.testing.assert_close(predicted, expected)
    assert torch.equal(lse == -torch.inf, nowhere[:, None].expand_as(lse))
    gradient = torch.autograd.grad(predicted.sum(), stream)[0]
    assert not gradient.transpose(1, 2)[nowhere].any()
    assert gradient.transpose(1, 2)[~nowhere].any()


def test_streams_of_an_empty_batch():
    query, key, value, u, v = (t[:0] if t.dim() == 4 else t for t in inputs(5, 2))
    relative_key = normal(1, H, 12, D, seed=5).requires_grad_()
    where = torch.zeros(0, 3, dtype=torch.long)
    streams = two_stream_attention(
        *(query, query[:, :, :3], key, value, relative_key, u, v), target_mapping=where
    )
    assert [stream.shape for stream in streams] == [(0, H, 5, D), (0, H, 3, D)]
    sum(stream.sum() for stream in streams).backward()
    assert not relative_key.grad.any()


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_gradients_of_everything(dropout_p):
    length, memory = 3, 2
    query, key, value, u, v = inputs(length, memory)
    segment_bias, segment_key, query_segment, key_segment = segments_of(length, memory)
    tables = [normal(1, H, 6, D, seed=5), normal(B, 1, 6, D, seed=6)]
    leaves = [query, key, value, u, v, segment_bias, segment_key, *tables]
    leaves = [leaf.requires_grad_() for leaf in leaves]

    def function(query, key, value, u, v, segment_bias, segment_key, relative_key, relative_value):
        return relative_attention(
            *(query, key, value, relative_key, u, v),
            relative_value=relative_value,
            relative_offset=2,
            query_position=torch.tensor([[0, 1, 4]]),
            segment_bias=segment_bias,
            segment_key=segment_key,
            query_segment=query_segment,
            key_segment=key_segment,
            dropout_p=dropout_p,
            seed=torch.tensor([3]),
            return_lse=True,
        )

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)
