// The inner kernels: a tile of up to 4 input rows against up to 6 output rows.
//
// For input rows h_c and output rows v_o with labels y_o (1 for the word, 0 for noise):
//   g_co = learning_rate * m_o * (y_o - sigmoid(h_c . v_o))        the products of all pairs first
//   for c in order, for o in order:  e_c += g_co v_o;  v_o += g_co h_c;      then h_c += e_c
// (Mikolov et al. 2013, equation 4, by gradient ascent). The updates are applied in order inside
// the tile, only the products are those of its start: this loses no quality, a tile whose updates
// all use its start does (docs/performance.md). m_o counts how often a negative was drawn: a row
// occurs once in a tile.
#pragma once

#include "common/simd.h"
#include "common/simd_convert.h"

namespace ptmkernels::PTMKERNELS_CPU_ARCH {

constexpr int kTileRows = 4;
constexpr int kTileOutputs = 6;
constexpr int kTilePairs = (kTileRows * kTileOutputs + kWidth - 1) / kWidth * kWidth;

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

template <class T>
PTMKERNELS_INLINE void store_first_rounded(T* p, Vec v, int64_t count, Rounding& rounding) {
  T buffer[kWidth];
  store_rounded(buffer, v, rounding);
  __builtin_memcpy(p, buffer, static_cast<size_t>(count) * sizeof(T));
}

// The last columns of float32 rows without a detour through memory.
#if defined(__AVX512F__) && PTMKERNELS_SIMD_WIDTH == 16
PTMKERNELS_INLINE Vec load_first(const float* p, int64_t count) {
  return (Vec)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
}
PTMKERNELS_INLINE void store_first_rounded(float* p, Vec v, int64_t count, Rounding&) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), (__m512)v);
}
#elif defined(__AVX2__) && PTMKERNELS_SIMD_WIDTH == 8
PTMKERNELS_INLINE Vec load_first(const float* p, int64_t count) {
  alignas(32) static constexpr int32_t kMask[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  const __m256i mask = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMask + 8 - count));
  return (Vec)_mm256_maskload_ps(p, mask);
}
PTMKERNELS_INLINE void store_first_rounded(float* p, Vec v, int64_t count, Rounding&) {
  __m128 part = _mm256_castps256_ps128((__m256)v);
  if (count & 4) {
    _mm_storeu_ps(p, part);
    part = _mm256_extractf128_ps((__m256)v, 1);
    p += 4;
  }
  if (count & 2) {
    _mm_storel_pi(reinterpret_cast<__m64*>(p), part);
    part = _mm_movehl_ps(part, part);
    p += 2;
  }
  if (count & 1) _mm_store_ss(p, part);
}
#endif

// Columns [d, d + kWidth) of rows, the last ones fewer.
struct Columns {
  int32_t d;
  int32_t count;  // kWidth, or what is left

  template <bool Whole, class T>
  PTMKERNELS_INLINE Vec load(const T* row) const {
    return Whole ? load_elements(row + d) : load_first(row + d, count);
  }
  template <bool Whole, class T>
  PTMKERNELS_INLINE void store(T* row, Vec v, Rounding& rounding) const {
    if (Whole) {
      store_rounded(row + d, v, rounding);
    } else {
      store_first_rounded(row + d, v, count, rounding);
    }
  }
};

template <bool V>
struct Whole {
  static constexpr bool value = V;
};

template <class Body>
PTMKERNELS_INLINE void for_columns(int32_t width, const Body& body) {
  int32_t d = 0;
  for (; d + kWidth <= width; d += kWidth) body(Columns{d, kWidth}, Whole<true>{});
  if (d < width) body(Columns{d, width - d}, Whole<false>{});
}

// out[i] = the sum over the lanes of v[i]; `out` is written up to the next multiple of 4.
template <int N>
PTMKERNELS_INLINE void lane_sums(const Vec* v, float* out) {
#if defined(__AVX__) && PTMKERNELS_SIMD_WIDTH >= 8
  auto half = [v](int i) __attribute__((always_inline)) -> __m256 {
    if (i >= N) return _mm256_setzero_ps();
#if PTMKERNELS_SIMD_WIDTH == 16
    return (__m256)(__builtin_shufflevector(v[i], v[i], 0, 1, 2, 3, 4, 5, 6, 7) +
                    __builtin_shufflevector(v[i], v[i], 8, 9, 10, 11, 12, 13, 14, 15));
#else
    return (__m256)v[i];
#endif
  };
  // Four at once: pairs, pairs of pairs, then the two halves.
#pragma GCC unroll 6
  for (int i = 0; i < N; i += 4) {
    const __m256 quads = _mm256_hadd_ps(_mm256_hadd_ps(half(i), half(i + 1)),
                                        _mm256_hadd_ps(half(i + 2), half(i + 3)));
    _mm_storeu_ps(out + i,
                  _mm_add_ps(_mm256_castps256_ps128(quads), _mm256_extractf128_ps(quads, 1)));
  }
#else
  for (int i = 0; i < N; ++i) out[i] = sum(v[i]);
#endif
}

