// The kernels of the hierarchical softmax (../hierarchical_softmax.cpp has the formula): a warp for
// each row of `hidden`, kGroup nodes of its path at a time.
#pragma once

#include "word_vectors/cuda/rows.cuh"

namespace ptmkernels::hierarchical_softmax::cuda {

using namespace word_vectors::cuda;

struct Paths {
  int64_t batch;
  int width;
  Matrix hidden, weight;
  const int64_t* target;   // (B,)
  const int64_t* offsets;  // (V + 1,)
  const int32_t* path;     // inner node * 2 + code bit

  // The path of row b.
  SIMT_FN int64_t begin(int64_t b) const { return load_global(offsets + load_global(target + b)); }
  SIMT_FN int length(int64_t b) const {
    const int64_t* ends = offsets + load_global(target + b);
    return static_cast<int>(load_global(ends + 1) - load_global(ends));
  }
};

// A lane's step of the path: it knows step `first` + its number modulo kGroup.
struct Step {
  int place;
  bool there;  // else the last one stands in
  int64_t node;
  float sign;  // 1 for code bit 0, -1 for 1

  SIMT_FN Step(const Paths& p, int64_t begin, int length, int first) {
    place = first + lane_index() % kGroup;
    there = place < length;
    const int32_t entry = load_global(p.path + begin + (there ? place : length - 1));
    node = entry >> 1;
    sign = entry & 1 ? -1.0f : 1.0f;
  }
};

struct ForwardParams : Paths {
  float* loss;  // (B,)
};

template <typename T, int kWide>
struct ForwardKernel : RowKernel<ForwardParams> {
  static SIMT_FN void run(const Params& p) {
    const int64_t b = row();
    if (b >= p.batch) return;
    const int64_t begin = p.begin(b);
    const int length = p.length(b);
    float total = 0.0f;
    for (int first = 0; first < length; first += kGroup) {
      const Step step(p, begin, length, first);
      const float dot = products<kWide>(p.hidden, b, Rows<T>(p.weight, step.node), p.width);
      if (lane_index() < kGroup && step.there) total += softplus(-step.sign * dot);
    }
    total = sum_of_lanes(total);
    if (lane_index() == 0) store_global(p.loss + b, total);
  }
};

struct BackwardParams : Paths {
  const float* grad;   // (B,)
  float* grad_hidden;  // (B, D)
  int depth;           // of the tree: the length of its longest path
  // Of each step of a path, (B, depth); null where not asked for.
  int64_t* id;    // the node, -1 beyond the path's end
  float* factor;  // d total / d logit
  int64_t* row;   // its row of `hidden`
};

template <typename T, int kWide>
struct BackwardKernel : RowKernel<BackwardParams> {
  static SIMT_FN void run(const Params& p) {
    const int64_t b = row();
    if (b >= p.batch) return;
    const int64_t begin = p.begin(b);
    const int length = p.length(b);
    const float grad = load_global(p.grad + b);
    float* target = p.grad_hidden + b * p.width;
    for (int first = 0; first < length; first += kGroup) {
      const Step step(p, begin, length, first);
      const Rows<T> rows(p.weight, step.node);
      const float dot = products<kWide>(p.hidden, b, rows, p.width);
      const float slope = -step.sign * sigmoid(-step.sign * dot);
      const float factor = step.there ? grad * slope : 0.0f;
      if (p.id != nullptr && lane_index() < kGroup && step.there) {
        store_entry(p, b, step.place, step.node, factor);
      }
      add_rows<kWide>(target, first > 0, rows, factor, p.width);
    }
    if (p.id != nullptr) {
      for (int place = length + lane_index(); place < p.depth; place += kWarpSize) {
        store_entry(p, b, place, -1, 0.0f);
      }
    }
    if (length > 0) return;
    for (int d = lane_index(); d < p.width; d += kWarpSize) store_global(target + d, 0.0f);
  }

 private:
  static SIMT_FN void store_entry(const Params& p, int64_t b, int place, int64_t id, float factor) {
    const int64_t at = b * p.depth + place;
    store_global(p.id + at, id);
    store_global(p.factor + at, factor);
    store_global(p.row + at, b);
  }
};

}  // namespace ptmkernels::hierarchical_softmax::cuda
