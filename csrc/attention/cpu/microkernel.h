// The one product of all attention: C = start + A·B for a block of rows of C that stays in
// registers.
//
//     C[r, :] = start[r, :] + factor · sum_k A(r, k) · B[k, :]        r < R; C and B are panels of
//     kLanes columns
//
// A is read one unit at a time and broadcast; B and C are read as vectors. A unit is a float, or a
// pair of bfloat16 along k (then the sum takes half as many steps). The factor is that of pairs
// only: floats are scaled before, pairs would lose digits by it. Every product of the forward and
// of the backward takes this form, because the queries (or, for the gradients of key and value, the
// head dimension) lie in the lanes:
//
//     Sᵀ = K·Qᵀ    Oᵀ += Vᵀ·Pᵀ    dPᵀ = V·dOᵀ    dQᵀ += Kᵀ·dSᵀ    dV += Pᵀ·dO    dK += dSᵀ·Q
//
// R = 6 rows of two vectors fill the 16 registers of AVX2 (12 accumulators, 2 of B, 1 broadcast):
// 12 multiply-adds for 8 loads, so the loads are not the bound, and 12 chains cover a latency of 4
// clocks on two units. Each kernel is kept out of line: inlined, the compiler spills accumulators
// as soon as the code around it changes.
#pragma once

#include "common/simd_bfloat16.h"

namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH {

using namespace ptmkernels::PTMKERNELS_CPU_ARCH;

constexpr int kVectors = 2;
constexpr int kLanes = kVectors * kWidth;
constexpr int kRows = PTMKERNELS_KERNEL_ROWS;

// What the accumulators start from: 0, a matrix, or C times a factor for each column.
enum class Start { kZero, kLoad, kScale };

// How A(r, k) lies in memory: a[r * stride + k] or a[k * stride + r].
enum class Layout { kRowMajor, kColumnMajor };

template <class Unit>
constexpr int kElements = 1;  // in a unit
template <>
inline constexpr int kElements<Pair> = 2;

PTMKERNELS_INLINE Vec load_units(const float* p) { return load(p); }
PTMKERNELS_INLINE UintVec load_units(const Pair* p) { return load_as<UintVec>(p); }
PTMKERNELS_INLINE Vec splat_unit(float x) { return splat(x); }
PTMKERNELS_INLINE UintVec splat_unit(Pair x) { return splat(x.bits); }
PTMKERNELS_INLINE Vec multiply_add(Vec a, Vec b, Vec sum) { return sum + a * b; }
PTMKERNELS_INLINE Vec multiply_add(UintVec a, UintVec b, Vec sum) { return dot_pairs(a, b, sum); }

template <class Unit>
struct Product {
  float* c = nullptr;  // (rows, kLanes)
  int64_t c_stride = kLanes;
  const float* start =
      nullptr;  // kLoad: (rows, kLanes); a stride of 0 gives every row the same start
  int64_t start_stride = kLanes;
  const float* scale = nullptr;  // kScale: (kLanes)
  const Unit* a = nullptr;
  int64_t a_stride = 0;
  const Unit* b = nullptr;  // (depth, kLanes)
  int64_t b_stride = kLanes;
  int64_t depth = 0;  // in units
  float factor = 1;
  float* maximum = nullptr;  // (kLanes), raised to the maximum of each column of C where asked for
};

// `count` blocks of R rows.
template <int R, Start S, Layout A, bool kMaximum, class Unit>
PTMKERNELS_NOINLINE void multiply_rows(const Product<Unit>& product, int64_t row, int64_t count) {
  constexpr bool kFactor = kElements<Unit> > 1;
  for (; count > 0; --count, row += R) {
    float* const c = product.c + row * product.c_stride;
    const int64_t c_stride = product.c_stride;
    const auto start = [&](int r, int v) __attribute__((always_inline)) {
      if (S == Start::kZero) return Vec{};
      if (S == Start::kLoad)
        return load(product.start + (row + r) * product.start_stride + v * kWidth);
      return load(c + r * c_stride + v * kWidth) * load(product.scale + v * kWidth);
    };
    Vec sum[R][kVectors];
    PTMKERNELS_UNROLL
    for (int r = 0; r < R; ++r) {
      PTMKERNELS_UNROLL
      for (int v = 0; v < kVectors; ++v) sum[r][v] = kFactor ? Vec{} : start(r, v);
    }

    const int64_t a_stride = product.a_stride;
    const int64_t b_stride = product.b_stride;
    const Unit* a = product.a + (A == Layout::kRowMajor ? row * a_stride : row);
    const Unit* b = product.b;
    for (int64_t k = product.depth; k > 0; --k) {
      decltype(load_units(b)) column[kVectors];
      PTMKERNELS_UNROLL
      for (int v = 0; v < kVectors; ++v) column[v] = load_units(b + v * kWidth);
      PTMKERNELS_UNROLL
      for (int r = 0; r < R; ++r) {
        const auto x = splat_unit(A == Layout::kRowMajor ? a[r * a_stride] : a[r]);
        PTMKERNELS_UNROLL
        for (int v = 0; v < kVectors; ++v) sum[r][v] = multiply_add(x, column[v], sum[r][v]);
      }
      a += A == Layout::kRowMajor ? 1 : a_stride;
      b += b_stride;
    }

    PTMKERNELS_UNROLL
    for (int r = 0; r < R; ++r) {
      PTMKERNELS_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        if (kFactor) sum[r][v] = start(r, v) + sum[r][v] * product.factor;
        store(c + r * c_stride + v * kWidth, sum[r][v]);
      }
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
}

// `count` blocks of `height` <= R rows.
template <Start S, Layout A, bool kMaximum, int R = kRows, class Unit>
PTMKERNELS_INLINE void multiply_blocks(const Product<Unit>& product, int64_t height, int64_t row,
                                       int64_t count) {
  if (height == R) {
    if (count > 0) multiply_rows<R, S, A, kMaximum>(product, row, count);
  } else if constexpr (R > 1) {
    multiply_blocks<S, A, kMaximum, R - 1>(product, height, row, count);
  }
}

// The rows [first, last), in blocks of as equal a height as can be: a block of few rows has too few
// chains to cover the latency.
template <Start S, Layout A, bool kMaximum = false, class Unit>
void multiply(const Product<Unit>& product, int64_t first, int64_t last) {
  const int64_t rows = last - first;
  if (rows <= 0) return;
  const int64_t blocks = (rows + kRows - 1) / kRows;
  const int64_t height = rows / blocks;
  const int64_t taller = rows % blocks;
  multiply_blocks<S, A, kMaximum>(product, height + 1, first, taller);
  multiply_blocks<S, A, kMaximum>(product, height, first + taller * (height + 1), blocks - taller);
}

}  // namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH
