// Element types in memory, float32 in registers.
#pragma once

#include "common/simd.h"

namespace ptmkernels::PTMKERNELS_CPU_ARCH {

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

PTMKERNELS_INLINE UintVec widen(HalfVec v) {
#if defined(__AVX512F__) && PTMKERNELS_SIMD_WIDTH == 16
  return (UintVec)_mm512_cvtepu16_epi32((__m256i)v);
#elif defined(__AVX2__) && PTMKERNELS_SIMD_WIDTH == 8
  return (UintVec)_mm256_cvtepu16_epi32((__m128i)v);
#else
  return __builtin_convertvector(v, UintVec);
#endif
}

// The low halves.
PTMKERNELS_INLINE HalfVec narrow(UintVec v) {
#if defined(__AVX512F__) && PTMKERNELS_SIMD_WIDTH == 16
  return (HalfVec)_mm512_cvtepi32_epi16((__m512i)v);
#elif defined(__AVX2__) && PTMKERNELS_SIMD_WIDTH == 8
  const __m256i low = (__m256i)(v & 0xffff);
  return (HalfVec)_mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
#else
  return __builtin_convertvector(v, HalfVec);
#endif
}

// kWidth elements from memory.
PTMKERNELS_INLINE Vec load_elements(const float* p) { return load(p); }
PTMKERNELS_INLINE Vec load_elements(const double* p) {
  Vec v;
  for (int lane = 0; lane < kWidth; ++lane) v[lane] = static_cast<float>(p[lane]);
  return v;
}

PTMKERNELS_INLINE Vec load_elements(const BFloat16* p) {
  return (Vec)(widen(load_as<HalfVec>(p)) << 16);
}

PTMKERNELS_INLINE Vec load_elements(const Float16* p) {
#if defined(__AVX512F__) && PTMKERNELS_SIMD_WIDTH == 16
  return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__) && PTMKERNELS_SIMD_WIDTH == 8
  return (Vec)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  const UintVec half = widen(load_as<HalfVec>(p));
  // Normal halves are rebiased; subnormal ones are whole multiples of 2^-24.
  const UintVec magnitude = half & 0x7fff;
  const UintVec normal = (magnitude << 13) + (112u << 23);
  const Vec subnormal = __builtin_convertvector((IntVec)magnitude, Vec) * splat(0x1p-24f);
  const UintVec finite = magnitude < splat(uint32_t{0x400}) ? (UintVec)subnormal : normal;
  const UintVec bits =
      magnitude >= splat(uint32_t{0x7c00}) ? magnitude << 13 | 0x7f800000u : finite;
  return (Vec)(bits | (half & 0x8000) << 16);
#endif
}

// kWidth elements to memory, rounded to nearest even.
PTMKERNELS_INLINE void store_elements(float* p, Vec v) { store(p, v); }

PTMKERNELS_INLINE HalfVec round_to_bfloat16(Vec v) {
#if defined(__AVX512BF16__) && PTMKERNELS_SIMD_WIDTH == 16
  return (HalfVec)_mm512_cvtneps_pbh((__m512)v);
#else
  const UintVec bits = (UintVec)v;
  const UintVec rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return narrow(v == v ? rounded : splat(uint32_t{0x7fc0}));
#endif
}

PTMKERNELS_INLINE void store_elements(BFloat16* p, Vec v) { store_as(p, round_to_bfloat16(v)); }

PTMKERNELS_INLINE void store_elements(Float16* p, Vec v) {
#if defined(__AVX512F__) && PTMKERNELS_SIMD_WIDTH == 16
  store_as(p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__F16C__) && PTMKERNELS_SIMD_WIDTH == 8
  store_as(p, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  const UintVec bits = (UintVec)v;
  const UintVec magnitude = bits & 0x7fffffffu;
  // Normal halves: round the 13 bits that go, then rebias. Subnormal ones: adding 1/2 aligns their
  // last bit with a float's last bit.
  const UintVec normal = (magnitude + 0xfff + (magnitude >> 13 & 1) - (112u << 23)) >> 13;
  const UintVec subnormal = (UintVec)((Vec)magnitude + splat(0.5f)) - 0x3f000000u;
  const UintVec finite = magnitude < splat(uint32_t{113u << 23}) ? subnormal : normal;
  const UintVec limited =
      magnitude >= splat(uint32_t{0x477ff000u}) ? splat(uint32_t{0x7c00}) : finite;
  const UintVec half = magnitude > splat(uint32_t{0x7f800000u}) ? splat(uint32_t{0x7e00}) : limited;
  store_as(p, narrow(half | (bits >> 16 & 0x8000)));
#endif
}

// The first `count` < kWidth elements; the others are 0, and no memory beyond them is touched.
template <class T>
PTMKERNELS_INLINE Vec load_first(const T* p, int64_t count) {
  T buffer[kWidth] = {};
  __builtin_memcpy(buffer, p, static_cast<size_t>(count) * sizeof(T));
  return load_elements(buffer);
}

template <class T>
PTMKERNELS_INLINE void store_first(T* p, Vec v, int64_t count) {
  T buffer[kWidth];
  store_elements(buffer, v);
  __builtin_memcpy(p, buffer, static_cast<size_t>(count) * sizeof(T));
}

}  // namespace ptmkernels::PTMKERNELS_CPU_ARCH
