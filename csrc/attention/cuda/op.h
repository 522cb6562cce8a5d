// The torch ops of attention over the CUDA kernels: reads the tensors, allocates the
// results, runs the kernels on torch's stream. Nothing is checked here:
// ptmkernels/ops/attention/validation.py has done so. Also compiled, with the kernels, against the
// emulation of the tests.
#pragma once

#include <array>
#include <limits>
#include <tuple>
#include <vector>

#include "attention/arguments.h"
#include "attention/cuda/run.h"
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

// kExact: float32 products to float32's precision, else in TF32 as torch's setting allows.
// clang-format off: one line a parameter would hide what belongs together
template <bool kExact>
std::tuple<Tensor, Tensor> attention_forward(
    const Tensor& query, const Tensor& key, const Tensor& value,
    const OptionalTensor& key_rank, const OptionalTensor& query_low, const OptionalTensor& query_high,
    const OptionalTensor& tree, const OptionalTensor& allowed,
    const OptionalTensor& given_bias, const OptionalTensor& bias_table, const OptionalTensor& bias_bucket,
    double scale, double dropout_p, const OptionalTensor& seed,
    const OptionalTensor& relative_key, const OptionalTensor& relative_value, int64_t relative_offset,
    const OptionalTensor& content_bias, const OptionalTensor& position_bias,
    const OptionalTensor& segment_bias, const OptionalTensor& segment_key,
    const OptionalTensor& query_segment, const OptionalTensor& key_segment,
    const OptionalTensor& query_position) {
  // clang-format on
  DeviceScope scope(query);
  const Sizes size = sizes_of(query, key);
  const std::array<int64_t, 3> rows = {size.batches, size.heads, size.queries};
  Tensor output = new_contiguous(query);
  Tensor lse = torch::stable::new_empty(query, rows, ScalarType::Float);
  if (is_empty(size)) {
    torch::stable::zero_(output);
    torch::stable::fill_(lse, -std::numeric_limits<double>::infinity());
    return {output, lse};
  }
  const OptionalTensor bias = readable_bias(given_bias, query);
  scope.reads(query, key, value, key_rank, query_low, query_high, tree, allowed, bias, bias_table,
              bias_bucket, seed, relative_key, relative_value, content_bias, position_bias,
              segment_bias, segment_key, query_segment, key_segment, query_position);
  scope.writes(output, lse);
  const Arguments arguments = {
      key_rank,       query_low,       query_high,    tree,          allowed,      bias,
      bias_table,     bias_bucket,     scale,         dropout_p,     seed,         relative_key,
      relative_value, relative_offset, content_bias,  position_bias, segment_bias, segment_key,
      query_segment,  key_segment,     query_position};
  const attention::ForwardParams params = forward_params(arguments, query, key, value, output, lse);
  TorchWorkspace workspace(query, scope);
  run_forward(scope.queue(), workspace, params, kExact);
  return {output, lse};
}

// The gradient of a differentiable option after the biases: float32, whole and contiguous; empty
// where it is not wanted.
struct OptionGradient {
  const OptionalTensor& option;
  bool wanted;
  Tensor sum;

  OptionGradient(const OptionalTensor& option, bool wanted, const Tensor& like)
      : option(option),
        wanted(wanted),
        sum(wanted ? torch::stable::new_empty(*option, option->sizes(), ScalarType::Float)
                   : torch::stable::new_empty(like, std::array<int64_t, 1>{0})) {}

  Heads heads() const { return wanted ? repeating_heads_of(sum) : Heads(); }
  float* data() const { return wanted ? static_cast<float*>(sum.data_ptr()) : nullptr; }
  Tensor finish() const { return wanted ? torch::stable::to(sum, option->scalar_type()) : sum; }
};

// Of query, key, value and the differentiable options in the order of the schema; empty where not
// wanted.
using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                             Tensor, Tensor>;

// clang-format off
template <bool kExact>
Gradients attention_backward(
    const Tensor& grad_output, const OptionalTensor& grad_lse,
    const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& output, const Tensor& lse,
    const OptionalTensor& key_rank, const OptionalTensor& query_low, const OptionalTensor& query_high,
    const OptionalTensor& tree, const OptionalTensor& allowed,
    const OptionalTensor& given_bias, const OptionalTensor& bias_table, const OptionalTensor& bias_bucket,
    double scale, double dropout_p, const OptionalTensor& seed,
    const OptionalTensor& relative_key, const OptionalTensor& relative_value, int64_t relative_offset,
    const OptionalTensor& content_bias, const OptionalTensor& position_bias,
    const OptionalTensor& segment_bias, const OptionalTensor& segment_key,
    const OptionalTensor& query_segment, const OptionalTensor& key_segment,
    const OptionalTensor& query_position,
    int64_t wanted_grads) {
  // clang-format on
  DeviceScope scope(query);
  const Sizes size = sizes_of(query, key);
  const std::array<int64_t, 1> none = {0};
  const auto empty = [&] { return torch::stable::new_empty(query, none); };
  Tensor grad_query = new_contiguous(query);
  Tensor grad_key = new_contiguous(key);
  Tensor grad_value = new_contiguous(value);
  const OptionalTensor bias = readable_bias(given_bias, query);
  const bool with_bias = wanted_grads & 1;
  const bool with_table = wanted_grads >> 1 & 1;
  Tensor grad_bias =
      with_bias ? torch::stable::new_empty(*bias, bias->sizes(), bias->scalar_type()) : empty();
  Tensor grad_table =
      with_table ? torch::stable::new_empty(*bias_table, bias_table->sizes(), ScalarType::Float)
                 : empty();
  int place = 2;
  const auto of_option = [&](const OptionalTensor& option) {
    return OptionGradient(option, wanted_grads >> place++ & 1, query);
  };
  // Braces keep the order of DIFFERENTIABLE (ptmkernels/ops/attention/options.py).
  std::array<OptionGradient, 6> gradients{of_option(relative_key), of_option(relative_value),
                                          of_option(content_bias), of_option(position_bias),
                                          of_option(segment_bias), of_option(segment_key)};
  if (is_empty(size)) {
    for (Tensor* tensor : {&grad_query, &grad_key, &grad_value, &grad_bias, &grad_table}) {
      torch::stable::zero_(*tensor);
    }
    for (OptionGradient& gradient : gradients) torch::stable::zero_(gradient.sum);
  } else {
    const Tensor incoming =
        grad_output.stride(3) == 1 ? grad_output : torch::stable::contiguous(grad_output);
    OptionalTensor incoming_lse;
    if (grad_lse) incoming_lse = torch::stable::contiguous(*grad_lse);
    scope.reads(incoming, incoming_lse, query, key, value, output, lse, key_rank, query_low,
                query_high, tree, allowed, bias, bias_table, bias_bucket, seed, relative_key,
                relative_value, content_bias, position_bias, segment_bias, segment_key,
                query_segment, key_segment, query_position);
    scope.writes(grad_query, grad_key, grad_value, grad_bias, grad_table);
    for (const OptionGradient& gradient : gradients) scope.writes(gradient.sum);
    const Arguments arguments = {
        key_rank,       query_low,       query_high,    tree,          allowed,      bias,
        bias_table,     bias_bucket,     scale,         dropout_p,     seed,         relative_key,
        relative_value, relative_offset, content_bias,  position_bias, segment_bias, segment_key,
        query_segment,  key_segment,     query_position};
    attention::BackwardParams params =
        backward_params(forward_params(arguments, query, key, value, output, lse), incoming,
                        incoming_lse, grad_query, grad_key, grad_value);
    if (with_bias) params.grad_bias = scores_of(grad_bias, dtype_of(grad_bias));
    if (with_table) params.grad_table = static_cast<float*>(grad_table.data_ptr());
    params.grad_relative_key = gradients[0].heads();
    params.grad_relative_value = gradients[1].heads();
    params.grad_content_bias = gradients[2].data();
    params.grad_position_bias = gradients[3].data();
    params.grad_segment_bias = gradients[4].data();
    params.grad_segment_key = gradients[5].data();
    TorchWorkspace workspace(query, scope);
    run_backward(scope.queue(), workspace, params, kExact);
  }
  if (with_bias) grad_bias = torch::stable::to(grad_bias, given_bias->scalar_type());
  if (with_table) grad_table = torch::stable::to(grad_table, bias_table->scalar_type());
  return {grad_query,
          grad_key,
          grad_value,
          grad_bias,
          grad_table,
          gradients[0].finish(),
          gradients[1].finish(),
          gradients[2].finish(),
          gradients[3].finish(),
          gradients[4].finish(),
          gradients[5].finish()};
}

}  // namespace ptmkernels::attention::cuda
