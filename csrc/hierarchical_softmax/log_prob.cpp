// The torch ops of the log-probabilities of all words on the CPU: the tree is walked once, from the
// root down, and its gradient once, from the leaves up. Along the way each inner node keeps its
// number in the column of a word below it, the one that code bits 0 alone lead to: so no buffer is
// needed but the result. Nothing is checked here: ptmkernels/ops/hierarchical_softmax has done so.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <vector>

#include "common/cpu_arch.h"
#include "hierarchical_softmax/cpu/kernels.h"

namespace ptmkernels {

const BranchKernels& branch_kernels() {
  return PTMKERNELS_FOR_THIS_CPU(kGenericBranches, kWideBranches, kAvx2Branches, kAvx512Branches,
                                 kAvx512Branches);
}

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// An inner node, and the columns that stand for what follows its code bits 0 and 1; the first one
// stands for the node itself, too.
struct Step {
  int32_t node, zero, one;
};

// Calls visit(row, x, zero, one, steps) for each row, x its logits, zero and one scratch as large.
template <class Visit>
void for_each_row(const Tensor& logits, const Tensor& steps, const Visit& visit) {
  const int64_t nodes = logits.size(1);
  const auto* x = static_cast<const float*>(logits.data_ptr());
  const auto* first = static_cast<const Step*>(steps.data_ptr());
  torch::stable::parallel_for(0, logits.size(0), 1, [&](int64_t begin, int64_t end) {
    std::vector<float> zero(static_cast<size_t>(nodes)), one(static_cast<size_t>(nodes));
    for (int64_t b = begin; b < end; ++b) {
      visit(b, x + b * nodes, zero.data(), one.data(), first);
    }
  });
}

// logits (B, V - 1), steps (V - 1, 3) from the root down -> log-probabilities (B, V). `levels` is
// for backends that take all nodes of a depth together.
Tensor hierarchical_softmax_log_prob_forward(const Tensor& logits, const Tensor& steps,
                                             const Tensor& levels) {
  const BranchKernels& kernels = branch_kernels();
  const int64_t nodes = logits.size(1), words = nodes + 1;
  Tensor log_prob = torch::stable::empty({logits.size(0), words}, ScalarType::Float);
  auto* result = static_cast<float*>(log_prob.data_ptr());
  for_each_row(logits, steps,
               [&](int64_t b, const float* x, float* zero, float* one, const Step* step) {
                 float* row = result + b * words;
                 kernels.log_probabilities(zero, one, x, nodes);
                 std::fill(row, row + words, 0.0f);
                 for (const Step* end = step + nodes; step < end; ++step) {
                   const float reach = row[step->zero];
                   row[step->zero] = reach + zero[step->node];
                   row[step->one] = reach + one[step->node];
                 }
               });
  return log_prob;
}

// -> grad_logits (B, V - 1). With g the sums of the gradients of all words that follow a bit:
//   d / d x = g_0 sigmoid(-x) - g_1 sigmoid(x).
Tensor hierarchical_softmax_log_prob_backward(const Tensor& grad, const Tensor& logits,
                                              const Tensor& steps, const Tensor& levels) {
  const BranchKernels& kernels = branch_kernels();
  const int64_t nodes = logits.size(1), words = nodes + 1;
  Tensor grad_logits = torch::stable::empty({logits.size(0), nodes}, ScalarType::Float);
  const auto* upstream = static_cast<const float*>(grad.data_ptr());
  auto* result = static_cast<float*>(grad_logits.data_ptr());
  for_each_row(logits, steps,
               [&](int64_t b, const float* x, float* zero, float* one, const Step* begin) {
                 std::vector<float> sums(upstream + b * words, upstream + (b + 1) * words);
                 float* row = result + b * nodes;
                 kernels.probabilities(zero, one, x, nodes);
                 for (const Step* step = begin + nodes; step-- > begin;) {
                   const float on_zero = sums[step->zero], on_one = sums[step->one];
                   row[step->node] = on_zero * one[step->node] - on_one * zero[step->node];
                   sums[step->zero] = on_zero + on_one;
                 }
               });
  return grad_logits;
}

}  // namespace
}  // namespace ptmkernels

STABLE_TORCH_LIBRARY_IMPL(ptmkernels, CPU, m) {
  m.impl("hierarchical_softmax_log_prob_forward",
         TORCH_BOX(&ptmkernels::hierarchical_softmax_log_prob_forward));
  m.impl("hierarchical_softmax_log_prob_backward",
         TORCH_BOX(&ptmkernels::hierarchical_softmax_log_prob_backward));
}
