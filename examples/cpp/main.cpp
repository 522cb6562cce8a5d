// Causal attention over six tokens with the ops of ptmkernels, no Python involved.

#include <ptmkernels/attention.h>
#include <torch/csrc/stable/ops.h>

#include <cmath>
#include <cstdint>
#include <cstdio>

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace {

constexpr int64_t kHeads = 2, kLength = 6, kDim = 8;

// Values that can be recomputed anywhere: sin(seed + index).
Tensor wave(double seed) {
  Tensor tensor = torch::stable::empty({1, kHeads, kLength, kDim}, ScalarType::Float);
  auto* data = static_cast<float*>(tensor.data_ptr());
  for (int64_t i = 0; i < tensor.numel(); ++i) data[i] = static_cast<float>(std::sin(seed + i));
  return tensor;
}

// (1, L) int32: scale * position.
Tensor positions(int32_t scale) {
  Tensor tensor = torch::stable::empty({1, kLength}, ScalarType::Int);
  auto* data = static_cast<int32_t*>(tensor.data_ptr());
  for (int32_t i = 0; i < kLength; ++i) data[i] = scale * i;
  return tensor;
}

}  // namespace

int main() {
  ptmkernels::AttentionOptions options;
  options.key_rank = positions(1);
  options.query_low = positions(0);
  options.query_high = positions(1);  // query i sees keys 0 to i
  options.scale = 1.0 / std::sqrt(static_cast<double>(kDim));
  const auto [output, lse] = ptmkernels::masked_attention(wave(0), wave(1), wave(2), options);

  const auto* values = static_cast<const float*>(output.data_ptr());
  const auto* sums = static_cast<const float*>(lse.data_ptr());
  std::printf("log-sum-exp of head 0:");
  for (int64_t i = 0; i < kLength; ++i) std::printf(" %.6f", sums[i]);
  std::printf("\noutput of the last query:");
  for (int64_t d = 0; d < kDim; ++d) std::printf(" %.6f", values[(kLength - 1) * kDim + d]);
  std::printf("\n");
  return 0;
}
