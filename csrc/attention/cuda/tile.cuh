// Tiles in shared memory and the two products that attention makes of them, in fragments of
// mma.sync: 16 rows x 8 columns a warp; lane l holds rows l / 4 and l / 4 + 8, columns 2 (l % 4) +
// 0, 1.
#pragma once

#include "common/simt.h"

namespace ptmkernels::attention::cuda {

using namespace simt;

// kRows x kCols elements. Chunks of 16 bytes are swizzled within 128 bytes, so that neither eight
// rows of one chunk nor a row's chunks meet in one memory bank.
template <typename T, int kRows_, int kCols_>
struct SharedTile {
  static constexpr int kRows = kRows_, kCols = kCols_;
  static constexpr int kPerChunk = 16 / static_cast<int>(sizeof(T));
  static constexpr int kChunks = kCols / kPerChunk;
  static constexpr int kBytes = kRows * kCols * static_cast<int>(sizeof(T));
  static_assert(kChunks == 4 || kChunks % 8 == 0);

  Shared<T> data;

  static SIMT_FN int offset(int row, int chunk) {
    const int mixed = kChunks == 4 ? chunk ^ (row / 2 % 4) : chunk ^ (row % 8);
    return row * kCols + mixed * kPerChunk;
  }

  // The tile `bytes` behind this one.
  SIMT_FN SharedTile behind(int bytes) const {
    return {data.behind(bytes / static_cast<int>(sizeof(T)))};
  }

  // offset(row0 + row, chunk0 + chunk) from offset(row, chunk), for row0 a multiple of 8, chunk0
  // even and chunk 0 or 1: what does not depend on the lane is a constant of the instruction.
  static SIMT_FN int shifted(int offset, int row0, int chunk0) {
    return row0 * kCols + chunk0 / 8 * 8 * kPerChunk + (offset ^ (chunk0 % 8 * kPerChunk));
  }
};

// Rows row0 .. row0 + 15, chunks 2 step and 2 step + 1: the left operand of a product.
template <typename Tile>
SIMT_FN void load_left(uint32_t (&a)[4], Tile tile, int row0, int step) {
  const int own = Tile::offset(lane_index() % 16, lane_index() / 16);
  load_matrices(a, tile.data, Tile::shifted(own, row0, 2 * step));
}

// The right operands of rows row0 .. row0 + 15 as columns of the product: b[0..1], then b[2..3].
template <typename Tile>
SIMT_FN void load_right(uint32_t (&b)[4], Tile tile, int row0, int step) {
  const int lane = lane_index();
  const int own = Tile::offset(lane % 8 + lane / 16 * 8, lane / 8 % 2);
  load_matrices(b, tile.data, Tile::shifted(own, row0, 2 * step));
}

// The right operands of chunks chunk0 and chunk0 + 1 as columns, the depth in rows row0 .. row0
// + 15.
template <typename Tile>
SIMT_FN void load_right_columns(uint32_t (&b)[4], Tile tile, int row0, int chunk0) {
  const int own = Tile::offset(lane_index() % 16, lane_index() / 16);
  load_matrices_transposed(b, tile.data, Tile::shifted(own, row0, chunk0));
}

// a = big + small in TF32, to about the last bits of float32.
SIMT_FN void split_tf32(uint32_t bits, uint32_t& big, uint32_t& small) {
  big = round_tf32(as_float(bits));
  small = round_tf32(as_float(bits) - as_float(big));
}

// acc += a b. For float32 `exact` takes three TF32 products, the smallest first; else one.
template <typename T>
SIMT_FN void mma(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool exact) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    mma_bf16(acc, a, b);
  } else if constexpr (std::is_same_v<T, float16>) {
    mma_f16(acc, a, b);
  } else {
    uint32_t a_big[4], a_small[4], b_big[2], b_small[2];
    SIMT_UNROLL
    for (int i = 0; i < 4; ++i) split_tf32(a[i], a_big[i], a_small[i]);
    SIMT_UNROLL
    for (int i = 0; i < 2; ++i) split_tf32(b[i], b_big[i], b_small[i]);
    if (exact) {
      mma_tf32(acc, a_small, b_big);
      mma_tf32(acc, a_big, b_small);
    }
    mma_tf32(acc, a_big, b_big);
  }
}

template <int kM, int kN>
SIMT_FN void clear(float (&acc)[kM][kN][4]) {
  SIMT_UNROLL
  for (int m = 0; m < kM; ++m) {
    SIMT_UNROLL
    for (int n = 0; n < kN; ++n) {
      SIMT_UNROLL
      for (int e = 0; e < 4; ++e) acc[m][n][e] = 0.0f;
    }
  }
}

