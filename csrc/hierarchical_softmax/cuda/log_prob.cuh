// The kernels of the log-probabilities of all words: a launch for each depth of the tree, a thread
// for each node of that depth in each row. Nodes of one depth share no column, so nothing has to
// wait for anything within a launch.
#pragma once

#include "word_vectors/cuda/rows.cuh"

namespace ptmkernels::hierarchical_softmax::cuda {

using namespace word_vectors::cuda;

// The steps first ... first + count - 1 of HuffmanTree.descent, in every row.
struct LevelParams {
  int64_t batch, nodes;  // B, V - 1
  int64_t first, count;  // of the steps
  const int32_t* steps;  // (V - 1, 3): node, columns of what follows its code bits 0 and 1
  const float* logits;   // (B, V - 1)
  float* columns;        // (B, V): log-probabilities, or sums of their gradients
  float* grad_logits;    // (B, V - 1), of the gradient's kernel
};

// A thread's decision, as offsets into the arrays of all rows.
struct Decision {
  bool there;
  int64_t logit, zero, one;

  SIMT_FN Decision(const LevelParams& p, int threads) {
    const int64_t index = block_index() * threads + thread_index();
    const int64_t row = index / p.count, step = 3 * (p.first + index % p.count);
    there = row < p.batch;
    if (!there) return;
    const int64_t columns = row * (p.nodes + 1);
    logit = row * p.nodes + load_global(p.steps + step);
    zero = columns + load_global(p.steps + step + 1);
    one = columns + load_global(p.steps + step + 2);
  }
};

struct LevelKernel {
  using Params = LevelParams;
  static constexpr int kThreads = 256, kMinBlocks = 1;

  static int shared_bytes(const Params&) { return 0; }
  static int64_t blocks(const Params& p) { return (p.batch * p.count + kThreads - 1) / kThreads; }
};

// log p of what follows each bit = log p of the node + log sigmoid(+-x).
struct DescendKernel : LevelKernel {
  static SIMT_FN void run(const Params& p) {
    const Decision at(p, kThreads);
    if (!at.there) return;
    const float x = load_global(p.logits + at.logit), reach = load_global(p.columns + at.zero);
    store_global(p.columns + at.zero, reach - softplus(-x));
    store_global(p.columns + at.one, reach - softplus(x));
  }
};

// d / d x = g_0 sigmoid(-x) - g_1 sigmoid(x), with g the sums over all words that follow a bit.
struct AscendKernel : LevelKernel {
  static SIMT_FN void run(const Params& p) {
    const Decision at(p, kThreads);
    if (!at.there) return;
    const float x = load_global(p.logits + at.logit);
    const float zero = load_global(p.columns + at.zero), one = load_global(p.columns + at.one);
    store_global(p.grad_logits + at.logit, zero * sigmoid(-x) - one * sigmoid(x));
    store_global(p.columns + at.zero, zero + one);
  }
};

}  // namespace ptmkernels::hierarchical_softmax::cuda
