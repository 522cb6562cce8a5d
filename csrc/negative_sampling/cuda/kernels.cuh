// The kernels of the negative-sampling loss (../negative_sampling.cpp has the formula): a warp for
// each row of `hidden`, kGroup outputs at a time.
#pragma once

#include "word_vectors/cuda/draw.cuh"
#include "word_vectors/cuda/rows.cuh"

namespace ptmkernels::negative_sampling::cuda {

using namespace word_vectors::cuda;

struct ForwardParams {
  int64_t batch;
  int count;  // of outputs: the target and N negatives
  int width;
  Matrix hidden, weight;
  const int64_t* target;     // (B,)
  const int64_t* negatives;  // (B, N); null = drawn
  const int64_t* alias;      // (V,)
  int64_t cells;             // V
  const int64_t* seed;       // (1,)
  const float* bias;         // (V,) or null
  const float* log_noise;    // (V,) or null
  bool skip_target;
  float* loss;         // (B,)
  float* coefficient;  // (B, 1 + N): d loss / d logit
  int64_t* ids;        // (B, 1 + N)
};

template <typename T, int kWide>
struct ForwardKernel : RowKernel<ForwardParams> {
  static SIMT_FN void run(const Params& p) {
    const int64_t b = row();
    if (b >= p.batch) return;
    const int64_t target = load_global(p.target + b);
    float total = 0.0f;
    for (int first = 0; first < p.count; first += kGroup) {
      const int o = first + lane_index() % kGroup;
      const bool there = o < p.count;
      const int64_t id = there ? output(p, b, o, target) : target;
      const float dot = products<kWide>(p.hidden, b, Rows<T>(p.weight, id), p.width);
      if (lane_index() < kGroup && there) total += score(p, b, o, id, target, dot);
    }
    total = sum_of_lanes(total);
    if (lane_index() == 0) store_global(p.loss + b, total);
  }

 private:
  // Draw n of row b: Philox counter (b low, b high, n / 2, 0), two words for each of both.
  static SIMT_FN int64_t output(const Params& p, int64_t b, int o, int64_t target) {
    const int n = o - 1;
    if (n < 0) return target;
    if (p.negatives != nullptr) return load_global(p.negatives + b * (p.count - 1) + n);
    uint32_t words[4];
    philox_at(b, static_cast<uint32_t>(n) / 2, static_cast<uint64_t>(load_global(p.seed)), words);
    return alias_draw(p.alias, p.cells, n % 2 ? words[2] : words[0], n % 2 ? words[3] : words[1]);
  }

  // Stores an output's id and coefficient; returns its part of the loss.
  static SIMT_FN float score(const Params& p, int64_t b, int o, int64_t id, int64_t target,
                             float logit) {
    const int64_t at = b * p.count + o;
    store_global(p.ids + at, id);
    if (o > 0 && p.skip_target && id == target) {
      store_global(p.coefficient + at, 0.0f);
      return 0.0f;
    }
    if (p.bias != nullptr) logit += load_global(p.bias + id);
    if (p.log_noise != nullptr) logit -= load_global(p.log_noise + id);
    store_global(p.coefficient + at, o == 0 ? -sigmoid(-logit) : sigmoid(logit));
    return softplus(o == 0 ? -logit : logit);
  }
};

struct BackwardParams {
  int64_t batch;
  int count, width;
  Matrix weight;
  const float* grad;         // (B,)
  const float* coefficient;  // (B, 1 + N)
  const int64_t* ids;        // (B, 1 + N)
  float* grad_hidden;        // (B, D)
  float* factor;             // (B (1 + N),): d total / d logit, and
  int64_t* row;              // (B (1 + N),): its row of `hidden`; both null where not asked for
};

template <typename T, int kWide>
struct BackwardKernel : RowKernel<BackwardParams> {
  static SIMT_FN void run(const Params& p) {
    const int64_t b = row();
    if (b >= p.batch) return;
    const float grad = load_global(p.grad + b);
    for (int first = 0; first < p.count; first += kGroup) {
      const int o = first + lane_index() % kGroup;
      const bool there = o < p.count;
      const int64_t at = b * p.count + (there ? o : 0);
      const float factor = there ? grad * load_global(p.coefficient + at) : 0.0f;
      if (p.factor != nullptr && lane_index() < kGroup && there) {
        store_global(p.factor + at, factor);
        store_global(p.row + at, b);
      }
      const Rows<T> rows(p.weight, load_global(p.ids + at));
      add_rows<kWide>(p.grad_hidden + b * p.width, first > 0, rows, factor, p.width);
    }
  }
};

}  // namespace ptmkernels::negative_sampling::cuda
