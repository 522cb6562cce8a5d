// The torch ops of the log-probabilities of all words over the CUDA kernels, with the arguments and
// results of those on the CPU (../log_prob.cpp). `levels` lies on the CPU, so nothing is read back
// from the device. Also compiled against the emulation of the tests.
#pragma once

#include "hierarchical_softmax/cuda/log_prob.cuh"
#include "word_vectors/cuda/host.h"

namespace ptmkernels::hierarchical_softmax::cuda {

inline LevelParams level_params(const Tensor& logits, const Tensor& steps, const Tensor& columns) {
  LevelParams p = {};
  p.batch = logits.size(0);
  p.nodes = logits.size(1);
  p.steps = data<int32_t>(steps);
  p.logits = data<float>(logits);
  p.columns = data<float>(columns);
  return p;
}

// Launches the kernel for the nodes of one depth; `bounds` are those of its steps.
template <typename Kernel>
void launch_level(const Queue& queue, LevelParams p, const int64_t* bounds) {
  p.first = bounds[0];
  p.count = bounds[1] - bounds[0];
  if (p.batch > 0) launch<Kernel>(queue, Kernel::blocks(p), p);
}

inline Tensor hierarchical_softmax_log_prob_forward(const Tensor& logits, const Tensor& steps,
                                                    const Tensor& levels) {
  DeviceScope scope(logits);
  Tensor log_prob = empty<2>(logits, {logits.size(0), logits.size(1) + 1});
  scope.reads(logits, steps);
  scope.writes(log_prob);
  torch::stable::zero_(log_prob);
  const LevelParams p = level_params(logits, steps, log_prob);
  const auto* bounds = data<int64_t>(levels);
  for (int64_t depth = 0; depth + 1 < levels.numel(); ++depth) {
    launch_level<DescendKernel>(scope.queue(), p, bounds + depth);
  }
  return log_prob;
}

inline Tensor hierarchical_softmax_log_prob_backward(const Tensor& grad, const Tensor& logits,
                                                     const Tensor& steps, const Tensor& levels) {
  DeviceScope scope(logits);
  const Tensor grad_logits = empty<2>(logits, {logits.size(0), logits.size(1)});
  Tensor sums = empty<2>(grad, {grad.size(0), grad.size(1)});
  scope.reads(logits, steps);
  scope.writes(grad_logits, sums);
  torch::stable::copy_(sums, grad);
  LevelParams p = level_params(logits, steps, sums);
  p.grad_logits = data<float>(grad_logits);
  const auto* bounds = data<int64_t>(levels);
  for (int64_t depth = levels.numel() - 1; depth-- > 0;) {
    launch_level<AscendKernel>(scope.queue(), p, bounds + depth);
  }
  return grad_logits;
}

}  // namespace ptmkernels::hierarchical_softmax::cuda
