// The torch ops of attention over the CUDA kernels: reads the tensors, allocates the
// results, runs the kernels on torch's stream. Nothing is checked here:
// ptmkernels/ops/attention/validation.py has done so. Also compiled, with the kernels, against the
// emulation of the tests.
#pragma once

#include <array>
#include <limits>
#include <vector>

#include "attention/cuda/run.h"
#include "attention/torch_op.h"
#include "common/torch_device.h"

namespace ptmkernels::attention::cuda {

class TorchWorkspace : public Workspace {
 public:
  TorchWorkspace(const Tensor& like, DeviceScope& scope) : like_(like), scope_(scope) {}

 private:
  void* bytes(int64_t count) override {
    const std::array<int64_t, 1> size = {count};
    kept_.push_back(torch::stable::new_empty(like_, size, ScalarType::Byte));
    scope_.workspace(kept_.back());
    return kept_.back().data_ptr();
  }

  const Tensor& like_;
  DeviceScope& scope_;
  std::vector<Tensor> kept_;
};

// The kernels read a bias of the query's type or of float32.
inline OptionalTensor readable_bias(const OptionalTensor& bias, const Tensor& query) {
  if (!bias || bias->scalar_type() == query.scalar_type()) return bias;
  return torch::stable::to(*bias, ScalarType::Float);
}

// Declares the tensors of the options as read by the kernels of a scope.
inline void reads(DeviceScope& scope, const Arguments& arguments) {
  const Arguments& a = arguments;
  scope.reads(a.key_rank, a.query_low, a.query_high, a.tree, a.allowed, a.bias, a.bias_table,
              a.bias_bucket, a.seed, a.relative_key, a.relative_value, a.content_bias,
              a.position_bias, a.segment_bias, a.segment_key, a.query_segment, a.key_segment,
              a.query_position);
}

// kExact: float32 products to float32's precision, else in TF32 as torch's setting allows.
template <bool kExact>
Attended forward(const Tensor& query, const Tensor& key, const Tensor& value, Arguments arguments) {
  DeviceScope scope(query);
  Tensor output = new_contiguous(query);
  Tensor lse = new_lse(query);
  if (is_empty(sizes_of(query, key))) {
    torch::stable::zero_(output);
    torch::stable::fill_(lse, -std::numeric_limits<double>::infinity());
    return {output, lse};
  }
  arguments.bias = readable_bias(arguments.bias, query);
  scope.reads(query, key, value);
  reads(scope, arguments);
  scope.writes(output, lse);
  const attention::ForwardParams params = forward_params(arguments, query, key, value, output, lse);
  TorchWorkspace workspace(query, scope);
  run_forward(scope.queue(), workspace, params, kExact);
  return {output, lse};
}

template <bool kExact>
Gradients backward(const Tensor& grad_output, const OptionalTensor& grad_lse, const Tensor& query,
                   const Tensor& key, const Tensor& value, const Tensor& output, const Tensor& lse,
                   Arguments arguments, int64_t wanted_grads) {
  DeviceScope scope(query);
  const OptionalTensor given_bias = arguments.bias;
  arguments.bias = readable_bias(given_bias, query);
  Tensor grad_query = new_contiguous(query);
  Tensor grad_key = new_contiguous(key);
  Tensor grad_value = new_contiguous(value);
  int place = 0;
  const auto of_option = [&](const OptionalTensor& option, ScalarType sum = ScalarType::Float) {
    return OptionGradient(option, wanted_grads >> place++ & 1, query, sum);
  };
  // Braces keep the order of DIFFERENTIABLE (ptmkernels/ops/attention/options.py).
  std::array<OptionGradient, 8> gradients{
      of_option(given_bias, given_bias ? arguments.bias->scalar_type() : ScalarType::Float),
      of_option(arguments.bias_table),
      of_option(arguments.relative_key),
      of_option(arguments.relative_value),
      of_option(arguments.content_bias),
      of_option(arguments.position_bias),
      of_option(arguments.segment_bias),
      of_option(arguments.segment_key)};
  if (is_empty(sizes_of(query, key))) {
    for (Tensor* tensor : {&grad_query, &grad_key, &grad_value}) torch::stable::zero_(*tensor);
    for (OptionGradient& gradient : gradients) torch::stable::zero_(gradient.sum());
  } else {
    scope.reads(grad_output, grad_lse, query, key, value, output, lse);
    reads(scope, arguments);
    scope.writes(grad_query, grad_key, grad_value);
    for (OptionGradient& gradient : gradients) scope.writes(gradient.sum());
    attention::BackwardParams params =
        backward_params(forward_params(arguments, query, key, value, output, lse), grad_output,
                        grad_lse, grad_query, grad_key, grad_value);
    params.grad_bias = gradients[0].scores();
    params.grad_table = gradients[1].data();
    params.grad_relative_key = gradients[2].heads();
    params.grad_relative_value = gradients[3].heads();
    params.grad_content_bias = gradients[4].data();
    params.grad_position_bias = gradients[5].data();
    params.grad_segment_bias = gradients[6].data();
    params.grad_segment_key = gradients[7].data();
    TorchWorkspace workspace(query, scope);
    run_backward(scope.queue(), workspace, params, kExact);
  }
  const auto& g = gradients;
  return {grad_query,    grad_key,      grad_value,    g[0].finish(), g[1].finish(), g[2].finish(),
          g[3].finish(), g[4].finish(), g[5].finish(), g[6].finish(), g[7].finish()};
}

}  // namespace ptmkernels::attention::cuda
