// Rows of a matrix in the hands of a warp: lane l holds columns l * kWide to l * kWide + kWide - 1
// of each run of 32 * kWide. kWide is 4 where every row is a whole number of aligned vectors, else
// 1.
#pragma once

#include "common/half_types.h"
#include "common/simt.h"

namespace ptmkernels::word_vectors::cuda {

using namespace simt;

constexpr int kWarps = 4;  // of a block
constexpr int kGroup = 8;  // rows that a warp multiplies at a time: that many loads are under way

// What a kernel of blocks of kWarps warps is launched with.
template <typename P>
struct WarpKernel {
  using Params = P;
  static constexpr int kThreads = kWarps * kWarpSize, kMinBlocks = 4;

  static int shared_bytes(const Params&) { return 0; }
};

// A warp for each row of a batch.
template <typename P>
struct RowKernel : WarpKernel<P> {
  static int64_t blocks(const P& p) { return (p.batch + kWarps - 1) / kWarps; }
  static SIMT_FN int64_t row() { return block_index() * kWarps + warp_index(); }
};

// A matrix of float32 or bfloat16 with columns next to each other.
struct Matrix {
  const void* data;
  int64_t stride;  // elements between rows
  bool bfloat16;
};

template <int kWide>
struct Columns {
  float x[kWide];
};

SIMT_FN Columns<4> as_columns(Bytes16 bytes) {
  return {{as_float(bytes.x), as_float(bytes.y), as_float(bytes.z), as_float(bytes.w)}};
}
// Four bfloat16.
SIMT_FN Columns<4> as_columns(Bytes8 bytes) {
  return {{as_float(bytes.x << 16), as_float(bytes.x & 0xffff0000u), as_float(bytes.y << 16),
           as_float(bytes.y & 0xffff0000u)}};
}

SIMT_FN Bytes16 as_bytes(const Columns<4>& columns) {
  return {as_bits(columns.x[0]), as_bits(columns.x[1]), as_bits(columns.x[2]),
          as_bits(columns.x[3])};
}

template <int kWide, typename T>
SIMT_FN Columns<kWide> load_columns(const T* from) {
  if constexpr (kWide == 1) {
    return {{to_float(load_global(from))}};
  } else if constexpr (sizeof(T) == 4) {
    return as_columns(load_global(reinterpret_cast<const Bytes16*>(from)));
  } else {
    return as_columns(load_global(reinterpret_cast<const Bytes8*>(from)));
  }
}

template <int kWide>
SIMT_FN Columns<kWide> load_columns(const Matrix& matrix, int64_t row, int column) {
  const int64_t at = row * matrix.stride + column;
  return matrix.bfloat16 ? load_columns<kWide>(static_cast<const bfloat16*>(matrix.data) + at)
                         : load_columns<kWide>(static_cast<const float*>(matrix.data) + at);
}

template <int kWide>
SIMT_FN void store_columns(float* to, const Columns<kWide>& columns) {
  if constexpr (kWide == 1) {
    store_global(to, columns.x[0]);
  } else {
    store_global(reinterpret_cast<Bytes16*>(to), as_bytes(columns));
  }
}

// y += factor * x
template <int kWide>
SIMT_FN void add(Columns<kWide>& y, float factor, const Columns<kWide>& x) {
  SIMT_UNROLL
  for (int i = 0; i < kWide; ++i) y.x[i] += factor * x.x[i];
}

template <int kWide>
SIMT_FN float product(const Columns<kWide>& a, const Columns<kWide>& b, float sum) {
  SIMT_UNROLL
  for (int i = 0; i < kWide; ++i) sum += a.x[i] * b.x[i];
  return sum;
}

SIMT_FN float sum_of_lanes(float x) {
  SIMT_UNROLL
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
  return x;
}

// Each lane hands half of its first 2 * kHalf numbers over to the lane that differs in bit kHalf
// and adds what it gets to the other half; then the same with the half that it has left.
template <int kHalf, int kCount>
SIMT_FN void fold(float (&x)[kCount]) {
  const bool upper = lane_index() & kHalf;
  SIMT_UNROLL
  for (int i = 0; i < kHalf; ++i) {
    const float other = shuffle_xor(upper ? x[i] : x[i + kHalf], kHalf);
    x[i] = (upper ? x[i + kHalf] : x[i]) + other;
  }
  if constexpr (kHalf > 1) fold<kHalf / 2>(x);
}

// Lane l gets the sum of x[l % kCount] over all lanes.
template <int kCount>
SIMT_FN float sums_of_lanes(float (&x)[kCount]) {
  fold<kCount / 2>(x);
  SIMT_UNROLL
  for (int mask = kCount; mask < kWarpSize; mask *= 2) x[0] += shuffle_xor(x[0], mask);
  return x[0];
}

// The rows of a group, each named by the lane of its number.
template <typename T>
struct Rows {
  const T* row[kGroup];

  SIMT_FN Rows(const Matrix& matrix, int64_t mine) {
    SIMT_UNROLL
    for (int g = 0; g < kGroup; ++g) {
      row[g] = static_cast<const T*>(matrix.data) + shuffle(mine, g) * matrix.stride;
    }
  }
};

// Row `index` of `hidden` against the rows of the group; lane l gets that of row l % kGroup.
template <int kWide, typename T>
SIMT_FN float products(const Matrix& hidden, int64_t index, const Rows<T>& rows, int width) {
  float sums[kGroup] = {};
  SIMT_ROLL
  for (int d = lane_index() * kWide; d < width; d += kWarpSize * kWide) {
    const Columns<kWide> h = load_columns<kWide>(hidden, index, d);
    Columns<kWide> w[kGroup];
    SIMT_UNROLL
    for (int g = 0; g < kGroup; ++g) w[g] = load_columns<kWide>(rows.row[g] + d);
    SIMT_UNROLL
    for (int g = 0; g < kGroup; ++g) sums[g] = product(h, w[g], sums[g]);
  }
  return sums_of_lanes(sums);
}

// target (+)= the sum of the group's rows, each times the factor of the lane of its number.
template <int kWide, typename T>
SIMT_FN void add_rows(float* target, bool onto, const Rows<T>& rows, float mine, int width) {
  float factors[kGroup];
  SIMT_UNROLL
  for (int g = 0; g < kGroup; ++g) factors[g] = shuffle(mine, g);
  SIMT_ROLL
  for (int d = lane_index() * kWide; d < width; d += kWarpSize * kWide) {
    Columns<kWide> sum = {};
    if (onto) sum = load_columns<kWide>(target + d);
    Columns<kWide> w[kGroup];
    SIMT_UNROLL
    for (int g = 0; g < kGroup; ++g) w[g] = load_columns<kWide>(rows.row[g] + d);
    SIMT_UNROLL
    for (int g = 0; g < kGroup; ++g) add(sum, factors[g], w[g]);
    store_columns(target + d, sum);
  }
}

SIMT_FN float softplus(float x) { return (x > 0 ? x : 0) + log1pf(expf(-fabsf(x))); }
SIMT_FN float sigmoid(float x) {
  const float e = expf(-fabsf(x));
  return (x >= 0 ? 1.0f : e) / (1.0f + e);
}

}  // namespace ptmkernels::word_vectors::cuda
