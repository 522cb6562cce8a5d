// The small kernels around the large ones: row statistics for the backward pass, its gradient of
// normalised rows, the bias of each distance, the join of a forward pass that was split over the
// keys, and that of parts of a gradient.
#pragma once

#include "attention/cuda/device_params.h"
#include "attention/cuda/score.cuh"
#include "attention/params.h"

namespace ptmkernels::attention::cuda {

SIMT_FN float sum_of_warp(float x) {
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
  return x;
}

struct RowStatisticsParams {
  int batch, heads, query_len, head_dim;
  Rows output, grad_output;
  const float* lse;       // (B, H, L)
  const float* grad_lse;  // (B, H, L), or null
  const float* factors;   // (B, H, L) of ScaleRowsKernel, or null
  bool scale_first;
  float* row_lse;  // as BackwardParams has them
  float* delta;
};

// delta_i = sum_d dO_id O_id - dlse_i, which is what every dS_ij of the row loses (Dao et al. 2022,
// appendix B.2); one warp for each query.
template <typename T>
struct RowStatisticsKernel {
  using Params = RowStatisticsParams;
  static constexpr int kThreads = 128, kMinBlocks = 1, kRowsPerBlock = kThreads / kWarpSize;

  static int shared_bytes(const Params&) { return 0; }
  static int64_t blocks(const Params& p) {
    const int64_t rows = static_cast<int64_t>(p.batch) * p.heads * p.query_len;
    return (rows + kRowsPerBlock - 1) / kRowsPerBlock;
  }

  static SIMT_FN void run(const Params& p) {
    const int64_t row = block_index() * kRowsPerBlock + warp_index();
    if (row >= static_cast<int64_t>(p.batch) * p.heads * p.query_len) return;
    const int64_t query = row % p.query_len, head = row / p.query_len % p.heads;
    const int64_t batch = row / p.query_len / p.heads;
    const T* output = line(p.output, batch, head, query);
    const T* grad_output = line(p.grad_output, batch, head, query);
    float sum = 0.0f;
    for (int d = lane_index(); d < p.head_dim; d += kWarpSize) {
      sum += to_float(load_global(output + d)) * to_float(load_global(grad_output + d));
    }
    sum = sum_of_warp(sum);
    if (lane_index() != 0) return;
    const float lse = load_global(p.lse + row);
    const float scaled = p.scale_first ? lse : lse * kLog2e;
    store_global(p.row_lse + row, lse == -kInfinity ? kInfinity : scaled);
    float grad_lse = p.grad_lse ? load_global(p.grad_lse + row) : 0.0f;
    if (p.factors != nullptr) grad_lse *= load_global(p.factors + row);
    store_global(p.delta + row, sum - grad_lse);
  }

 private:
  static SIMT_FN const T* line(const Rows& rows, int64_t batch, int64_t head, int64_t row) {
    return static_cast<const T*>(rows.data) + batch * rows.batch + head * rows.head +
           row * rows.row;
  }
};

struct ScaleRowsParams {
  int batch, heads, query_len, head_dim;
  Rows rows;
  const float* factors;  // (B, H, L)
  void* scaled;          // (B, H, L, D), in the type of the rows
};

// Rows times a factor each. The gradients of a row are all proportional to its dO and dlse, so
// these take the factors of weights that a rounded log-sum-exp leaves without a sum of 1.
template <typename T>
struct ScaleRowsKernel {
  using Params = ScaleRowsParams;
  static constexpr int kThreads = 128, kMinBlocks = 1, kRowsPerBlock = kThreads / kWarpSize;

  static int shared_bytes(const Params&) { return 0; }
  static int64_t blocks(const Params& p) {
    const int64_t rows = static_cast<int64_t>(p.batch) * p.heads * p.query_len;
    return (rows + kRowsPerBlock - 1) / kRowsPerBlock;
  }

  static SIMT_FN void run(const Params& p) {
    const int64_t row = block_index() * kRowsPerBlock + warp_index();
    if (row >= static_cast<int64_t>(p.batch) * p.heads * p.query_len) return;
    const int64_t query = row % p.query_len, head = row / p.query_len % p.heads;
    const int64_t batch = row / p.query_len / p.heads;
    const T* from = static_cast<const T*>(p.rows.data) + batch * p.rows.batch + head * p.rows.head +
                    query * p.rows.row;
    T* to = static_cast<T*>(p.scaled) + row * p.head_dim;
    const float factor = load_global(p.factors + row);
    for (int d = lane_index(); d < p.head_dim; d += kWarpSize)
      store_global(to + d, from_float<T>(to_float(load_global(from + d)) * factor));
  }
};

struct DistanceBiasParams {
  int heads;
  int64_t distances;      // L + S - 1
  const void* table;      // (N, H)
  DType dtype;            // of the table
  int64_t row, column;    // its strides
  const int32_t* bucket;  // (L + S - 1,)
  float* bias;            // (H, L + S - 1)
};

SIMT_FN float load_number(const void* data, DType dtype, int64_t index) {
  switch (dtype) {
    case DType::kBFloat16:
      return to_float(load_global(static_cast<const bfloat16*>(data) + index));
    case DType::kFloat16:
      return to_float(load_global(static_cast<const float16*>(data) + index));
    case DType::kFloat64:
      return static_cast<float>(load_global(static_cast<const double*>(data) + index));
    default:
      return load_global(static_cast<const float*>(data) + index);
  }
}

// bias[h, d] = table[bucket[d], h].
struct DistanceBiasKernel {
  using Params = DistanceBiasParams;
  static constexpr int kThreads = 128, kMinBlocks = 1;

