"""The layers against those of GPT-2, T5 and BART, the cache, and the layouts of a padded batch."""

import re
from dataclasses import replace

import pytest
import torch

import ptmkernels as ptm
from ptmkernels.backbones.cache import KeyValueCache, LayerCache, new_cache
from ptmkernels.backbones.layout import Padded, Row
from ptmkernels.backbones.transformer import LayerConfig, TransformerStack
from ptmkernels.ops import BucketedBias
from tests.tolerances import ORACLE

transformers = pytest.importorskip("transformers")

B, L, S, E, H, LAYERS = 2, 11, 7, 36, 3, 3
GPT2 = {"hidden_size": E, "num_heads": H, "intermediate_size": 29, "norm_eps": 1e-5}


def random_weights(module):
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.dim() == 1) * 0.5)
    return module.eval()


def load(stack, oracle, renames):
    """Give the stack the oracle's weights: each of our names is rewritten into the oracle's."""
    state = oracle.state_dict()
    for name, parameter in stack.named_parameters():
        for ours, theirs in renames:
            name = re.sub(ours, theirs, name)
        with torch.no_grad():
            parameter.copy_(state[name])
    return stack.eval()


def gpt2():
    """Transformers' GPT-2 and our stack: pre-norm, tanh GELU, biases, a last norm."""
    config = transformers.GPT2Config(
        n_embd=E, n_head=H, n_layer=LAYERS, n_inner=29, vocab_size=13, n_positions=L
    )
    oracle = random_weights(transformers.GPT2Model(config))
    stack = TransformerStack(
        LayerConfig(**GPT2, activation="gelu_new", norm_first=True), LAYERS, final_norm=True
    ).eval()
    state = oracle.state_dict()
    with torch.no_grad():
        for i, layer in enumerate(stack.layers):
            query, key, value = state[f"h.{i}.attn.c_attn.weight"].t().chunk(3)
            biases = state[f"h.{i}.attn.c_attn.bias"].chunk(3)
            linears = (layer.attention.query, layer.attention.key, layer.attention.value)
            for linear, weight, bias in zip(linears, (query, key, value), biases, strict=True):
                linear.weight.copy_(weight)
                linear.bias.copy_(bias)
            for linear, name in (
                (layer.attention.output, "attn.c_proj"),
                (layer.feed_forward.up, "mlp.c_fc"),
                (layer.feed_forward.down, "mlp.c_proj"),
            ):
                linear.weight.copy_(state[f"h.{i}.{name}.weight"].t())
                linear.bias.copy_(state[f"h.{i}.{name}.bias"])
            for norm, name in ((layer.attention_norm, "ln_1"), (layer.feed_forward_norm, "ln_2")):
                norm.load_state_dict({k: state[f"h.{i}.{name}.{k}"] for k in ("weight", "bias")})
        stack.final_norm.load_state_dict({k: state[f"ln_f.{k}"] for k in ("weight", "bias")})
    return oracle, stack


def gpt2_input(oracle):
    embeds = torch.randn(B, L, E)
    return embeds, embeds + oracle.wpe.weight[:L]


