// The small kernels of the relative terms: products of rows with one vector of a head before the
// others, and sums of rows, weighted by sums of dS, after them.
#pragma once

#include "attention/cuda/device_params.h"
#include "attention/cuda/prepare.cuh"

namespace ptmkernels::attention::cuda {

// One number for each row.
struct RowProductsParams {
  int batches, heads, length, head_dim;
  int heads_each;  // query heads that share a head of x
  Rows x;
  Rows shift;      // (1, H, 1, D), or null
  Rows vector;     // (1, H, 1, D)
  float* product;  // (batches, H, length)
};

// product_bhn = (x_bhn + shift_h) . vector_h; one warp for each.
template <typename T>
struct RowProductsKernel {
  using Params = RowProductsParams;
  static constexpr int kThreads = 128, kMinBlocks = 1, kRowsPerBlock = kThreads / kWarpSize;

  static int shared_bytes(const Params&) { return 0; }
  static SIMT_HOST_FN int64_t rows(const Params& p) {
    return static_cast<int64_t>(p.batches) * p.heads * p.length;
  }
  static int64_t blocks(const Params& p) { return (rows(p) + kRowsPerBlock - 1) / kRowsPerBlock; }

  static SIMT_FN void run(const Params& p) {
    const int64_t row = block_index() * kRowsPerBlock + warp_index();
    if (row >= rows(p)) return;
    const int64_t n = row % p.length, head = row / p.length % p.heads;
    const int64_t batch = row / p.length / p.heads;
    const T* x = static_cast<const T*>(p.x.data) + batch * p.x.batch +
                 head / p.heads_each * p.x.head + n * p.x.row;
    const T* shift = static_cast<const T*>(p.shift.data) + head * p.shift.head;
    const T* vector = static_cast<const T*>(p.vector.data) + head * p.vector.head;
    float sum = 0.0f;
    for (int d = lane_index(); d < p.head_dim; d += kWarpSize) {
      const float added = p.shift.data != nullptr ? to_float(load_global(shift + d)) : 0.0f;
      sum += (to_float(load_global(x + d)) + added) * to_float(load_global(vector + d));
    }
    sum = sum_of_warp(sum);
    if (lane_index() == 0) store_global(p.product + row, sum);
  }
};

struct WeightedRowsParams {
  int groups, batches, heads, length, head_dim;
  int heads_each;       // query heads that share a head of x
  const float* weight;  // (groups, batches, H, length)
  Rows x;
  int64_t x_group;  // stride
  Rows shift;       // (1, H, 1, D), or null
  float scale;
  int splits;
  float* sum;  // (splits, H, D)
};

// sum_h = scale sum_gbn weight_gbhn (x_gbhn + shift_h); a thread for each column.
template <typename T>
struct WeightedRowsKernel {
  using Params = WeightedRowsParams;
  static constexpr int kThreads = 256, kMinBlocks = 1;
  static constexpr int kRowsPerSplit = 512;

  static int shared_bytes(const Params&) { return 0; }
  static SIMT_HOST_FN int64_t rows(const Params& p) {
    return static_cast<int64_t>(p.groups) * p.batches * p.length;
  }
  static int64_t blocks(const Params& p) { return static_cast<int64_t>(p.heads) * p.splits; }

  static SIMT_FN void run(const Params& p) {
    const int col = thread_index();
    if (col >= p.head_dim) return;
    const int head = static_cast<int>(block_index() % p.heads);
    const int64_t split = block_index() / p.heads;
    const T* x = static_cast<const T*>(p.x.data) + head / p.heads_each * p.x.head + col;
    const T* shift = static_cast<const T*>(p.shift.data) + head * p.shift.head + col;
    const float added = p.shift.data != nullptr ? to_float(load_global(shift)) : 0.0f;
    const int64_t end = rows(p) * (split + 1) / p.splits;
    float sum = 0.0f;
    for (int64_t row = rows(p) * split / p.splits; row < end; ++row) {
      const int64_t n = row % p.length, batch = row / p.length % p.batches;
      const int64_t group = row / p.length / p.batches;
      const T* from = x + group * p.x_group + batch * p.x.batch + n * p.x.row;
      const int64_t matrix = row / p.length * p.heads + head;
      sum += load_global(p.weight + matrix * p.length + n) * (to_float(load_global(from)) + added);
    }
    store_global(p.sum + (split * p.heads + head) * p.head_dim + col, sum * p.scale);
  }
};

}  // namespace ptmkernels::attention::cuda
