// Transposes a square of kWidth × kWidth floats in registers.
#pragma once

#include "common/simd.h"

namespace ptmkernels::PTMKERNELS_CPU_ARCH {

template <int... I>
struct Lanes {};

template <int N, int... I>
struct MakeLanes : MakeLanes<N - 1, N - 1, I...> {};

template <int... I>
struct MakeLanes<0, I...> {
  typedef Lanes<I...> type;
};

// Seen as 2 × 2 blocks of S × S, swaps the blocks off the diagonal: the lanes whose bit S is set of
// `a` with the others of `b`.
template <int S, int... I>
PTMKERNELS_INLINE void swap_blocks(Vec& a, Vec& b, Lanes<I...>) {
  const Vec low = __builtin_shufflevector(a, b, (I & S ? I - S + kWidth : I)...);
  const Vec high = __builtin_shufflevector(a, b, (I & S ? I + kWidth : I + S)...);
  a = low;
  b = high;
}

template <int S>
PTMKERNELS_INLINE void transpose_from(Vec* rows) {
  if constexpr (S > 0) {
    PTMKERNELS_UNROLL
    for (int row = 0; row < kWidth; ++row) {
      if (!(row & S)) swap_blocks<S>(rows[row], rows[row + S], MakeLanes<kWidth>::type());
    }
    transpose_from<S / 2>(rows);
  }
}

// from (kWidth, kWidth), row stride from_stride -> to (kWidth, kWidth), row stride to_stride, of
// which the first `count` rows are stored
PTMKERNELS_INLINE void transpose_square(const float* from, int64_t from_stride, float* to,
                                        int64_t to_stride, int64_t count = kWidth) {
  Vec rows[kWidth];
  PTMKERNELS_UNROLL
  for (int row = 0; row < kWidth; ++row) rows[row] = load(from + row * from_stride);
  transpose_from<kWidth / 2>(rows);
  if (count >= kWidth) {
    PTMKERNELS_UNROLL
    for (int row = 0; row < kWidth; ++row) store(to + row * to_stride, rows[row]);
  } else {
    PTMKERNELS_UNROLL
    for (int row = 0; row < kWidth; ++row) {
      if (row < count) store(to + row * to_stride, rows[row]);
    }
  }
}

// to[c, r] = from[r, c] for `rows`, a multiple of kWidth, and `columns` columns; reads whole
// vectors of columns.
PTMKERNELS_NOINLINE static void transpose(const float* from, int64_t from_stride, int64_t rows,
                                          int64_t columns, float* to, int64_t to_stride) {
  for (int64_t row = 0; row < rows; row += kWidth) {
    for (int64_t column = 0; column < columns; column += kWidth) {
      transpose_square(from + row * from_stride + column, from_stride,
                       to + column * to_stride + row, to_stride, columns - column);
    }
  }
}

}  // namespace ptmkernels::PTMKERNELS_CPU_ARCH
