// The one product of all attention: C = start + A·B for a block of rows of C that stays in
// registers.
//
//     C[r, :] = start[r, :] + sum_k A(r, k) · B[k, :]        r < R; C and B are panels of kLanes
//     columns
//
// A is read one element at a time and broadcast; B and C are read as vectors. Every product of the
// forward and of the backward takes this form, because the queries (or, for the gradients of key
// and value, the head dimension) lie in the lanes:
//
//     Sᵀ = K·Qᵀ    Oᵀ += Vᵀ·Pᵀ    dPᵀ = V·dOᵀ    dQᵀ += Kᵀ·dSᵀ    dV += Pᵀ·dO    dK += dSᵀ·Q
//
// R = 6 rows of two vectors fill the 16 registers of AVX2 (12 accumulators, 2 of B, 1 broadcast):
// 12 multiply-adds for 8 loads, so the loads are not the bound, and 12 chains cover a latency of 4
// clocks on two units. Each kernel is kept out of line: inlined, the compiler spills accumulators
// as soon as the code around it changes.
#pragma once

#include "common/simd.h"

namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH {

using namespace ptmkernels::PTMKERNELS_CPU_ARCH;

constexpr int kVectors = 2;
constexpr int kLanes = kVectors * kWidth;
constexpr int kRows = PTMKERNELS_KERNEL_ROWS;

// What the accumulators start from: 0, a matrix, or C times a factor for each column.
enum class Start { kZero, kLoad, kScale };

// How A(r, k) lies in memory: a[r * stride + k] or a[k * stride + r].
enum class Layout { kRowMajor, kColumnMajor };

struct Product {
  float* c = nullptr;  // (rows, kLanes)
  int64_t c_stride = kLanes;
  const float* start =
      nullptr;  // kLoad: (rows, kLanes); a stride of 0 gives every row the same start
  int64_t start_stride = kLanes;
  const float* scale = nullptr;  // kScale: (kLanes)
  const float* a = nullptr;
  int64_t a_stride = 0;
  const float* b = nullptr;  // (depth, kLanes)
  int64_t b_stride = kLanes;
  int64_t depth = 0;
  float* maximum = nullptr;  // (kLanes), raised to the maximum of each column of C where asked for
};

template <int R, Start S, Layout A, bool kMaximum>
PTMKERNELS_NOINLINE void multiply_rows(const Product& product, int64_t row) {
  float* const c = product.c + row * product.c_stride;
  const int64_t c_stride = product.c_stride;
  Vec sum[R][kVectors];
  PTMKERNELS_UNROLL
  for (int r = 0; r < R; ++r) {
    PTMKERNELS_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      if (S == Start::kZero) {
        sum[r][v] = Vec{};
      } else if (S == Start::kLoad) {
        sum[r][v] = load(product.start + (row + r) * product.start_stride + v * kWidth);
      } else {
        sum[r][v] = load(c + r * c_stride + v * kWidth) * load(product.scale + v * kWidth);
      }
    }
  }

  const int64_t a_stride = product.a_stride;
  const int64_t b_stride = product.b_stride;
  const float* a = product.a + (A == Layout::kRowMajor ? row * a_stride : row);
  const float* b = product.b;
  for (int64_t k = product.depth; k > 0; --k) {
    Vec column[kVectors];
    PTMKERNELS_UNROLL
    for (int v = 0; v < kVectors; ++v) column[v] = load(b + v * kWidth);
    PTMKERNELS_UNROLL
    for (int r = 0; r < R; ++r) {
      const Vec x = splat(A == Layout::kRowMajor ? a[r * a_stride] : a[r]);
      PTMKERNELS_UNROLL
      for (int v = 0; v < kVectors; ++v) sum[r][v] += x * column[v];
    }
    a += A == Layout::kRowMajor ? 1 : a_stride;
    b += b_stride;
  }

  PTMKERNELS_UNROLL
  for (int r = 0; r < R; ++r) {
    PTMKERNELS_UNROLL
    for (int v = 0; v < kVectors; ++v) store(c + r * c_stride + v * kWidth, sum[r][v]);
  }
  if (kMaximum) {
    PTMKERNELS_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      Vec top = load(product.maximum + v * kWidth);
      PTMKERNELS_UNROLL
      for (int r = 0; r < R; ++r) top = max(sum[r][v], top);
      store(product.maximum + v * kWidth, top);
    }
  }
}

// `count` blocks of `height` <= R rows.
template <Start S, Layout A, bool kMaximum, int R = kRows>
PTMKERNELS_INLINE void multiply_blocks(const Product& product, int64_t height, int64_t row,
                                       int64_t count) {
  if (height == R) {
    for (; count > 0; --count, row += R) multiply_rows<R, S, A, kMaximum>(product, row);
  } else if constexpr (R > 1) {
    multiply_blocks<S, A, kMaximum, R - 1>(product, height, row, count);
  }
}

// The rows [first, last), in blocks of as equal a height as can be: a block of few rows has too few
// chains to cover the latency.
template <Start S, Layout A, bool kMaximum = false>
void multiply(const Product& product, int64_t first, int64_t last) {
  const int64_t rows = last - first;
  if (rows <= 0) return;
  const int64_t blocks = (rows + kRows - 1) / kRows;
  const int64_t height = rows / blocks;
  const int64_t taller = rows % blocks;
  multiply_blocks<S, A, kMaximum>(product, height + 1, first, taller);
  multiply_blocks<S, A, kMaximum>(product, height, first + taller * (height + 1), blocks - taller);
}

}  // namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH
