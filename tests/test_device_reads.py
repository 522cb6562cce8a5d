"""Nothing is read back from a device: on the meta device, as on a GPU that has not computed its values yet.

Meta tensors have shapes only. Whoever looks at a value, or makes a shape of values, gets an exception; copies
from the CPU that wait for the device are refused besides.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ptmkernels as ptm
from ptmkernels import AttentionMask, _mask_tensors
from ptmkernels.backbones import encoder
from ptmkernels.nn import RelativeMultiheadAttention, TwoStreamAttention
from ptmkernels.ops import (
    BucketedBias,
    StreamOrder,
    attention_weights,
    masked_attention,
    relative_attention,
    two_stream_attention,
)

B, H, L, P, M, D = 2, 2, 6, 3, 2, 8
READS = (
    "_local_scalar_dense",
    "is_nonzero",
    "equal",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_consecutive",
    "unique_dim",
)


class Watched(TorchDispatchMode):
    """Refuses ops that wait for a device; those of the CPU as well where `everywhere`."""

    def __init__(self, everywhere: bool = False) -> None:
        super().__init__()
        self.everywhere = everywhere

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        first = args[0] if args else None
        if isinstance(first, torch.Tensor):
            here = first.device.type == "cpu"
            waits = name in READS and (self.everywhere or not here)
            target = torch.device(kwargs.get("device") or first.device).type
            copied = name == "_to_copy" and target != first.device.type
            if waits or (copied and not (here and kwargs.get("non_blocking"))):
                raise AssertionError(f"{func} waits for {first.device}")
        return func(*args, **kwargs)


@pytest.fixture
def unknown_values(monkeypatch):
    """New tensors have no values, and nobody is told so: they are like those of any device."""
    monkeypatch.setattr(_mask_tensors, "_traced", lambda *tensors: False)
    monkeypatch.setattr(encoder, "concrete", lambda *tensors: True)
    with torch.device("meta"), Watched():
        yield


def integers(*shape, dtype=torch.int64):
    return torch.zeros(shape, dtype=dtype)


def order(targets=None, **options):
    return AttentionMask.permutation(integers(B, L), targets, **options)


def flags(*shape):
    return torch.ones(shape, dtype=torch.bool)


MASKS = {
    "vectors": lambda: AttentionMask(integers(B, L), integers(1, L), integers(B, L)),
    "parts": lambda: AttentionMask(
        *(integers(L) for _ in range(3)), branches=integers(B, 3, L), allowed=flags(B, L, L)
    ),
    "full": lambda: AttentionMask.full(L),
    "keys": lambda: AttentionMask.keys(integers(B, L)),
    "causal": lambda: AttentionMask.causal(L),
    "right to left": lambda: AttentionMask.right_to_left(L),
    "window": lambda: AttentionMask.window(L, L, 2, 1),
    "prefix": lambda: AttentionMask.prefix(integers(B), L),
    "prefix from a list": lambda: AttentionMask.prefix([1, 2], L),
    "documents": lambda: AttentionMask.documents(integers(B, L)),
    "causal documents": lambda: AttentionMask.documents(integers(B, L), causal=True),
    "recurrence": lambda: AttentionMask.recurrence(L, 0, 3),
    "permutation": order,
    "query stream": lambda: order(flags(B, L), stream="query"),
    "rows of a stream": lambda: order(flags(B, L), stream="query", query_index=integers(B, L)),
    "tree": lambda: AttentionMask.tree(flags(B, L), integers(B, L), integers(B, L)),
    "dense": lambda: AttentionMask.dense(flags(B, H, L, L)),
}
ONES_OWN_ORDER = ("vectors", "parts", "permutation", "query stream", "rows of a stream")


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.usefixtures("unknown_values")
def test_masks(name):
    mask = MASKS[name]()
    found = [mask & AttentionMask.keys(integers(B, L)), AttentionMask.cat([mask, mask])]
    found.append(AttentionMask.cat([mask, MASKS["tree"](), MASKS["dense"]()]))
    if name not in ONES_OWN_ORDER:
        found.append(mask & MASKS["window"]())
    if mask.allowed is None:
        found.append(mask.gather(integers(4), integers(4)))
        found.append(mask.pack([2, 3]))
        found.append(AttentionMask.full(L).pack(torch.tensor([2, 3], device="cpu")))
    for each in found:
        assert each.to_dense().is_meta


def tensor(*shape):
    return torch.empty(shape, requires_grad=True)


def terms(key_len):
    vectors = ("content_bias", "position_bias", "segment_bias")
    return {name: tensor(H, D) for name in vectors} | {
        "segment_key": tensor(2, H, D),
        "query_segment": integers(B, L),
        "key_segment": integers(B, key_len),
    }


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.usefixtures("unknown_values")
def test_masked_attention(name):
    query, key, value = (tensor(B, H, L, D) for _ in range(3))
    bias = BucketedBias.t5(tensor(8, H), L, max_distance=20)
    output, lse = masked_attention(
        *(query, key, value, MASKS[name]()), bias=bias, dropout_p=0.1, return_lse=True
    )
    attention_weights(query, key, lse, MASKS[name]())
    output.sum().backward()


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.usefixtures("unknown_values")
def test_relative_attention(name):
    query, key, value = (tensor(B, H, L, D) for _ in range(3))
    given = terms(L) | {"relative_offset": L, "query_position": integers(B, L)}
    rows, mask = tensor(1, H, 2 * L, D), MASKS[name]()
    output = relative_attention(
        *(query, key, value, rows), mask=mask, relative_value=rows, dropout_p=0.1, **given
    )
    attention_weights(query, key, mask=mask, relative_key=rows, **given)
    output.sum().backward()


def two_permutations(rank):
    """The masks of both streams by two calls, the second for the P targets."""
    targets, where = flags(B, L), integers(B, P)
    content = AttentionMask.permutation(rank, targets, memory_len=M)
    return content, AttentionMask.permutation(rank, targets, "query", M, where)


STREAMS = {
    "one rank": lambda: two_permutations(integers(B, L)),
    "one rank, padded": lambda: [
        mask & AttentionMask.keys(padding, mask.query_len)
        for padding in [integers(B, M + L)]
        for mask in two_permutations(integers(B, L))
    ],
    "two ranks": lambda: (two_permutations(integers(B, L))[0], two_permutations(integers(B, L))[1]),
    "dense": lambda: [AttentionMask.dense(flags(B, n, M + L)) for n in (L, P)],
    "one dense": lambda: (AttentionMask.causal(L, M + L), AttentionMask.dense(flags(P, M + L))),
    "one stream": lambda: (None, two_permutations(integers(B, L))[1]),
    "everything": lambda: (None, None),
}


@pytest.mark.parametrize("matrix", [False, True])
@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.usefixtures("unknown_values")
def test_two_streams(name, matrix):
    content, key, value = tensor(B, H, L, D), tensor(B, H, M + L, D), tensor(B, H, M + L, D)
    where = flags(B, P, L) if matrix else integers(B, P)
    masks = STREAMS[name]()
    streams = two_stream_attention(
        *(content, tensor(B, H, P, D), key, value, tensor(1, H, M + 2 * L, D)),
        **dict(zip(("mask", "stream_mask"), masks, strict=True)),
        target_mapping=where,
        relative_offset=L,
        dropout_p=0.1,
        **terms(M + L),
    )
    sum(stream.sum() for stream in streams).backward()
    found = StreamOrder.of(*masks, where, sizes=(B, L, P), key_len=M + L)
    assert (found.apart is None) == (name not in ("two ranks", "one dense", "one stream"))
    if name != "dense" and found.mask is not None:
        assert found.mask.allowed is None


@pytest.mark.usefixtures("unknown_values")
def test_modules():
    hidden, memory = tensor(L, B, H * D), tensor(M, B, H * D)
    xl = RelativeMultiheadAttention(H, H * D, D, dropatt=0.1)
    xl(hidden, tensor(M + L, 1, H * D), integers(L, M + L), memory)
    module = TwoStreamAttention(H * D, H, dropout=0.1)
    module(
        *(hidden, tensor(P, B, H * D), *STREAMS["one rank"](), tensor(M + 2 * L, B, H * D)),
        *((integers(B, L), integers(B, M + L)), memory, integers(B, P)),
        output_attentions=True,
        sees_itself=flags(B, L),
    )


BERT = {"vocab_size": 31, "num_hidden_layers": 2}


def encoder_of(model):
    (found,) = (m for m in model.modules() if isinstance(m, encoder.Encoder))
    return found


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.usefixtures("unknown_values")
def test_bert(training):
    model = ptm.create_model("bert-base-uncased", "backbone", **BERT).train(training)
    encoder_of(model).leave_out_padding = False
    ids = integers(B, L)
    model(ids, attention_mask=integers(B, L), token_type_ids=ids)
    model(ids, attention_mask=AttentionMask.keys(integers(B, L)))
    encoder_of(model).leave_out_padding = True
    with pytest.raises(AssertionError, match="waits for meta"):
        model(ids, attention_mask=integers(B, L))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.usefixtures("unknown_values")
def test_models_with_memory(training):
    xl = ptm.create_model("transformer-xl-base", "backbone", n_layer=2).train(training)
    xl(integers(B, L), attention_mask=integers(B, L))
    model = ptm.create_model("xlnet-base", "permutation-lm", n_layer=2).train(training)
    ids, padding = integers(B, L), integers(B, L)
    mems = model(ids, attention_mask=padding, use_mems=True).mems
    streams = {"perm_rank": ids, "target_mapping": integers(B, P), "labels": integers(B, P)}
    model(ids, padding, ids, mems=mems, **streams)
    matrices = {"perm_mask": flags(B, L, L), "target_mapping": flags(B, P, L)}
    model(ids, **matrices, output_attentions=True)


def layout(real, needed=None, **options):
    tokens = torch.zeros(real.shape, dtype=torch.long)
    chosen = {"movable": True, "right_only": False} | options
    return encoder._mask_and_layout(tokens, real, None, needed, **chosen)[1]


@pytest.fixture
def read_once(monkeypatch):
    """As if the CPU were a device that may be waited for: the calls that wait, one entry each."""
    found, counted = [], encoder._counted
    monkeypatch.setattr(_mask_tensors, "readable", lambda *tensors: False)
    monkeypatch.setattr(encoder, "readable", lambda *tensors: False)
    monkeypatch.setattr(encoder, "_counted", lambda *given: found.append(given) or counted(*given))
    return found


@pytest.mark.parametrize("right_only", [False, True])
def test_padding_is_counted_by_one_read(read_once, right_only):
    real = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    with Watched(everywhere=True):
        row = layout(real, right_only=right_only)
    assert row.index.tolist() == [0, 1, 2, 4, 5]
    assert len(read_once) == 1


def test_padding_that_stays_is_not_counted(read_once):
    with Watched(everywhere=True):
        assert isinstance(layout(flags(2, 3), movable=False), encoder.Padded)
    assert not read_once


def test_padding_stays_where_the_encoder_is_told_so():
    model = ptm.create_model("bert-base-uncased", "backbone", **BERT).eval()
    ids = torch.arange(8).view(2, 4)
    real = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    backbone = encoder_of(model)
    assert isinstance(backbone(ids, real).layout, encoder.Row)
    backbone.leave_out_padding = False
    assert isinstance(backbone(ids, real).layout, encoder.Padded)
