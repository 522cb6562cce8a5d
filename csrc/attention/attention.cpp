// The torch ops of masked attention on the CPU: reads the tensors, allocates the results, calls the
// kernels. Nothing is checked here: ptmkernels/ops/attention/validation.py has done so.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <optional>
#include <tuple>

#include "attention/cpu/kernels.h"
#include "attention/params.h"
#include "common/cpu_arch.h"
#include "common/torch_runtime.h"

namespace ptmkernels::attention {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
typedef std::optional<Tensor> OptionalTensor;

const CpuKernels& selected_kernels() {
  switch (selected_cpu_arch()) {
#if PTMKERNELS_X86
    case CpuArch::kAvx2:
      return kAvx2Kernels;
    case CpuArch::kAvx512:
      return kAvx512Kernels;
    case CpuArch::kAvx512Bf16:
      return kAvx512Bf16Kernels;
#endif
    case CpuArch::kWide:
      return kWideKernels;
    default:
      return kGenericKernels;
  }
}

DType dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Half:
      return DType::kFloat16;
    case ScalarType::Double:
      return DType::kFloat64;
    default:
      return DType::kFloat32;
  }
}

Heads heads_of(const Tensor& tensor) {
  return {tensor.data_ptr(), dtype_of(tensor), tensor.stride(0), tensor.stride(1),
          tensor.stride(2)};
}

// A dimension of size 1 repeats.
int64_t repeating_stride(const Tensor& tensor, int64_t dim) {
  return tensor.size(dim) == 1 ? 0 : tensor.stride(dim);
}

Scores scores_of(const Tensor& tensor, DType dtype) {
  return {tensor.data_ptr(),           dtype,
          repeating_stride(tensor, 0), repeating_stride(tensor, 1),
          repeating_stride(tensor, 2), repeating_stride(tensor, 3)};
}

template <class T>
const T* data_of(const OptionalTensor& tensor) {
  return tensor ? static_cast<const T*>(tensor->data_ptr()) : nullptr;
}

Sizes sizes_of(const Tensor& query, const Tensor& key) {
  return {query.size(0), query.size(1), key.size(1), query.size(2), key.size(2), query.size(3)};
}

bool is_empty(const Sizes& size) {
  return size.batches == 0 || size.heads == 0 || size.queries == 0 || size.keys == 0;
}

// The optional arguments of both ops, in the order of their schema.
struct Arguments {
  const OptionalTensor& key_rank;
  const OptionalTensor& query_low;
  const OptionalTensor& query_high;
  const OptionalTensor& tree;
  const OptionalTensor& allowed;
  const OptionalTensor& bias;
  const OptionalTensor& bias_table;
  const OptionalTensor& bias_bucket;
  double scale;
  double dropout_p;
  const OptionalTensor& seed;

  Mask mask() const {
    Mask mask;
    if (key_rank) {
      mask.rank = data_of<int32_t>(key_rank);
      mask.low = data_of<int32_t>(query_low);
      mask.high = data_of<int32_t>(query_high);
      mask.rank_batch = repeating_stride(*key_rank, 0);
      mask.low_batch = repeating_stride(*query_low, 0);
      mask.high_batch = repeating_stride(*query_high, 0);
    }
    if (tree) {
      mask.tree = data_of<int32_t>(tree);
      mask.tree_batch = repeating_stride(*tree, 0);
    }
    if (allowed) mask.allowed = scores_of(*allowed, DType::kByte);
    return mask;
  }

  Options options() const {
    Options options;
    options.mask = mask();
    if (bias) options.bias = scores_of(*bias, dtype_of(*bias));
    if (bias_table) {
      options.table = bias_table->data_ptr();
      options.table_dtype = dtype_of(*bias_table);
      options.table_row = bias_table->stride(0);
      options.table_column = bias_table->stride(1);
      options.table_rows = bias_table->size(0);
      options.bucket = data_of<int32_t>(bias_bucket);
    }
    options.scale = static_cast<float>(scale);
    options.dropout = dropout_p;
    options.seed = data_of<int64_t>(seed);
    return options;
  }
};

Tensor new_contiguous(const Tensor& like) { return torch::stable::new_empty(like, like.sizes()); }

