// The torch op of the fused training step over the CUDA kernels, with the arguments and results of
// that on the CPU (../step.cpp); its workers are warps. Also compiled against the emulation of the
// tests.
#pragma once

#include <algorithm>

#include "word_vectors/arguments.h"
#include "word_vectors/cuda/host.h"
#include "word_vectors/cuda/plan.cuh"
#include "word_vectors/cuda/step.cuh"

namespace ptmkernels::word_vectors::cuda {

constexpr int kMaxSharedBytes = 99 * 1024;    // what every card from sm_80 on gives to one block
constexpr int kBlocksOfMultiprocessor = 16;   // more than fit at once leave no gap when some end
constexpr int64_t kMaxWorkspace = 256 << 20;  // bytes, for rows that shared memory cannot hold

// The kept words of a call, one after the other.
struct Plan {
  Tensor kept, word, place, first;

  Plan(DeviceScope& scope, const StepOptions& options, const Tensor& tokens, const Tensor& seed)
      : kept(numbers(tokens)),
        word(empty<1>(tokens, {tokens.size(0)}, ScalarType::Int)),
        place(numbers(tokens)),
        first(numbers(tokens)) {
    Tensor ended = numbers(tokens);
    const Tensor run_start = empty<1>(tokens, {tokens.size(0) + 1}, ScalarType::Long);
    for (const Tensor& tensor : {kept, ended, run_start, word, place, first}) {
      scope.workspace(tensor);
    }
    PlanParams p = {options,
                    data<int64_t>(seed),
                    data<int64_t>(kept),
                    data<int64_t>(ended),
                    data<int64_t>(run_start),
                    data<int32_t>(word),
                    data<int64_t>(place),
                    data<int64_t>(first)};
    launch<MarkKernel>(scope.queue(), TokenKernel::blocks(p), p);
    kept = running_sums(kept);
    ended = running_sums(ended);
    scope.reads(kept, ended);
    p.kept = data<int64_t>(kept);
    p.ended = data<int64_t>(ended);
    launch<RunStartKernel>(scope.queue(), TokenKernel::blocks(p), p);
    launch<CompactKernel>(scope.queue(), TokenKernel::blocks(p), p);
  }

 private:
  static Tensor numbers(const Tensor& tokens) {
    return empty<1>(tokens, {tokens.size(0)}, ScalarType::Long);
  }
};

inline Layout layout_of(const StepOptions& o) {
  const int most = o.alias != nullptr ? o.negatives + 1 : kWarpSize;
  const bool groups = o.cbow || most > kGroup;
  return {o.cbow ? 1 : 2 * o.window + 1, std::min(most, kGroup), o.cbow, groups};
}

template <typename T, int kWide, bool kShared>
void launch_step(const Queue& queue, const StepParams& params) {
  launch<StepKernel<T, kWide, kShared>>(queue, params.blocks, params);
}

template <typename T>
void launch_step(const Queue& queue, const StepParams& params, bool wide) {
  if (params.workspace != nullptr) {
    launch_step<T, 1, false>(queue, params);
  } else if (wide) {
    launch_step<T, 4, true>(queue, params);
  } else {
    launch_step<T, 1, true>(queue, params);
  }
}

inline Tensor word_vectors_step_(Tensor input_weight, Tensor output_weight, const Tensor& tokens,
                                 const OptionalTensor& keep, const OptionalTensor& alias,
                                 const OptionalTensor& tree_offsets,
                                 const OptionalTensor& tree_path,
                                 const OptionalTensor& subword_offsets,
                                 const OptionalTensor& subwords, int64_t max_subwords, bool cbow,
                                 int64_t window, int64_t negatives, double learning_rate,
                                 double min_learning_rate, int64_t position, int64_t total,
                                 const Tensor& seed, int64_t workers) {
  DeviceScope scope(input_weight);
  const int64_t count = tokens.size(0);
  Tensor statistics = empty<1>(input_weight, {4}, ScalarType::Double);
  torch::stable::zero_(statistics);
  if (count == 0) return statistics;
  scope.reads(tokens, keep, alias, tree_offsets, tree_path, subword_offsets, subwords, seed);
  scope.updates(input_weight, output_weight, statistics);
  const StepOptions o =
      step_options(input_weight, output_weight, tokens, keep, alias, tree_offsets, tree_path,
                   subword_offsets, subwords, max_subwords, cbow, window, negatives, learning_rate,
                   min_learning_rate, position, total);
  const Plan plan(scope, o, tokens, seed);
  StepParams p = {};
  p.options = o;
  p.seed = data<int64_t>(seed);
  p.count = data<int64_t>(plan.kept) + count - 1;
  p.word = data<int32_t>(plan.word);
  p.place = data<int64_t>(plan.place);
  p.first = data<int64_t>(plan.first);
  p.layout = layout_of(o);
  p.stretches = (count + kStretch - 1) / kStretch;
  const Queue queue = scope.queue();
  p.blocks =
      std::min({p.stretches, workers, int64_t{kBlocksOfMultiprocessor} * queue.multiprocessors()});
  p.statistics = data<double>(statistics);
  OptionalTensor workspace;
  const int64_t bytes = int64_t{4} * p.layout.rows() * o.width;
  if (bytes > kMaxSharedBytes) {
    p.blocks = std::clamp<int64_t>(kMaxWorkspace / bytes, 1, p.blocks);
    workspace = empty<1>(input_weight, {p.blocks * bytes / 4});
    scope.workspace(*workspace);
    p.workspace = data<float>(*workspace);
  }
  const bool wide = is_wide(input_weight) && is_wide(output_weight);
  o.bfloat16 ? launch_step<bfloat16>(queue, p, wide) : launch_step<float>(queue, p, wide);
  return statistics;
}

}  // namespace ptmkernels::word_vectors::cuda
