// Vectors of PTMKERNELS_SIMD_WIDTH floats, written with the compiler's vector extensions, so that
// one source serves every instruction set.
//
// A translation unit of one instruction set defines
//   PTMKERNELS_CPU_ARCH    the namespace of everything that it compiles (avx2, avx512, ...)
//   PTMKERNELS_SIMD_WIDTH  the floats in a vector: 4, 8 or 16
// and includes this file. Such units must not emit a function that another unit may emit under the
// same name, since the linker keeps one of them and a machine without the wider instructions would
// run it: they include no standard header with inline code, and all of theirs lies in their own
// namespace.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define PTMKERNELS_INLINE inline __attribute__((always_inline))
#define PTMKERNELS_NOINLINE __attribute__((noinline))

// Unrolls the loop that follows, of at most 16 turns, so that an array which it indexes can live in
// registers.
#if defined(__clang__)
#define PTMKERNELS_UNROLL _Pragma("clang loop unroll(full)")
#else
#define PTMKERNELS_UNROLL _Pragma("GCC unroll 16")
#endif

namespace ptmkernels::PTMKERNELS_CPU_ARCH {

constexpr int kWidth = PTMKERNELS_SIMD_WIDTH;

typedef float Vec __attribute__((vector_size(kWidth * 4)));
typedef int32_t IntVec __attribute__((vector_size(kWidth * 4)));
typedef uint32_t UintVec __attribute__((vector_size(kWidth * 4)));
typedef uint16_t HalfVec __attribute__((vector_size(kWidth * 2)));
typedef uint8_t ByteVec __attribute__((vector_size(kWidth)));

constexpr float kInfinity = __builtin_inff();
constexpr float kLog2e = 1.44269504088896340736f;
constexpr float kLn2 = 0.69314718055994530942f;

// Unaligned memory of any type, read as a vector.
template <class V>
struct Unaligned {
  typedef V type __attribute__((aligned(1), may_alias));
};

template <class V>
PTMKERNELS_INLINE V load_as(const void* p) {
  return *static_cast<const typename Unaligned<V>::type*>(p);
}

template <class V>
PTMKERNELS_INLINE void store_as(void* p, V v) {
  *static_cast<typename Unaligned<V>::type*>(p) = v;
}

PTMKERNELS_INLINE Vec load(const float* p) { return load_as<Vec>(p); }
PTMKERNELS_INLINE void store(float* p, Vec v) { store_as(p, v); }
PTMKERNELS_INLINE Vec splat(float x) { return x - Vec{}; }
PTMKERNELS_INLINE IntVec splat(int32_t x) { return x - IntVec{}; }
PTMKERNELS_INLINE UintVec splat(uint32_t x) { return x - UintVec{}; }

// mask is 0 or -1 in each lane.
PTMKERNELS_INLINE Vec select(IntVec mask, Vec yes, Vec no) { return mask ? yes : no; }

// Return `b` where either is NaN, as the x86 instructions do.
PTMKERNELS_INLINE Vec max(Vec a, Vec b) {
#if defined(__AVX512F__) && PTMKERNELS_SIMD_WIDTH == 16
  return (Vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX__) && PTMKERNELS_SIMD_WIDTH == 8
  return (Vec)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__) && PTMKERNELS_SIMD_WIDTH == 4
  return (Vec)_mm_max_ps((__m128)a, (__m128)b);
#else
  return a > b ? a : b;
#endif
}

PTMKERNELS_INLINE Vec min(Vec a, Vec b) {
#if defined(__AVX512F__) && PTMKERNELS_SIMD_WIDTH == 16
  return (Vec)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX__) && PTMKERNELS_SIMD_WIDTH == 8
  return (Vec)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__) && PTMKERNELS_SIMD_WIDTH == 4
  return (Vec)_mm_min_ps((__m128)a, (__m128)b);
#else
  return a < b ? a : b;
#endif
}

// p[index] in each lane.
PTMKERNELS_INLINE Vec gather(const float* p, IntVec index) {
#if defined(__AVX512F__) && PTMKERNELS_SIMD_WIDTH == 16
  return (Vec)_mm512_i32gather_ps((__m512i)index, p, 4);
#elif defined(__AVX2__) && PTMKERNELS_SIMD_WIDTH == 8
  return (Vec)_mm256_i32gather_ps(p, (__m256i)index, 4);
#else
  Vec v;
  for (int lane = 0; lane < kWidth; ++lane) v[lane] = p[index[lane]];
  return v;
#endif
}

PTMKERNELS_INLINE float sum(Vec v) {
#if PTMKERNELS_SIMD_WIDTH > 4
  typedef float Half __attribute__((vector_size(kWidth * 2)));
  float low[kWidth];
  store(low, v);
  Half half = load_as<Half>(low) + load_as<Half>(low + kWidth / 2);
#else
  Vec half = v;
#endif
  float total = 0;
  for (size_t lane = 0; lane < sizeof(half) / 4; ++lane) total += half[lane];
  return total;
}

// 2^x of each of N vectors, for x <= 127, to 2e-7 of its value; 0 for x <= -127 and for -infinity;
// NaN stays NaN.
//
// x = n + f with n whole and |f| <= 1/2; 2^f is a polynomial with constant term 1 (so that 2^-127
// comes out as 0, exactly). A chain of twelve dependent instructions each: the N chains are
// interleaved in the source because a processor does not look far enough ahead.
template <int N>
PTMKERNELS_INLINE void exp2(Vec* x) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  Vec rounded[N], power[N];
  PTMKERNELS_UNROLL
  for (int i = 0; i < N; ++i) x[i] = max(splat(-127.0f), x[i]);
  PTMKERNELS_UNROLL
  for (int i = 0; i < N; ++i) rounded[i] = x[i] + kShift;
  PTMKERNELS_UNROLL
  for (int i = 0; i < N; ++i) x[i] -= rounded[i] - kShift;
  PTMKERNELS_UNROLL
  for (int i = 0; i < N; ++i) power[i] = 1.32647272e-3f * x[i] + 9.67151264e-3f;
  PTMKERNELS_UNROLL
  for (int i = 0; i < N; ++i) power[i] = power[i] * x[i] + 5.55073374e-2f;
  PTMKERNELS_UNROLL
  for (int i = 0; i < N; ++i) power[i] = power[i] * x[i] + 2.40222421e-1f;
  PTMKERNELS_UNROLL
  for (int i = 0; i < N; ++i) power[i] = power[i] * x[i] + 6.93146978e-1f;
  PTMKERNELS_UNROLL
  for (int i = 0; i < N; ++i) power[i] = power[i] * x[i] + 1.0f;
  PTMKERNELS_UNROLL
  for (int i = 0; i < N; ++i) x[i] = (Vec)((IntVec)power[i] + ((IntVec)rounded[i] << 23));
}

PTMKERNELS_INLINE Vec exp2(Vec x) {
  exp2<1>(&x);
  return x;
}

}  // namespace ptmkernels::PTMKERNELS_CPU_ARCH
