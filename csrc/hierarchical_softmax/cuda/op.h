// The torch ops of the hierarchical softmax over the CUDA kernels, with the arguments and results
// of those on the CPU (../hierarchical_softmax.cpp). Also compiled against the emulation of the
// tests.
#pragma once

#include <tuple>

#include "hierarchical_softmax/cuda/kernels.cuh"
#include "word_vectors/cuda/host.h"

namespace ptmkernels::hierarchical_softmax::cuda {

inline Paths paths_of(const Tensor& hidden, const Tensor& target, const Tensor& node_weight,
                      const Tensor& offsets, const Tensor& path) {
  return {hidden.size(0),        static_cast<int>(hidden.size(1)),
          matrix(hidden),        matrix(node_weight),
          data<int64_t>(target), data<int64_t>(offsets),
          data<int32_t>(path)};
}

inline Tensor hierarchical_softmax_forward(const Tensor& hidden, const Tensor& target,
                                           const Tensor& node_weight, const Tensor& offsets,
                                           const Tensor& path, int64_t depth, bool sparse) {
  DeviceScope scope(hidden);
  const Tensor loss = empty<1>(hidden, {hidden.size(0)});
  scope.reads(hidden, target, node_weight, offsets, path);
  scope.writes(loss);
  const ForwardParams p = {paths_of(hidden, target, node_weight, offsets, path), data<float>(loss)};
  launch_rows<ForwardKernel>(scope.queue(), p, p.weight.bfloat16,
                             is_wide(hidden) && is_wide(node_weight));
  return loss;
}

// The gradient of `node_weight` has an entry for each step of each path, all paths being as long as
// the longest, so that their number is known without the device.
inline std::tuple<Tensor, Tensor> hierarchical_softmax_backward(
    const Tensor& grad, const Tensor& hidden, const Tensor& target, const Tensor& node_weight,
    const Tensor& offsets, const Tensor& path, int64_t depth, bool dense) {
  DeviceScope scope(hidden);
  const int64_t batch = hidden.size(0), width = hidden.size(1);
  const Tensor grad_hidden = empty<2>(hidden, {batch, width});
  Tensor grad_weight = empty<2>(hidden, {dense ? node_weight.size(0) : 0, dense ? width : 0});
  scope.reads(grad, hidden, target, node_weight, offsets, path);
  scope.writes(grad_hidden);
  BackwardParams p = {};
  static_cast<Paths&>(p) = paths_of(hidden, target, node_weight, offsets, path);
  Entries entries(hidden, dense ? batch * depth : 0);
  scope.writes(entries.id, entries.row, entries.factor);
  p.grad = data<float>(grad);
  p.grad_hidden = data<float>(grad_hidden);
  p.depth = static_cast<int>(depth);
  if (dense) {
    p.id = data<int64_t>(entries.id);
    p.factor = data<float>(entries.factor);
    p.row = data<int64_t>(entries.row);
  }
  launch_rows<BackwardKernel>(scope.queue(), p, p.weight.bfloat16,
                              is_wide(hidden) && is_wide(node_weight));
  if (dense) sum_entries(scope, hidden, entries, grad_weight, {});
  return {grad_hidden, grad_weight};
}

}  // namespace ptmkernels::hierarchical_softmax::cuda