// 1 / (1 + exp(-x))
PTMKERNELS_INLINE Vec sigmoid(Vec x) {
  const Vec limit = splat(80.0f);
  x = max(min(x, limit), -limit);
  return splat(1.0f) / (splat(1.0f) + exp2(x * splat(-kLog2e)));
}

// Rows that the next window needs: fetched while this one is worked on, a few lines at each step.
template <class T>
struct Ahead {
  const T* rows[kTileOutputs];
};

template <class T>
PTMKERNELS_INLINE void fetch(const Ahead<T>& ahead, int32_t d) {
  constexpr int kPerLine = 64 / static_cast<int>(sizeof(T));
  constexpr int kSteps = kPerLine > kWidth ? kPerLine / kWidth : 1;  // column steps to a cache line
  constexpr int kRows = (kTileOutputs + kSteps - 1) / kSteps;
  const int first = d / kWidth % kSteps * kRows;
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
    const int row = first + r < kTileOutputs ? first + r : kTileOutputs - 1;
    __builtin_prefetch(ahead.rows[row] + d / kPerLine * kPerLine, 1);
  }
}

template <class H, class V>
struct Tile {
  H* rows[kTileRows];        // h
  V* outputs[kTileOutputs];  // v
  float label[kTileOutputs];
  float weight[kTileOutputs];  // learning rate * multiplicity
  float* errors;               // (kTileRows, error_stride): e, where the outputs need several tiles
  int32_t error_stride;
  int32_t width;
  alignas(64) float product[kTilePairs];   // h_c . v_o at [c * outputs + o]
  alignas(64) float gradient[kTilePairs];  // g_co
};

// product[(row + c) * NO + o] for NC rows.
template <int NC, int NO, bool Fetch, class H, class V>
PTMKERNELS_INLINE void products(Tile<H, V>& tile, int row, const Ahead<V>* ahead) {
  Vec sums[NC * NO];
#pragma GCC unroll 24
  for (int i = 0; i < NC * NO; ++i) sums[i] = Vec{};
  for_columns(tile.width, [&](Columns at, auto whole) __attribute__((always_inline)) {
    if (Fetch) fetch(*ahead, at.d);
    Vec h[NC];
#pragma GCC unroll 4
    for (int c = 0; c < NC; ++c) h[c] = at.load<whole.value>(tile.rows[row + c]);
#pragma GCC unroll 6
    for (int o = 0; o < NO; ++o) {
      const Vec v = at.load<whole.value>(tile.outputs[o]);
#pragma GCC unroll 4
      for (int c = 0; c < NC; ++c) sums[c * NO + o] += h[c] * v;
    }
  });
  lane_sums<NC * NO>(sums, tile.product + row * NO);
}

template <int NC, int NO, class H, class V>
PTMKERNELS_INLINE void all_products(Tile<H, V>& tile, const Ahead<V>& ahead) {
  // The sums of one pass stay in registers: 16 of them with vectors of 4 and 8, 32 with vectors
  // of 16.
  constexpr int kRows = kWidth == 16 ? 4 : 2;
  constexpr int kFirst = NC < kRows ? NC : kRows;
  products<kFirst, NO, true>(tile, 0, &ahead);
  if constexpr (NC > kFirst) products<NC - kFirst, NO, false>(tile, kFirst, &ahead);
}

