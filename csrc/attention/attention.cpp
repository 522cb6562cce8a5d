// The torch ops of masked attention on the CPU: reads the tensors, allocates the results, calls the
// kernels. Nothing is checked here: ptmkernels/ops/attention/validation.py has done so.

#include <torch/csrc/stable/library.h>

#include "attention/cpu/kernels.h"
#include "attention/torch_op.h"
#include "common/cpu_arch.h"
#include "common/torch_runtime.h"

namespace ptmkernels::attention {
namespace {

const CpuKernels& selected_kernels() {
  return PTMKERNELS_FOR_THIS_CPU(kGenericKernels, kWideKernels, kAvx2Kernels, kAvx512Kernels,
                                 kAvx512Bf16Kernels);
}

Attended forward(const Tensor& query, const Tensor& key, const Tensor& value,
                 const Arguments& arguments) {
  Tensor output = new_in_layout(query);
  Tensor lse = new_lse(query);
  if (is_empty(sizes_of(query, key))) {
    torch::stable::zero_(output);
    torch::stable::fill_(lse, -__builtin_inf());
    return {output, lse};
  }
  const ForwardParams params = forward_params(arguments, query, key, value, output, lse);
  selected_kernels().forward(params, TorchRuntime());
  return {output, lse};
}

Gradients backward(const Tensor& grad_output, const OptionalTensor& grad_lse, const Tensor& query,
                   const Tensor& key, const Tensor& value, const Tensor& output, const Tensor& lse,
                   const Arguments& arguments, int64_t wanted_grads) {
  const auto wanted = [&](int place) { return (wanted_grads >> place & 1) != 0; };
  // The kernels add to the gradients of these options and write those of the relative rows.
  const auto of_option = [&](int place, const OptionalTensor& option) {
    OptionGradient gradient(option, wanted(place), query);
    if (wanted(place)) torch::stable::zero_(gradient.sum());
    return gradient;
  };
  const auto of_rows = [&](int place, const OptionalTensor& option) {
    return wanted(place) ? new_in_layout(*option) : no_gradient(query);
  };
  Tensor grad_query = new_in_layout(query);
  Tensor grad_key = new_in_layout(key);
  Tensor grad_value = new_in_layout(value);
  const OptionGradient grad_bias = of_option(0, arguments.bias);
  const OptionGradient grad_table = of_option(1, arguments.bias_table);
  Tensor grad_relative_key = of_rows(2, arguments.relative_key);
  Tensor grad_relative_value = of_rows(3, arguments.relative_value);
  const OptionGradient grad_content_bias = of_option(4, arguments.content_bias);
  const OptionGradient grad_position_bias = of_option(5, arguments.position_bias);
  const OptionGradient grad_segment_bias = of_option(6, arguments.segment_bias);
  const OptionGradient grad_segment_key = of_option(7, arguments.segment_key);
  if (is_empty(sizes_of(query, key))) {
    for (Tensor* tensor :
         {&grad_query, &grad_key, &grad_value, &grad_relative_key, &grad_relative_value})
      torch::stable::zero_(*tensor);
  } else {
    BackwardParams params =
        backward_params(forward_params(arguments, query, key, value, output, lse), grad_output,
                        grad_lse, grad_query, grad_key, grad_value);
    params.grad_bias = grad_bias.scores();
    params.grad_table = grad_table.data();
    if (wanted(2)) params.grad_relative_key = repeating_heads_of(grad_relative_key);
    if (wanted(3)) params.grad_relative_value = repeating_heads_of(grad_relative_value);
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

STABLE_TORCH_LIBRARY_IMPL(ptmkernels, CPU, m) {
  m.impl("attention_forward", TORCH_BOX(&attention_forward<&forward>));
  m.impl("attention_backward", TORCH_BOX(&attention_backward<&backward>));
}

}  // namespace ptmkernels::attention