  static int shared_bytes(const Params&) { return 0; }
  static int64_t blocks(const Params& p) {
    return (p.heads * p.distances + kThreads - 1) / kThreads;
  }

  static SIMT_FN void run(const Params& p) {
    const int64_t place = block_index() * kThreads + thread_index();
    if (place >= p.heads * p.distances) return;
    const int64_t head = place / p.distances;
    const int64_t bucket = load_global(p.bucket + place % p.distances);
    const float value = load_number(p.table, p.dtype, bucket * p.row + head * p.column);
    store_global(p.bias + place, value);
  }
};

struct CombineParams {
  int64_t rows;  // B H L
  int splits, head_dim;
  const float* split_output;   // (splits, rows, D)
  const float* split_maximum;  // (splits, rows): as ForwardParams has them
  const float* split_sum;
  void* output;  // (rows, D)
  float* lse;    // (rows,)
};

// o = sum_s w_s o_s / sum_s w_s with w_s = sum_s exp(maximum_s - maximum); one warp for each query.
template <typename T>
struct CombineKernel {
  using Params = CombineParams;
  static constexpr int kThreads = 128, kMinBlocks = 1, kRowsPerBlock = kThreads / kWarpSize;

  static int shared_bytes(const Params&) { return 0; }
  static int64_t blocks(const Params& p) { return (p.rows + kRowsPerBlock - 1) / kRowsPerBlock; }

  static SIMT_FN void run(const Params& p) {
    const int64_t row = block_index() * kRowsPerBlock + warp_index();
    if (row >= p.rows) return;
    float top = -kInfinity, sum = 0.0f;
    for (int s = 0; s < p.splits; ++s)
      top = fmaxf(top, load_global(p.split_maximum + s * p.rows + row));
    const float origin = top == -kInfinity ? 0.0f : top;
    for (int s = 0; s < p.splits; ++s) sum += weight(p, s, row, origin);
    const float factor = sum == 0.0f ? 0.0f : 1.0f / sum;
    T* output = static_cast<T*>(p.output) + row * p.head_dim;
    for (int d = lane_index(); d < p.head_dim; d += kWarpSize) {
      float value = 0.0f;
      for (int s = 0; s < p.splits; ++s) {
        const int64_t from = (s * p.rows + row) * p.head_dim + d;
        value += weight(p, s, row, origin) * load_global(p.split_output + from);
      }
      store_global(output + d, from_float<T>(value * factor));
    }
    const float lse = sum == 0.0f ? -kInfinity : origin + log2_fast(sum) * kLn2;
    if (lane_index() == 0) store_global(p.lse + row, lse);
  }

 private:
  static SIMT_FN float weight(const Params& p, int split, int64_t row, float origin) {
    const int64_t place = split * p.rows + row;
    const float distance = load_global(p.split_maximum + place) - origin;
    return exp2_fast(distance * kLog2e) * load_global(p.split_sum + place);
  }
};

// sum = that of all parts of a gradient.
struct SumPartsParams {
  const float* partial;  // (parts, elements)
  int parts;
  int64_t elements;
  void* sum;
  bool is_float;
};

template <typename T>
struct SumPartsKernel {
  using Params = SumPartsParams;
  static constexpr int kThreads = 128, kMinBlocks = 1;

  static int shared_bytes(const Params&) { return 0; }
  static int64_t blocks(const Params& p) { return (p.elements + kThreads - 1) / kThreads; }

  static SIMT_FN void run(const Params& p) {
    const int64_t place = block_index() * kThreads + thread_index();
    if (place >= p.elements) return;
    float total = 0.0f;
    for (int s = 0; s < p.parts; ++s) total += load_global(p.partial + s * p.elements + place);
    if (p.is_float) {
      store_global(static_cast<float*>(p.sum) + place, total);
    } else {
      store_global(static_cast<T*>(p.sum) + place, from_float<T>(total));
    }
  }
};

}  // namespace ptmkernels::attention::cuda