// clang-format off: one line a parameter would hide what belongs together
std::tuple<Tensor, Tensor> attention_forward(
    const Tensor& query, const Tensor& key, const Tensor& value,
    const OptionalTensor& key_rank, const OptionalTensor& query_low, const OptionalTensor& query_high,
    const OptionalTensor& tree, const OptionalTensor& allowed,
    const OptionalTensor& bias, const OptionalTensor& bias_table, const OptionalTensor& bias_bucket,
    double scale, double dropout_p, const OptionalTensor& seed) {
  // clang-format on
  const Sizes size = sizes_of(query, key);
  const std::array<int64_t, 3> rows = {size.batches, size.heads, size.queries};
  Tensor output = new_contiguous(query);
  Tensor lse = torch::stable::new_empty(query, rows, ScalarType::Float);
  if (is_empty(size)) {
    torch::stable::zero_(output);
    torch::stable::fill_(lse, -__builtin_inf());
    return {output, lse};
  }
  const Arguments arguments = {key_rank,   query_low,   query_high, tree,      allowed, bias,
                               bias_table, bias_bucket, scale,      dropout_p, seed};
  ForwardParams params;
  params.size = size;
  params.options = arguments.options();
  params.query = heads_of(query);
  params.key = heads_of(key);
  params.value = heads_of(value);
  params.output = heads_of(output);
  params.lse = static_cast<float*>(lse.data_ptr());
  selected_kernels().forward(params, TorchRuntime());
  return {output, lse};
}

// clang-format off
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> attention_backward(
    const Tensor& grad_output, const OptionalTensor& grad_lse,
    const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& output, const Tensor& lse,
    const OptionalTensor& key_rank, const OptionalTensor& query_low, const OptionalTensor& query_high,
    const OptionalTensor& tree, const OptionalTensor& allowed,
    const OptionalTensor& bias, const OptionalTensor& bias_table, const OptionalTensor& bias_bucket,
    double scale, double dropout_p, const OptionalTensor& seed,
    bool bias_needs_grad, bool table_needs_grad) {
  // clang-format on
  const std::array<int64_t, 1> none = {0};
  Tensor grad_query = new_contiguous(query);
  Tensor grad_key = new_contiguous(key);
  Tensor grad_value = new_contiguous(value);
  const bool with_bias = bias_needs_grad && bias;
  const bool with_table = table_needs_grad && bias_table;
  Tensor grad_bias = with_bias ? torch::stable::new_zeros(*bias, bias->sizes(), ScalarType::Float)
                               : torch::stable::new_empty(query, none);
  Tensor grad_table =
      with_table ? torch::stable::new_zeros(*bias_table, bias_table->sizes(), ScalarType::Float)
                 : torch::stable::new_empty(query, none);
  const Sizes size = sizes_of(query, key);
  if (is_empty(size)) {
    for (Tensor* tensor : {&grad_query, &grad_key, &grad_value}) torch::stable::zero_(*tensor);
  } else {
    const Tensor incoming =
        grad_output.stride(3) == 1 ? grad_output : torch::stable::contiguous(grad_output);
    OptionalTensor incoming_lse;
    if (grad_lse) incoming_lse = torch::stable::contiguous(*grad_lse);
    const Arguments arguments = {key_rank,   query_low,   query_high, tree,      allowed, bias,
                                 bias_table, bias_bucket, scale,      dropout_p, seed};
    BackwardParams params;
    params.size = size;
    params.options = arguments.options();
    params.query = heads_of(query);
    params.key = heads_of(key);
    params.value = heads_of(value);
    params.output = heads_of(output);
    params.grad_output = heads_of(incoming);
    params.lse = static_cast<const float*>(lse.data_ptr());
    params.grad_lse = data_of<float>(incoming_lse);
    params.grad_query = heads_of(grad_query);
    params.grad_key = heads_of(grad_key);
    params.grad_value = heads_of(grad_value);
    if (with_bias) params.grad_bias = scores_of(grad_bias, DType::kFloat32);
    if (with_table) params.grad_table = static_cast<float*>(grad_table.data_ptr());
    selected_kernels().backward(params, TorchRuntime());
  }
  if (with_bias) grad_bias = torch::stable::to(grad_bias, bias->scalar_type());
  if (with_table) grad_table = torch::stable::to(grad_table, bias_table->scalar_type());
  return {grad_query, grad_key, grad_value, grad_bias, grad_table};
}

}  // namespace
}  // namespace ptmkernels::attention

STABLE_TORCH_LIBRARY_IMPL(ptmkernels, CPU, m) {
  m.impl("attention_forward", TORCH_BOX(&ptmkernels::attention::attention_forward));
  m.impl("attention_backward", TORCH_BOX(&ptmkernels::attention::attention_backward));
}
