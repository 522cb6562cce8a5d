// Philox4x32-10 (philox.h) on kWidth counters at once.
#pragma once

#include "common/philox.h"
#include "common/simd.h"

namespace ptmkernels::PTMKERNELS_CPU_ARCH {

typedef uint64_t LongVec __attribute__((vector_size(kWidth * 4)));

// The 64-bit products of the lanes with `multiplier`, as their high and low words.
PTMKERNELS_INLINE void multiply_wide(UintVec v, uint32_t multiplier, UintVec* high, UintVec* low) {
  const LongVec factor = uint64_t{multiplier} - LongVec{};
#if defined(__AVX512F__) && PTMKERNELS_SIMD_WIDTH == 16
  const LongVec even = (LongVec)_mm512_mul_epu32((__m512i)v, (__m512i)factor);
  const LongVec odd = (LongVec)_mm512_mul_epu32((__m512i)((LongVec)v >> 32), (__m512i)factor);
#elif defined(__AVX2__) && PTMKERNELS_SIMD_WIDTH == 8
  const LongVec even = (LongVec)_mm256_mul_epu32((__m256i)v, (__m256i)factor);
  const LongVec odd = (LongVec)_mm256_mul_epu32((__m256i)((LongVec)v >> 32), (__m256i)factor);
#else
  const LongVec even = ((LongVec)v & 0xffffffffu) * factor;
  const LongVec odd = ((LongVec)v >> 32) * factor;
#endif
  *high = (UintVec)(even >> 32 | (odd & 0xffffffff00000000u));
  *low = (UintVec)((even & 0xffffffffu) | odd << 32);
}

PTMKERNELS_INLINE void philox(UintVec counter[4], uint64_t seed) {
  uint32_t key0 = static_cast<uint32_t>(seed);
  uint32_t key1 = static_cast<uint32_t>(seed >> 32);
#pragma GCC unroll 1
  for (int round = 0; round < kPhiloxRounds; ++round) {
    UintVec high0, low0, high1, low1;
    multiply_wide(counter[0], kPhiloxMultiplier0, &high0, &low0);
    multiply_wide(counter[2], kPhiloxMultiplier1, &high1, &low1);
    counter[0] = high1 ^ counter[1] ^ key0;
    counter[2] = high0 ^ counter[3] ^ key1;
    counter[1] = low1;
    counter[3] = low0;
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
}

}  // namespace ptmkernels::PTMKERNELS_CPU_ARCH
