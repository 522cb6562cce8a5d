// The torch ops of the negative-sampling loss over the CUDA kernels, with the arguments and results
// of those on the CPU (../negative_sampling.cpp). Also compiled against the emulation of the tests.
#pragma once

#include <tuple>

#include "negative_sampling/cuda/kernels.cuh"
#include "word_vectors/cuda/host.h"

namespace ptmkernels::negative_sampling::cuda {

inline std::tuple<Tensor, Tensor, Tensor> negative_sampling_forward(
    const Tensor& hidden, const Tensor& target, const Tensor& weight,
    const OptionalTensor& negatives, const OptionalTensor& alias, const OptionalTensor& seed,
    int64_t num_negatives, const OptionalTensor& bias, const OptionalTensor& log_noise,
    bool skip_target, bool sparse) {
  DeviceScope scope(hidden);
  const int64_t batch = hidden.size(0), count = num_negatives + 1;
  const Tensor loss = empty<1>(hidden, {batch});
  const Tensor coefficient = empty<2>(hidden, {batch, count});
  const Tensor ids = empty<2>(hidden, {batch, count}, ScalarType::Long);
  scope.reads(hidden, target, weight, negatives, alias, seed, bias, log_noise);
  scope.writes(loss, coefficient, ids);
  ForwardParams p = {};
  p.batch = batch;
  p.count = static_cast<int>(count);
  p.width = static_cast<int>(hidden.size(1));
  p.hidden = matrix(hidden);
  p.weight = matrix(weight);
  p.target = data<int64_t>(target);
  p.negatives = data<int64_t>(negatives);
  p.alias = data<int64_t>(alias);
  p.cells = alias ? alias->size(0) : 0;
  p.seed = data<int64_t>(seed);
  p.bias = data<float>(bias);
  p.log_noise = data<float>(log_noise);
  p.skip_target = skip_target;
  p.loss = data<float>(loss);
  p.coefficient = data<float>(coefficient);
  p.ids = data<int64_t>(ids);
  launch_rows<ForwardKernel>(scope.queue(), p, p.weight.bfloat16,
                             is_wide(hidden) && is_wide(weight));
  return {loss, coefficient, ids};
}

inline std::tuple<Tensor, Tensor, Tensor> negative_sampling_backward(
    const Tensor& grad, const Tensor& hidden, const Tensor& weight, const Tensor& coefficient,
    const Tensor& ids, bool dense) {
  DeviceScope scope(hidden);
  const int64_t width = hidden.size(1);
  const int64_t rows = dense ? weight.size(0) : 0;
  const Tensor grad_hidden = empty<2>(hidden, {hidden.size(0), width});
  Tensor grad_weight = empty<2>(hidden, {rows, dense ? width : 0});
  const Tensor grad_bias = empty<1>(hidden, {rows});
  Entries entries(hidden, dense ? ids.numel() : 0);
  scope.reads(grad, weight, coefficient, ids);
  scope.writes(grad_hidden, entries.row, entries.factor);
  BackwardParams p = {};
  p.batch = ids.size(0);
  p.count = static_cast<int>(ids.size(1));
  p.width = static_cast<int>(width);
  p.weight = matrix(weight);
  p.grad = data<float>(grad);
  p.coefficient = data<float>(coefficient);
  p.ids = data<int64_t>(ids);
  p.grad_hidden = data<float>(grad_hidden);
  if (dense) {
    p.factor = data<float>(entries.factor);
    p.row = data<int64_t>(entries.row);
  }
  launch_rows<BackwardKernel>(scope.queue(), p, p.weight.bfloat16, is_wide(weight));
  if (dense) {
    entries.id = torch::stable::flatten(ids, 0, 1);
    sum_entries(scope, hidden, entries, grad_weight, grad_bias);
  }
  return {grad_hidden, grad_weight, grad_bias};
}

}  // namespace ptmkernels::negative_sampling::cuda
