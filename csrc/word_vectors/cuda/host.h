// What the torch ops of word vectors over CUDA kernels share.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <optional>
#include <utility>

#include "common/torch_device.h"
#include "word_vectors/cuda/weight_gradient.cuh"

namespace ptmkernels::word_vectors::cuda {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

template <typename T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}
template <typename T>
const T* data(const OptionalTensor& tensor) {
  return tensor ? static_cast<const T*>(tensor->data_ptr()) : nullptr;
}

template <size_t kDims>
Tensor empty(const Tensor& like, const std::array<int64_t, kDims>& sizes,
             ScalarType type = ScalarType::Float) {
  return torch::stable::new_empty(like, sizes, type);
}

inline Matrix matrix(const Tensor& tensor) {
  return {tensor.data_ptr(), tensor.stride(0), tensor.scalar_type() == ScalarType::BFloat16};
}

// Whether every row is a whole number of aligned vectors of 4 elements.
inline bool is_wide(const Tensor& tensor) {
  const auto bytes = static_cast<uintptr_t>(4 * tensor.element_size());
  return tensor.size(1) % 4 == 0 && tensor.stride(0) % 4 == 0 &&
         reinterpret_cast<uintptr_t>(tensor.data_ptr()) % bytes == 0;
}

// Launches Kernel<type of `weight`, columns of a lane>.
template <template <typename, int> typename Kernel, typename Params>
void launch_rows(const Queue& queue, const Params& params, bool bfloat16_rows, bool wide) {
  const auto run = [&]<typename T, int kWide>() {
    launch<Kernel<T, kWide>>(queue, Kernel<T, kWide>::blocks(params), params);
  };
  if (bfloat16_rows) {
    wide ? run.template operator()<bfloat16, 4>() : run.template operator()<bfloat16, 1>();
  } else {
    wide ? run.template operator()<float, 4>() : run.template operator()<float, 1>();
  }
}

// Of integers (n,): sorted, and where each of them was; equal ones stay in order.
inline std::pair<Tensor, Tensor> sort(const Tensor& ids) {
  std::array<StableIValue, 4> stack = {
      torch::stable::detail::from(ids), torch::stable::detail::from(std::optional<bool>(true)),
      torch::stable::detail::from(int64_t{0}), torch::stable::detail::from(false)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

// Of integers (n,): sums from the first one to each.
inline Tensor running_sums(const Tensor& numbers) {
  std::array<StableIValue, 3> stack = {torch::stable::detail::from(numbers),
                                       torch::stable::detail::from(int64_t{0}),
                                       torch::stable::detail::from(std::optional<ScalarType>())};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::cumsum", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// What the gradient of a weight is made of, in any order: each entry adds factor * hidden[row] to
// row `id`.
struct Entries {
  Tensor id, row;  // int64 (entries,)
  Tensor factor;   // float32 (entries,)

  Entries(const Tensor& like, int64_t count)
      : id(empty<1>(like, {count}, ScalarType::Long)),
        row(empty<1>(like, {count}, ScalarType::Long)),
        factor(empty<1>(like, {count})) {}
};

// gradient (V, D) float32; bias (V,) float32, if any: the sums of the factors.
inline void sum_entries(DeviceScope& scope, const Tensor& hidden, const Entries& entries,
                        Tensor& gradient, const OptionalTensor& bias) {
  scope.writes(gradient);
  torch::stable::zero_(gradient);
  if (bias) {
    Tensor sums = *bias;
    scope.writes(sums);
    torch::stable::zero_(sums);
  }
  if (entries.id.numel() == 0) return;
  const auto [id, order] = sort(entries.id);
  const bool wide = is_wide(hidden);
  WeightGradientParams p = {};
  p.entries = id.numel();
  p.width = static_cast<int>(hidden.size(1));
  const int columns = kWarpSize * (wide ? 4 : 1);
  p.slabs = (p.width + columns - 1) / columns;
  const Tensor partial = empty<2>(hidden, {p.chunks(), hidden.size(1)});
  const Tensor partial_bias = empty<1>(hidden, {p.chunks()});
  scope.reads(hidden, id, order, entries.row, entries.factor);
  scope.workspace(partial);
  scope.workspace(partial_bias);
  p.hidden = matrix(hidden);
  p.id = data<int64_t>(id);
  p.order = data<int64_t>(order);
  p.row = data<int64_t>(entries.row);
  p.factor = data<float>(entries.factor);
  p.gradient = data<float>(gradient);
  p.bias = bias ? data<float>(*bias) : nullptr;
  p.partial = data<float>(partial);
  p.partial_bias = data<float>(partial_bias);
  const auto run = [&]<int kWide>() {
    launch<WeightGradientKernel<kWide>>(scope.queue(), WeightGradientKernel<kWide>::blocks(p), p);
    launch<JoinKernel<kWide>>(scope.queue(), JoinKernel<kWide>::blocks(p), p);
  };
  wide ? run.template operator()<4>() : run.template operator()<1>();
}

}  // namespace ptmkernels::word_vectors::cuda