// All left fragments of a warp's rows, kept in registers.
template <int kM, int kSteps, typename Tile>
SIMT_FN void load_all_left(uint32_t (&a)[kM][kSteps][4], Tile tile, int row0) {
  SIMT_UNROLL
  for (int m = 0; m < kM; ++m) {
    SIMT_UNROLL
    for (int step = 0; step < kSteps; ++step) load_left(a[m][step], tile, row0 + 16 * m, step);
  }
}

template <typename T, int kM, int kN, typename Right>
SIMT_FN void multiply_step(float (&acc)[kM][kN][4], const uint32_t (&a)[kM][4], Right right,
                           int right0, int step, bool exact) {
  SIMT_UNROLL
  for (int n = 0; n < kN; n += 2) {
    uint32_t b[4];
    load_right(b, right, right0 + 8 * n, step);
    const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
    SIMT_UNROLL
    for (int m = 0; m < kM; ++m) {
      mma<T>(acc[m][n], a[m], first, exact);
      mma<T>(acc[m][n + 1], a[m], second, exact);
    }
  }
}

template <int kM, int kN>
SIMT_FN void add(float (&acc)[kM][kN][4], const float (&sum)[kM][kN][4]) {
  SIMT_UNROLL
  for (int m = 0; m < kM; ++m) {
    SIMT_UNROLL
    for (int n = 0; n < kN; ++n) {
      SIMT_UNROLL
      for (int e = 0; e < 4; ++e) acc[m][n][e] += sum[m][n][e];
    }
  }
}

// acc[16 kM x 8 kN] += left[left0 ..] . right[right0 ..]^T, both with the depth in their rows.
//
// float32: every few steps the sum starts anew and is added once, because the tensor core rounds
// toward zero, and over a deep product that would add up.
template <typename T, int kM, int kN, typename Left, typename Right>
SIMT_FN void multiply_transposed(float (&acc)[kM][kN][4], Left left, int left0, Right right,
                                 int right0, bool exact) {
  constexpr int kSteps = Left::kChunks / 2, kTogether = kSteps < 4 ? kSteps : 4;
  constexpr bool kAnew = std::is_same_v<T, float>;
  SIMT_ROLL
  for (int first = 0; first < kSteps; first += kTogether) {
    float sum[kAnew ? kM : 1][kAnew ? kN : 1][4];
    if constexpr (kAnew) clear(sum);
    SIMT_UNROLL
    for (int step = first; step < first + kTogether; ++step) {
      uint32_t a[kM][4];
      SIMT_UNROLL
      for (int m = 0; m < kM; ++m) load_left(a[m], left, left0 + 16 * m, step);
      if constexpr (kAnew) {
        multiply_step<T>(sum, a, right, right0, step, exact);
      } else {
        multiply_step<T>(acc, a, right, right0, step, exact);
      }
    }
    if constexpr (kAnew) add(acc, sum);
  }
}

// The same with the left fragments in registers.
template <typename T, int kM, int kN, int kSteps, typename Right>
SIMT_FN void multiply_transposed(float (&acc)[kM][kN][4], const uint32_t (&left)[kM][kSteps][4],
                                 Right right, int right0, bool exact) {
  SIMT_UNROLL
  for (int step = 0; step < kSteps; ++step) {
    uint32_t a[kM][4];
    SIMT_UNROLL
    for (int m = 0; m < kM; ++m) {
      SIMT_UNROLL
      for (int r = 0; r < 4; ++r) a[m][r] = left[m][step][r];
    }
    multiply_step<T>(acc, a, right, right0, step, exact);
  }
}

// acc[16 kM x 8 kN] += weights[16 kM x 8 kK] . right[row0 .., col0 ..]; the weights are the
// accumulators of a product. 16-bit: two accumulator tiles are a left fragment as they lie.
template <typename T, int kM, int kN, int kK, typename Right>
SIMT_FN void multiply_half(float (&acc)[kM][kN][4], const float (&weights)[kM][kK][4], Right right,
                           int row0, int col0) {
  SIMT_UNROLL
  for (int step = 0; step < kK / 2; ++step) {
    uint32_t a[kM][4];
    SIMT_UNROLL
    for (int m = 0; m < kM; ++m) {
      SIMT_UNROLL
      for (int r = 0; r < 4; ++r) {
        const float* pair = weights[m][2 * step + r / 2] + r % 2 * 2;
        a[m][r] = pack<T>(pair[0], pair[1]);
      }
    }
    SIMT_UNROLL
    for (int n = 0; n < kN; n += 2) {
      uint32_t b[4];
      load_right_columns(b, right, row0 + 16 * step, col0 / Right::kPerChunk + n);
      const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
      SIMT_UNROLL
      for (int m = 0; m < kM; ++m) {
        mma<T>(acc[m][n], a[m], first, true);
        mma<T>(acc[m][n + 1], a[m], second, true);
      }
    }
  }
}

