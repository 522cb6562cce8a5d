// Masked attention from C++, through torch's dispatcher and its stable ABI: link
// ptmkernels::ptmkernels (and ptmkernels::ptmkernels_cuda for CUDA tensors) and call these. Nothing
// is checked here, unlike in Python: shapes and dtypes must be as said.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <optional>
#include <utility>

namespace ptmkernels {

using torch::stable::Tensor;

// What a query may see and what is added to its score; docs/architecture.md. B may be 1 in all of
// them.
struct AttentionOptions {
  std::optional<Tensor> key_rank;    // (B, S) int32; with query_low and query_high, or none of them
  std::optional<Tensor> query_low;   // (B, L) int32
  std::optional<Tensor> query_high;  // (B, L) int32
  std::optional<Tensor> tree;        // (B, 3, S) int32: trunk, first branch, last branch
  std::optional<Tensor> allowed;     // (B, H or 1, L, S) bool
  std::optional<Tensor> bias;        // (B, H or 1, L or 1, S or 1) floating
  std::optional<Tensor> bias_table;  // (N, H) floating
  std::optional<Tensor> bias_bucket;  // (L + S - 1,) int32 below N, by distance j - i + L - 1
  double scale = 1.0;                 // of the products q.k; 1 / sqrt(D) is the usual one
  double dropout_p = 0.0;
  std::optional<Tensor> seed;  // (1,) int64, needed with dropout
};

// query (B, H, L, D); key and value (B, Hk, S, D), Hk a divisor of H; last stride 1, one floating
// dtype. Returns the output (B, H, L, D) and the log-sum-exp of the scores (B, H, L) in float32.
inline std::pair<Tensor, Tensor> masked_attention(const Tensor& query, const Tensor& key,
                                                  const Tensor& value,
                                                  const AttentionOptions& options) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  const std::optional<Tensor> none;  // no relative terms
  std::array<StableIValue, 24> stack{
      from(query),
      from(key),
      from(value),
      from(options.key_rank),
      from(options.query_low),
      from(options.query_high),
      from(options.tree),
      from(options.allowed),
      from(options.bias),
      from(options.bias_table),
      from(options.bias_bucket),
      from(options.scale),
      from(options.dropout_p),
      from(options.seed),
      from(none),
      from(none),
      from(int64_t{0}),
      from(none),
      from(none),
      from(none),
      from(none),
      from(none),
      from(none),
      from(none),
  };
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("ptmkernels::attention_forward", "", stack.data(), TORCH_ABI_VERSION));
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1])};
}

}  // namespace ptmkernels
