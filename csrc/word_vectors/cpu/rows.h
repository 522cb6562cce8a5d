// Single rows, float32 or bfloat16: products and sums for the loss ops, and what the training step
// does with rows outside of its tiles.
#pragma once

#include "common/simd_convert.h"

namespace ptmkernels::PTMKERNELS_CPU_ARCH {

template <class T>
float row_product(const float* a, const T* b, int64_t size) {
  Vec sums[2] = {};
  int64_t d = 0;
  for (; d + 2 * kWidth <= size; d += 2 * kWidth) {
    sums[0] += load(a + d) * load_elements(b + d);
    sums[1] += load(a + d + kWidth) * load_elements(b + d + kWidth);
  }
  for (; d + kWidth <= size; d += kWidth) sums[0] += load(a + d) * load_elements(b + d);
  if (d < size) sums[1] += load_first(a + d, size - d) * load_first(b + d, size - d);
  return sum(sums[0] + sums[1]);
}

template <class T>
void add_row(float* y, float factor, const T* x, int64_t size) {
  int64_t d = 0;
  for (; d + kWidth <= size; d += kWidth) {
    store(y + d, load(y + d) + splat(factor) * load_elements(x + d));
  }
  for (; d < size; ++d) y[d] += factor * load_first(x + d, 1)[0];
}

template <class T>
void widen_row(float* y, const T* x, int64_t size) {
  int64_t d = 0;
  for (; d + kWidth <= size; d += kWidth) store(y + d, load_elements(x + d));
  if (d < size) store_first(y + d, load_first(x + d, size - d), size - d);
}

inline float product_of(const float* a, const void* b, bool bfloat16, int64_t size) {
  return bfloat16 ? row_product(a, static_cast<const BFloat16*>(b), size)
                  : row_product(a, static_cast<const float*>(b), size);
}

inline void add_to(float* y, float factor, const void* x, bool bfloat16, int64_t size) {
  bfloat16 ? add_row(y, factor, static_cast<const BFloat16*>(x), size)
           : add_row(y, factor, static_cast<const float*>(x), size);
}

inline void widen_to(float* y, const void* x, bool bfloat16, int64_t size) {
  bfloat16 ? widen_row(y, static_cast<const BFloat16*>(x), size)
           : widen_row(y, static_cast<const float*>(x), size);
}

// Rounding of bfloat16 rows at random, up with the probability of the part cut off: with rounding
// to nearest a row stops learning as soon as its steps are below half of its last bit.
struct Rounding {
  UintVec state;
  PTMKERNELS_INLINE UintVec next() {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
  }
};

PTMKERNELS_INLINE void store_rounded(float* p, Vec v, Rounding&) { store(p, v); }
PTMKERNELS_INLINE void store_rounded(BFloat16* p, Vec v, Rounding& rounding) {
  store_as(p, narrow(((UintVec)v + (rounding.next() >> 16)) >> 16));
}

// row = x, or with Add row += x.
template <bool Add, class T>
void change_row(T* row, const float* x, int64_t size, Rounding& rounding) {
  int64_t d = 0;
  for (; d + kWidth <= size; d += kWidth) {
    store_rounded(row + d, Add ? load_elements(row + d) + load(x + d) : load(x + d), rounding);
  }
  if (d == size) return;
  const Vec rest = load_first(x + d, size - d);
  T buffer[kWidth];
  store_rounded(buffer, Add ? load_first(row + d, size - d) + rest : rest, rounding);
  __builtin_memcpy(row + d, buffer, static_cast<size_t>(size - d) * sizeof(T));
}

template <bool Add>
void change_row(void* row, const float* x, bool bfloat16, int64_t size, Rounding& rounding) {
  bfloat16 ? change_row<Add>(static_cast<BFloat16*>(row), x, size, rounding)
           : change_row<Add>(static_cast<float*>(row), x, size, rounding);
}

template <class T>
void mean_of(float* y, void* const* rows, int32_t count, int64_t size) {
  constexpr int kBlock = 4;  // vectors summed together
  const Vec factor = splat(1.0f / static_cast<float>(count));
  int64_t d = 0;
  for (; d + kBlock * kWidth <= size; d += kBlock * kWidth) {
    Vec sums[kBlock] = {};
    for (int32_t r = 0; r < count; ++r) {
      const T* row = static_cast<const T*>(rows[r]) + d;
      PTMKERNELS_UNROLL
      for (int b = 0; b < kBlock; ++b) sums[b] += load_elements(row + b * kWidth);
    }
    PTMKERNELS_UNROLL
    for (int b = 0; b < kBlock; ++b) store(y + d + b * kWidth, sums[b] * factor);
  }
  for (; d < size; d += kWidth) {
    const int64_t left = size - d < kWidth ? size - d : kWidth;
    Vec sum = Vec{};
    for (int32_t r = 0; r < count; ++r) {
      const T* row = static_cast<const T*>(rows[r]) + d;
      sum += left < kWidth ? load_first(row, left) : load_elements(row);
    }
    left < kWidth ? store_first(y + d, sum * factor, left) : store(y + d, sum * factor);
  }
}

inline void mean_of(float* y, void* const* rows, int32_t count, bool bfloat16, int64_t size) {
  bfloat16 ? mean_of<BFloat16>(y, rows, count, size) : mean_of<float>(y, rows, count, size);
}

}  // namespace ptmkernels::PTMKERNELS_CPU_ARCH