template <int NC, int NO, class H, class V>
PTMKERNELS_INLINE void gradients(Tile<H, V>& tile) {
  alignas(64) float label[kTilePairs] = {}, weight[kTilePairs] = {};
#pragma GCC unroll 4
  for (int c = 0; c < NC; ++c) {
#pragma GCC unroll 6
    for (int o = 0; o < NO; ++o) {
      label[c * NO + o] = tile.label[o];
      weight[c * NO + o] = tile.weight[o];
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < NC * NO; i += kWidth) {
    const Vec g = load(weight + i) * (load(label + i) - sigmoid(load(tile.product + i)));
    store(tile.gradient + i, g);
  }
}

// Direct: h += e at once (all outputs are in this tile); else e is added to tile.errors.
template <int NC, int NO, bool Direct, class H, class V>
PTMKERNELS_INLINE void updates(Tile<H, V>& tile, Rounding& rounding) {
  const float* g = tile.gradient;
  for_columns(tile.width, [&](Columns at, auto whole) __attribute__((always_inline)) {
    Vec v[NO];
#pragma GCC unroll 6
    for (int o = 0; o < NO; ++o) v[o] = at.load<whole.value>(tile.outputs[o]);
#pragma GCC unroll 4
    for (int c = 0; c < NC; ++c) {
      const Vec h = at.load<whole.value>(tile.rows[c]);
      Vec e = Vec{};
#pragma GCC unroll 6
      for (int o = 0; o < NO; ++o) {
        const Vec factor = splat(g[c * NO + o]);
        e += factor * v[o];
        v[o] += factor * h;
      }
      if (Direct) {
        at.store<whole.value>(tile.rows[c], h + e, rounding);
      } else {
        float* error = tile.errors + c * tile.error_stride;
        store(error + at.d, load(error + at.d) + e);
      }
    }
#pragma GCC unroll 6
    for (int o = 0; o < NO; ++o) at.store<whole.value>(tile.outputs[o], v[o], rounding);
  });
}

template <int NC, int NO, bool Direct, class H, class V>
PTMKERNELS_NOINLINE void run_tile(Tile<H, V>& tile, const Ahead<V>& ahead, Rounding& rounding) {
  all_products<NC, NO>(tile, ahead);
  gradients<NC, NO>(tile);
  updates<NC, NO, Direct>(tile, rounding);
}

// CBOW: h is the mean of `count` context rows, and its change e goes to every one of them in full,
// as in word2vec.c. hidden: (width rounded up to a vector).
template <class T>
struct Mean {
  T* const* rows;
  int32_t count;
  float* hidden;
};

template <int NO, class T>
PTMKERNELS_NOINLINE void run_mean_tile(Tile<float, T>& tile, const Mean<T>& mean,
                                       const Ahead<T>& ahead, Rounding& rounding) {
  const Vec share = splat(1.0f / static_cast<float>(mean.count));
  Vec sums[NO];
#pragma GCC unroll 6
  for (int o = 0; o < NO; ++o) sums[o] = Vec{};
  for_columns(tile.width, [&](Columns at, auto whole) __attribute__((always_inline)) {
    fetch(ahead, at.d);
    Vec h = at.load<whole.value>(mean.rows[0]);
    for (int32_t r = 1; r < mean.count; ++r) h += at.load<whole.value>(mean.rows[r]);
    h *= share;
    store(mean.hidden + at.d, h);
#pragma GCC unroll 6
    for (int o = 0; o < NO; ++o) sums[o] += h * at.load<whole.value>(tile.outputs[o]);
  });
  lane_sums<NO>(sums, tile.product);
  gradients<1, NO>(tile);
  for_columns(tile.width, [&](Columns at, auto whole) __attribute__((always_inline)) {
    const Vec h = load(mean.hidden + at.d);
    Vec e = Vec{};
#pragma GCC unroll 6
    for (int o = 0; o < NO; ++o) {
      const Vec factor = splat(tile.gradient[o]);
      const Vec v = at.load<whole.value>(tile.outputs[o]);
      e += factor * v;
      at.store<whole.value>(tile.outputs[o], v + factor * h, rounding);
    }
    for (int32_t r = 0; r < mean.count; ++r) {
      at.store<whole.value>(mean.rows[r], at.load<whole.value>(mean.rows[r]) + e, rounding);
    }
  });
}

template <class T>
void run_mean_tile(int outputs, Tile<float, T>& tile, const Mean<T>& mean, const Ahead<T>& ahead,
                   Rounding& rounding) {
  using Function = void (*)(Tile<float, T>&, const Mean<T>&, const Ahead<T>&, Rounding&);
  static constexpr Function kTable[kTileOutputs] = {run_mean_tile<1, T>, run_mean_tile<2, T>,
                                                    run_mean_tile<3, T>, run_mean_tile<4, T>,
                                                    run_mean_tile<5, T>, run_mean_tile<6, T>};
  kTable[outputs - 1](tile, mean, ahead, rounding);
}

template <class H, class V>
using TileFunction = void (*)(Tile<H, V>&, const Ahead<V>&, Rounding&);

// The tile of `rows` x `outputs`.
template <bool Direct, class H, class V>
TileFunction<H, V> tile_function(int rows, int outputs) {
#define ROW(NC)                                                                                  \
  {                                                                                              \
    run_tile<NC, 1, Direct, H, V>, run_tile<NC, 2, Direct, H, V>, run_tile<NC, 3, Direct, H, V>, \
        run_tile<NC, 4, Direct, H, V>, run_tile<NC, 5, Direct, H, V>,                            \
        run_tile<NC, 6, Direct, H, V>                                                            \
  }
  static constexpr TileFunction<H, V> kTable[kTileRows][kTileOutputs] = {ROW(1), ROW(2), ROW(3),
                                                                         ROW(4)};
#undef ROW
  return kTable[rows - 1][outputs - 1];
}

}  // namespace ptmkernels::PTMKERNELS_CPU_ARCH
