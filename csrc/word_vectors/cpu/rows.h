// Products and sums of single rows, for the loss ops and GloVe.
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

}  // namespace ptmkernels::PTMKERNELS_CPU_ARCH