// float32: the depth is taken in the order 0, 2, 4, 6, 1, 3, 5, 7, in which an accumulator tile is
// a left fragment as it lies. Each tile's sum starts anew, as in multiply_transposed.
template <int kM, int kN, int kK, typename Right>
SIMT_FN void multiply_float(float (&acc)[kM][kN][4], const float (&weights)[kM][kK][4], Right right,
                            int row0, int col0, bool exact) {
  const int g = lane_index() / 4, t = lane_index() % 4;
  const int own[2] = {Right::offset(2 * t, g / 4) + g % 4, Right::offset(2 * t + 1, g / 4) + g % 4};
  SIMT_UNROLL
  for (int n = 0; n < kN; ++n) {
    float sum[kM][4] = {};
    SIMT_UNROLL
    for (int step = 0; step < kK; ++step) {
      uint32_t b[2];
      SIMT_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int place = Right::shifted(own[i], row0 + 8 * step, col0 / Right::kPerChunk + 2 * n);
        b[i] = as_bits(right.data.load(place));
      }
      SIMT_UNROLL
      for (int m = 0; m < kM; ++m) {
        const float (&w)[4] = weights[m][step];
        const uint32_t a[4] = {as_bits(w[0]), as_bits(w[2]), as_bits(w[1]), as_bits(w[3])};
        mma<float>(sum[m], a, b, exact);
      }
    }
    SIMT_UNROLL
    for (int m = 0; m < kM; ++m) {
      SIMT_UNROLL
      for (int e = 0; e < 4; ++e) acc[m][n][e] += sum[m][e];
    }
  }
}

template <typename T, int kM, int kN, int kK, typename Right>
SIMT_FN void multiply(float (&acc)[kM][kN][4], const float (&weights)[kM][kK][4], Right right,
                      int row0, int col0, bool exact) {
  if constexpr (sizeof(T) == 2) {
    multiply_half<T>(acc, weights, right, row0, col0);
  } else {
    multiply_float(acc, weights, right, row0, col0, exact);
  }
}

// A lane's r-th row (of 2 kM) and c-th column (of 2 kN) within the warp's fragments.
SIMT_FN int row_of(int r) { return r / 2 * 16 + r % 2 * 8 + lane_index() / 4; }
SIMT_FN int col_of(int c) { return c / 2 * 8 + c % 2 + lane_index() % 4 * 2; }

// f(value, r, c) for each element that the lane holds.
template <int kM, int kN, typename F>
SIMT_FN void for_each(float (&tile)[kM][kN][4], F&& f) {
  SIMT_UNROLL
  for (int r = 0; r < 2 * kM; ++r) {
    SIMT_UNROLL
    for (int c = 0; c < 2 * kN; ++c) f(tile[r / 2][c / 2][r % 2 * 2 + c % 2], r, c);
  }
}

SIMT_FN void store_pair(float* target, float low, float high) {
  store_global(reinterpret_cast<Bytes8*>(target), Bytes8{as_bits(low), as_bits(high)});
}

template <typename T>
SIMT_FN void store_pair(T* target, float low, float high) {
  store_global(reinterpret_cast<Bytes4*>(target), pack<T>(low, high));
}

// A warp's fragments, times `factor` of each row, to columns col0 .. of a (rows, cols) matrix.
template <typename T, int kM, int kN>
SIMT_FN void store_rows(const float (&tile)[kM][kN][4], T* target, int row0, int rows, int col0,
                        int cols, const float (&factor)[2 * kM]) {
  const bool pairs = cols % 2 == 0;
  SIMT_UNROLL
  for (int r = 0; r < 2 * kM; ++r) {
    const int row = row0 + row_of(r);
    if (row >= rows) continue;
    T* line = target + static_cast<int64_t>(row) * cols;
    SIMT_UNROLL
    for (int n = 0; n < kN; ++n) {
      const int col = col0 + col_of(2 * n);
      const float low = tile[r / 2][n][r % 2 * 2] * factor[r];
      const float high = tile[r / 2][n][r % 2 * 2 + 1] * factor[r];
      if (pairs && col < cols) {
        store_pair(line + col, low, high);
      } else {
        if (col < cols) store_global(line + col, from_float<T>(low));
        if (col + 1 < cols) store_global(line + col + 1, from_float<T>(high));
      }
    }
  }
}

}  // namespace ptmkernels::attention::cuda
