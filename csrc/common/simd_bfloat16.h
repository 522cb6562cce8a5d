// Products of bfloat16 with sums in float32.
#pragma once

#include "common/simd_convert.h"

namespace ptmkernels::PTMKERNELS_CPU_ARCH {

// Two bfloat16 that are neighbours along the summed dimension, the first in the low half.
struct Pair {
  uint32_t bits;
};

// sum + a.first · b.first + a.second · b.second in each lane: the instruction vdpbf16ps, and what
// it computes where it is not to be had (but for subnormal numbers, which the instruction takes for
// 0).
PTMKERNELS_INLINE Vec dot_pairs(UintVec a, UintVec b, Vec sum) {
#if defined(__AVX512BF16__) && PTMKERNELS_SIMD_WIDTH == 16
  return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
  sum += (Vec)(a & 0xffff0000u) * (Vec)(b & 0xffff0000u);
  return sum + (Vec)(a << 16) * (Vec)(b << 16);
#endif
}

// The pairs (a, b) of each lane, rounded to nearest even.
PTMKERNELS_INLINE UintVec round_pairs(Vec a, Vec b) {
#if defined(__AVX512BF16__) && PTMKERNELS_SIMD_WIDTH == 16
  typedef short Shorts __attribute__((vector_size(64)));
  const Shorts interleave = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                             8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return (UintVec)_mm512_permutexvar_epi16((__m512i)interleave,
                                           (__m512i)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a));
#else
  return widen(round_to_bfloat16(a)) | widen(round_to_bfloat16(b)) << 16;
#endif
}

}  // namespace ptmkernels::PTMKERNELS_CPU_ARCH
