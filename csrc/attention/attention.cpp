// The torch ops of masked attention on the CPU: reads the tensors, allocates the results, calls the
// kernels. Nothing is checked here: ptmkernels/ops/attention/validation.py has done so.

#include <torch/csrc/stable/library.h>

#include <array>
#include <tuple>

#include "attention/arguments.h"
#include "attention/cpu/kernels.h"
#include "common/cpu_arch.h"
#include "common/torch_runtime.h"

namespace ptmkernels::attention {
namespace {

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

// clang-format off: one line a parameter would hide what belongs together
std::tuple<Tensor, Tensor> attention_forward(
    const Tensor& query, const Tensor& key, const Tensor& value,
    const OptionalTensor& key_rank, const OptionalTensor& query_low, const OptionalTensor& query_high,
    const OptionalTensor& tree, const OptionalTensor& allowed,
    const OptionalTensor& bias, const OptionalTensor& bias_table, const OptionalTensor& bias_bucket,
    double scale, double dropout_p, const OptionalTensor& seed,
    const OptionalTensor& relative_key, const OptionalTensor& relative_value, int64_t relative_offset,
    const OptionalTensor& content_bias, const OptionalTensor& position_bias,
    const OptionalTensor& segment_bias, const OptionalTensor& segment_key,
    const OptionalTensor& query_segment, const OptionalTensor& key_segment,
    const OptionalTensor& query_position) {
  // clang-format on
  const Sizes size = sizes_of(query, key);
  const std::array<int64_t, 3> rows = {size.batches, size.heads, size.queries};
  Tensor output = new_in_layout(query);
  Tensor lse = torch::stable::new_empty(query, rows, ScalarType::Float);
  if (is_empty(size)) {
    torch::stable::zero_(output);
    torch::stable::fill_(lse, -__builtin_inf());
    return {output, lse};
  }
  const Arguments arguments = {
      key_rank,       query_low,       query_high,    tree,          allowed,      bias,
      bias_table,     bias_bucket,     scale,         dropout_p,     seed,         relative_key,
      relative_value, relative_offset, content_bias,  position_bias, segment_bias, segment_key,
      query_segment,  key_segment,     query_position};
  const ForwardParams params = forward_params(arguments, query, key, value, output, lse);
  selected_kernels().forward(params, TorchRuntime());
  return {output, lse};
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                             Tensor, Tensor>;

Tensor no_gradient(const Tensor& like) {
  return torch::stable::new_empty(like, std::array<int64_t, 1>{0});
}

// The gradient of an option: zeros in float32 where it is wanted, else empty.
class OptionGradient {
 public:
  OptionGradient(const OptionalTensor& option, bool wanted, const Tensor& like)
      : dtype_(wanted ? option->scalar_type() : ScalarType::Float),
        wanted_(wanted),
        sum_(wanted ? torch::stable::new_zeros(*option, option->sizes(), ScalarType::Float)
                    : no_gradient(like)) {}

  Scores scores() const { return wanted_ ? scores_of(sum_, DType::kFloat32) : Scores(); }
  float* data() const { return wanted_ ? static_cast<float*>(sum_.data_ptr()) : nullptr; }
  Tensor finish() const { return wanted_ ? torch::stable::to(sum_, dtype_) : sum_; }

 private:
  ScalarType dtype_;
  bool wanted_;
  Tensor sum_;
};

// clang-format off
Gradients attention_backward(
    const Tensor& grad_output, const OptionalTensor& grad_lse,
    const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& output, const Tensor& lse,
    const OptionalTensor& key_rank, const OptionalTensor& query_low, const OptionalTensor& query_high,
    const OptionalTensor& tree, const OptionalTensor& allowed,
    const OptionalTensor& bias, const OptionalTensor& bias_table, const OptionalTensor& bias_bucket,
    double scale, double dropout_p, const OptionalTensor& seed,
    const OptionalTensor& relative_key, const OptionalTensor& relative_value, int64_t relative_offset,
    const OptionalTensor& content_bias, const OptionalTensor& position_bias,
    const OptionalTensor& segment_bias, const OptionalTensor& segment_key,
    const OptionalTensor& query_segment, const OptionalTensor& key_segment,
    const OptionalTensor& query_position,
    int64_t wanted_grads) {
  // clang-format on
  Tensor grad_query = new_in_layout(query);
  Tensor grad_key = new_in_layout(key);
  Tensor grad_value = new_in_layout(value);
  const auto of_option = [&](int place, const OptionalTensor& option) {
    return OptionGradient(option, wanted_grads >> place & 1, query);
  };
  const OptionGradient grad_bias = of_option(0, bias);
  const OptionGradient grad_table = of_option(1, bias_table);
  const auto of_rows = [&](int place, const OptionalTensor& option) {
    return wanted_grads >> place & 1 ? new_in_layout(*option) : no_gradient(query);
  };
  Tensor grad_relative_key = of_rows(2, relative_key);
  Tensor grad_relative_value = of_rows(3, relative_value);
  const OptionGradient grad_content_bias = of_option(4, content_bias);
  const OptionGradient grad_position_bias = of_option(5, position_bias);
  const OptionGradient grad_segment_bias = of_option(6, segment_bias);
  const OptionGradient grad_segment_key = of_option(7, segment_key);
  const Sizes size = sizes_of(query, key);
  if (is_empty(size)) {
    for (Tensor* tensor :
         {&grad_query, &grad_key, &grad_value, &grad_relative_key, &grad_relative_value})
      torch::stable::zero_(*tensor);
  } else {
    const Tensor incoming =
        grad_output.stride(3) == 1 ? grad_output : torch::stable::contiguous(grad_output);
    OptionalTensor incoming_lse;
    if (grad_lse) incoming_lse = torch::stable::contiguous(*grad_lse);
    const Arguments arguments = {
        key_rank,       query_low,       query_high,    tree,          allowed,      bias,
        bias_table,     bias_bucket,     scale,         dropout_p,     seed,         relative_key,
        relative_value, relative_offset, content_bias,  position_bias, segment_bias, segment_key,
        query_segment,  key_segment,     query_position};
    BackwardParams params =
        backward_params(forward_params(arguments, query, key, value, output, lse), incoming,
                        incoming_lse, grad_query, grad_key, grad_value);
    params.grad_bias = grad_bias.scores();
    params.grad_table = grad_table.data();
    if (wanted_grads >> 2 & 1) params.grad_relative_key = repeating_heads_of(grad_relative_key);
    if (wanted_grads >> 3 & 1) params.grad_relative_value = repeating_heads_of(grad_relative_value);
    params.grad_content_bias = grad_content_bias.data();
    params.grad_position_bias = grad_position_bias.data();
    params.grad_segment_bias = grad_segment_bias.data();
    params.grad_segment_key = grad_segment_key.data();
    selected_kernels().backward(params, TorchRuntime());
  }
  return {grad_query,
          grad_key,
          grad_value,
          grad_bias.finish(),
          grad_table.finish(),
          grad_relative_key,
          grad_relative_value,
          grad_content_bias.finish(),
          grad_position_bias.finish(),
          grad_segment_bias.finish(),
          grad_segment_key.finish()};
}

}  // namespace
}  // namespace ptmkernels::attention

STABLE_TORCH_LIBRARY_IMPL(ptmkernels, CPU, m) {
  m.impl("attention_forward", TORCH_BOX(&ptmkernels::attention::attention_forward));
  m.impl("attention_backward", TORCH_BOX(&ptmkernels::attention::attention_backward));
}