def test_gpt2(tmp_path):
    oracle, stack = gpt2()
    embeds, hidden = gpt2_input(oracle)
    expected = oracle(inputs_embeds=embeds, output_hidden_states=True)
    actual = stack(hidden, ptm.AttentionMask.causal(L), output_hidden_states=True)
    torch.testing.assert_close(actual.hidden, expected.last_hidden_state, **ORACLE)
    for a, e in zip(actual.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(a, e, **ORACLE)


def t5_names(gated):
    """What T5 calls the parameters of an encoder and of a decoder."""
    feed_forward = [(r"feed_forward\.up", "DenseReluDense.wi")]
    if gated:
        feed_forward = [
            (r"feed_forward\.gate", "DenseReluDense.wi_0"),
            (r"feed_forward\.up", "DenseReluDense.wi_1"),
        ]
    shared = [
        (r"attention\.(query|key|value|output)\.", lambda m: f"Attention.{m[1][0]}."),
        (r"^layers\.", "block."),
        (r"final_norm", "final_layer_norm"),
        *feed_forward,
        (r"feed_forward\.down", "DenseReluDense.wo"),
    ]
    encoder_names = [
        (r"^(layers\.\d+)\.attention\.", r"\1.layer.0.Selfattention."),
        (r"^(layers\.\d+)\.attention_norm", r"\1.layer.0.layer_norm"),
        (r"^(layers\.\d+)\.feed_forward\.", r"\1.layer.1.feed_forward."),
        (r"^(layers\.\d+)\.feed_forward_norm", r"\1.layer.1.layer_norm"),
    ]
    decoder_names = [
        *encoder_names[:2],
        (r"^(layers\.\d+)\.cross_attention\.", r"\1.layer.1.EncDecattention."),
        (r"^(layers\.\d+)\.cross_attention_norm", r"\1.layer.1.layer_norm"),
        (r"^(layers\.\d+)\.feed_forward\.", r"\1.layer.2.feed_forward."),
        (r"^(layers\.\d+)\.feed_forward_norm", r"\1.layer.2.layer_norm"),
    ]
    return encoder_names + shared, decoder_names + shared


@pytest.mark.parametrize("gated", [False, True])
def test_t5_encoder_and_decoder(gated):
    """RMSNorm, no biases, unscaled scores, bucketed biases, cross-attention, heads wider than E / H."""
    config = transformers.T5Config(
        vocab_size=13,
        d_model=E,
        d_kv=16,
        d_ff=29,
        num_layers=LAYERS,
        num_heads=H,
        feed_forward_proj="gated-gelu" if gated else "relu",
        dropout_rate=0.0,
    )
    oracle = random_weights(transformers.T5Model(config))
    shared = LayerConfig(
        hidden_size=E,
        num_heads=H,
        head_dim=16,
        intermediate_size=29,
        activation="gelu_new" if gated else "relu",
        gated=gated,
        norm="rms",
        norm_first=True,
        norm_eps=1e-6,
        bias=False,
        scale=1.0,
    )
    encoder_names, decoder_names = t5_names(gated)
    encoder = load(TransformerStack(shared, LAYERS, final_norm=True), oracle.encoder, encoder_names)
    decoder = load(
        TransformerStack(replace(shared, cross_attention=True), LAYERS, final_norm=True),
        oracle.decoder,
        decoder_names,
    )
    source, target = torch.randn(B, S, E), torch.randn(B, L, E)
    real = torch.tensor([[1] * S, [1] * 4 + [0] * (S - 4)])
    expected = oracle(
        inputs_embeds=source, attention_mask=real, decoder_inputs_embeds=target, return_dict=True
    )

    def bias(stack, length, bidirectional):
        table = stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight
        return BucketedBias.t5(table, length, bidirectional=bidirectional)

    keys = ptm.AttentionMask.keys(real)
    encoded = encoder(source, keys, bias=bias(oracle.encoder, S, True)).hidden
    seen = real.bool()
    torch.testing.assert_close(encoded[seen], expected.encoder_last_hidden_state[seen], **ORACLE)
    decoded = decoder(
        target,
        ptm.AttentionMask.causal(L),
        bias=bias(oracle.decoder, L, False),
        context=encoded,
        context_mask=ptm.AttentionMask.keys(real, query_len=L),
        output_attentions=True,
    )
    torch.testing.assert_close(decoded.hidden, expected.last_hidden_state, **ORACLE)
    assert decoded.cross_attentions[0].shape == (B, H, L, S)
    assert not decoded.cross_attentions[0][1, :, :, 4:].any()


def test_bart_decoder():
    """Post-norm with cross-attention and biases."""
    config = transformers.BartConfig(
        vocab_size=13,
        d_model=E,
        decoder_layers=LAYERS,
        encoder_layers=1,
        decoder_attention_heads=H,
        encoder_attention_heads=H,
        decoder_ffn_dim=29,
        encoder_ffn_dim=29,
        max_position_embeddings=L,
        dropout=0.0,
    )
    oracle = random_weights(transformers.BartModel(config)).decoder
    renames = [
        (r"cross_attention\.", "encoder_attn."),
        (r"cross_attention_norm", "encoder_attn_layer_norm"),
        (r"attention_norm", "self_attn_layer_norm"),
        (r"\.attention\.", ".self_attn."),
        (r"attn\.query", "attn.q_proj"),
        (r"attn\.key", "attn.k_proj"),
        (r"attn\.value", "attn.v_proj"),
        (r"attn\.output", "attn.out_proj"),
        (r"feed_forward_norm", "final_layer_norm"),
        (r"feed_forward\.up", "fc1"),
        (r"feed_forward\.down", "fc2"),
    ]
    stack = load(
        TransformerStack(LayerConfig(**GPT2, cross_attention=True), LAYERS), oracle, renames
    )
    target, source = torch.randn(B, L, E), torch.randn(B, S, E)
    expected = oracle(inputs_embeds=target, encoder_hidden_states=source).last_hidden_state
    hidden = oracle.layernorm_embedding(target + oracle.embed_positions.weight[2 : L + 2])
    actual = stack(hidden, ptm.AttentionMask.causal(L), context=source).hidden
    torch.testing.assert_close(actual, expected, **ORACLE)


@torch.no_grad()
def test_generation_with_a_cache_equals_one_pass():
    oracle, stack = gpt2()
    _, hidden = gpt2_input(oracle)
    expected = stack(hidden, ptm.AttentionMask.causal(L)).hidden
    cache, parts, start = new_cache(LAYERS), [], 0
    for count in (4, 1, 1, 3, 2):
        end = start + count
        mask = ptm.AttentionMask.causal(count, end)
        parts.append(stack(hidden[:, start:end], mask, cache=cache).hidden)
        start = end
    torch.testing.assert_close(torch.cat(parts, 1), expected, **ORACLE)


@torch.no_grad()
def test_a_cache_of_cross_attention_is_filled_once():
    stack = random_weights(TransformerStack(LayerConfig(**GPT2, cross_attention=True), LAYERS))
    target, source = torch.randn(B, L, E), torch.randn(B, S, E)
    expected = stack(target, ptm.AttentionMask.causal(L), context=source).hidden
    cache, calls = new_cache(LAYERS), []
    stack.layers[0].cross_attention.key.register_forward_hook(lambda *_: calls.append(1))
    parts = [
        stack(target[:, i : i + 1], None, context=source, cache=cache).hidden for i in range(L)
    ]
    torch.testing.assert_close(torch.cat(parts, 1), expected, **ORACLE)
    assert len(calls) == 1


@torch.no_grad()
def test_a_cache_follows_its_beams():
    oracle, stack = gpt2()
    _, hidden = gpt2_input(oracle)
    order = torch.tensor([1, 1])
    cache = new_cache(LAYERS)
    stack(hidden[:, :5], ptm.AttentionMask.causal(5), cache=cache)
    for layer in cache:
        layer.reorder(order)
    actual = stack(hidden[:, 5:6], None, cache=cache).hidden
    swapped = torch.cat([hidden[order, :5], hidden[:, 5:6]], 1)
    expected = stack(swapped, ptm.AttentionMask.causal(6)).hidden[:, 5:]
    torch.testing.assert_close(actual, expected, **ORACLE)


def test_a_cache_refuses_gradients():
    key = torch.randn(1, 1, 2, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated"):
        KeyValueCache().append(key, key)
    assert LayerCache().attention.length == 0


def test_shared_layers_get_the_sum_of_the_gradients():
    """ALBERT's groups: 4 depths on 2 layers equal 4 layers with equal weights."""
    config = LayerConfig(**GPT2)
    shared = random_weights(TransformerStack(config, 4, num_distinct=2))
    unshared = TransformerStack(config, 4).eval()
    for depth, layer in enumerate(unshared.layers):
        layer.load_state_dict(shared.layers[depth // 2].state_dict())
    hidden = torch.randn(B, L, E)
    outputs = [stack(hidden).hidden for stack in (shared, unshared)]
    torch.testing.assert_close(outputs[0], outputs[1], **ORACLE)
    for output in outputs:
        output.square().sum().backward()
    for index, layer in enumerate(shared.layers):
        pair = (dict(unshared.layers[2 * index + i].named_parameters()) for i in range(2))
        first, second = pair
        for name, parameter in layer.named_parameters():
            total = first[name].grad + second[name].grad
            torch.testing.assert_close(parameter.grad, total, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dropout", ["dropout", "attention_dropout", "activation_dropout"])
def test_every_dropout_acts_in_training_only(dropout):
    stack = random_weights(TransformerStack(LayerConfig(**GPT2, **{dropout: 0.5}), 1))
    hidden = torch.randn(B, L, E)
    plain = stack(hidden).hidden
    assert torch.equal(stack(hidden).hidden, plain)
    stack.train()
    assert not torch.allclose(stack(hidden).hidden, plain)
    torch.manual_seed(1)
    first = stack(hidden, output_attentions=True)
    torch.manual_seed(1)
    assert torch.equal(stack(hidden, output_attentions=True).hidden, first.hidden)
    if dropout == "attention_dropout":
        dropped = (first.attentions[0] == 0).float().mean()
        assert 0.3 < dropped < 0.7


KEEP = torch.tensor([[1, 1, 0, 1], [1, 0, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0]]).bool()
COUNT = int(KEEP.sum())


def test_a_row_holds_the_kept_tokens():
    row, values = Row(KEEP, COUNT), torch.arange(16.0).view(4, 4)
    assert row.gather(values).tolist() == [[0, 1, 3, 4, 6, 7, 8, 9, 10, 11, 12]]
    assert row.gather(values[:1]).tolist() == [[0, 1, 3, 0, 2, 3, 0, 1, 2, 3, 0]]
    assert row.first(row.gather(values)).tolist() == [0, 4, 8, 12]
    assert torch.equal(row.scatter(row.gather(values)), torch.where(KEEP, values, 0))
    states = torch.randn(4, 4, 3)
    assert torch.equal(row.scatter(row.gather(states))[KEEP], states[KEEP])


def test_gradients_pass_through_a_row():
    values = torch.randn(4, 4, 3, dtype=torch.double, requires_grad=True)
    row = Row(KEEP, COUNT)
    assert torch.autograd.gradcheck(lambda v: row.scatter(row.gather(v).sin()), values)


def test_the_mask_of_a_row_is_that_of_the_batch():
    row = Row(KEEP, COUNT)
    dense = row.mask(ptm.AttentionMask.keys(KEEP)).to_dense()[0]
    same = row.rows[:, None] == row.rows
    assert torch.equal(dense, same & KEEP[row.rows, row.columns])


def test_the_mask_between_two_rows():
    flipped = KEEP.flip(1)
    flipped[:, 0] = True
    queries, keys = Row(KEEP, COUNT), Row(flipped, int(flipped.sum()))
    dense = queries.cross_mask(keys).to_dense()[0]
    assert torch.equal(dense, queries.rows[:, None] == keys.rows)


def test_a_padded_layout_changes_nothing():
    values = torch.randn(2, 3, 4)
    layout = Padded()
    assert layout.gather(values) is layout.scatter(values) is values
    assert layout.mask(None) is None
    assert torch.equal(layout.first(values), values[:, 0])
