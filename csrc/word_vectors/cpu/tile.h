// The inner kernels: a tile of up to 4 input rows against all output rows of a window, all float32.
//
// For input rows h_c and output rows v_o with labels y_o (1 for the word, 0 for noise):
//   g_co = learning_rate * m_o * (y_o - sigmoid(h_c . v_o))        the products of all pairs first
//   for c in order, for o in order:  e_c += g_co v_o;  v_o += g_co h_c;      then h_c += e_c
// (Mikolov et al. 2013, equation 4, by gradient ascent). The updates are applied in order inside
// the tile, only the products are those of its start: this loses no quality, a tile whose updates
// all use its start does (docs/word_vectors.md). m_o counts how often a negative was drawn: a row
// occurs once in a tile. With more outputs than kFewOutputs the input rows change after the last.
#pragma once

#include "common/simd.h"

namespace ptmkernels::PTMKERNELS_CPU_ARCH {

constexpr int kTileRows = 4;
constexpr int kFewOutputs = 6;  // that stay in registers
// Rows are made of whole cache lines: a line whose parts are stored one after the other costs half
// of one that is come back to.
constexpr int kLine = 16;  // float32 in a cache line
constexpr int kLineVectors = kLine / kWidth;
// Rows of a pass of products: its sums stay in registers, 16 of them with vectors of 4 and 8, 32
// with vectors of 16.
constexpr int kPass = kWidth == 16 ? 4 : 2;

// Rows that a later window needs, fetched while this one is worked on: each tile's updates, which
// leave the load units free time, take their share of them, a few lines at each step.
class Ahead {
 public:
  // tiles: that are to come; element: bytes of one.
  void start(int32_t tiles, int32_t element) {
    tiles_ = tiles;
    element_ = element;
    next_ = count_ = 0;
  }
  void add(const void* row) {
    if (count_ < kMost) rows_[count_++] = static_cast<const char*>(row);
  }
  void add(void* const* rows, int32_t count) {
    for (int32_t r = 0; r < count; ++r) add(rows[r]);
  }

  struct Share {
    const char* const* rows;
    int32_t count, element;

    // The line at d of all rows. Usual: how many they mostly are.
    template <int Usual>
    PTMKERNELS_INLINE void fetch(int32_t d) const {
      if (Usual > 0 && count == Usual) {
        PTMKERNELS_UNROLL
        for (int r = 0; r < Usual; ++r) __builtin_prefetch(rows[r] + d * element, 1);
      } else {
        for (int32_t r = 0; r < count; ++r) __builtin_prefetch(rows[r] + d * element, 1);
      }
    }
  };

  Share share() {
    const int32_t first = next_;
    const int32_t left = count_ - next_;
    const int32_t count = tiles_ > 1 ? (left + tiles_ - 1) / tiles_ : left;
    --tiles_;
    next_ += count;
    return {rows_ + first, count, element_};
  }

 private:
  static constexpr int kMost = 32;
  const char* rows_[kMost];
  int32_t tiles_, element_, next_, count_;
};

// Hides from the compiler that v is in memory, too.
PTMKERNELS_INLINE void keep_in_register(Vec& v) {
#if defined(__AVX512F__) && PTMKERNELS_SIMD_WIDTH == 16 || \
    defined(__AVX__) && PTMKERNELS_SIMD_WIDTH == 8 ||      \
    defined(__SSE2__) && PTMKERNELS_SIMD_WIDTH == 4
  asm("" : "+v"(v));
#endif
}

PTMKERNELS_INLINE float* floats(void* row) { return static_cast<float*>(row); }

// Width counts whole lines: rows that are not made of them come as padded copies (rows.h). What
// belongs to the pair (c, o) lies at [c * pair_pitch + o].
struct Tile {
  void* rows[kTileRows];  // h
  void* const* outputs;   // v
  const float* labels;    // (pair_pitch,), of which the first output_count count
  const float* weights;   // (pair_pitch,): learning rate * multiplicity
  float* product;         // (kTileRows, pair_pitch)
  float* gradient;        // (kTileRows, pair_pitch)
  float* change;          // (width): of a single row, which itself stays as it was
  int32_t row_count, output_count, width, pair_pitch;
};

// out[i] = the sum over the lanes of v[i]; `out` is written up to the next multiple of 8, a vector
// at a time: a load that needs several stores waits for them.
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
  for (int i = 0; i < N; i += 8) {
    auto quads = [&](int j) __attribute__((always_inline)) -> __m256 {
      return _mm256_hadd_ps(_mm256_hadd_ps(half(j), half(j + 1)),
                            _mm256_hadd_ps(half(j + 2), half(j + 3)));
    };
    const __m256 low = quads(i), high = i + 4 < N ? quads(i + 4) : _mm256_setzero_ps();
    _mm256_storeu_ps(out + i, _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20),
                                            _mm256_permute2f128_ps(low, high, 0x31)));
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

// The products of rows [row, row + NC) and outputs [first, first + NO).
template <int NC, int NO>
PTMKERNELS_NOINLINE void products(Tile& tile, int row, int first) {
  const float* rows[NC];
  const float* outputs[NO];
  Vec sums[NC * NO];
#pragma GCC unroll 4
  for (int c = 0; c < NC; ++c) rows[c] = floats(tile.rows[row + c]);
#pragma GCC unroll 6
  for (int o = 0; o < NO; ++o) outputs[o] = floats(tile.outputs[first + o]);
#pragma GCC unroll 24
  for (int i = 0; i < NC * NO; ++i) sums[i] = Vec{};
  for (int32_t d = 0; d < tile.width; d += kWidth) {
    Vec h[NC];
#pragma GCC unroll 4
    for (int c = 0; c < NC; ++c) h[c] = load(rows[c] + d);
#pragma GCC unroll 6
    for (int o = 0; o < NO; ++o) {
      Vec v = load(outputs[o] + d);
      keep_in_register(v);  // GCC would load it again for each row
#pragma GCC unroll 4
      for (int c = 0; c < NC; ++c) sums[c * NO + o] += h[c] * v;
    }
  }
#pragma GCC unroll 4
  for (int c = 0; c < NC; ++c) {
    lane_sums<NO>(sums + c * NO, tile.product + (row + c) * tile.pair_pitch + first);
  }
}

inline void gradients(Tile& tile) {
  for (int o = 0; o < tile.output_count; o += kWidth) {
    const Vec label = load(tile.labels + o), weight = load(tile.weights + o);
    for (int at = o; at < tile.row_count * tile.pair_pitch; at += tile.pair_pitch) {
      store(tile.gradient + at, weight * (label - sigmoid(load(tile.product + at))));
    }
  }
}

// Few outputs: they stay in registers while the rows pass.
template <int NO>
PTMKERNELS_NOINLINE void updates_of_few(Tile& tile, Ahead::Share ahead) {
  float* outputs[NO];
#pragma GCC unroll 6
  for (int o = 0; o < NO; ++o) outputs[o] = floats(tile.outputs[o]);
  for (int32_t d = 0; d < tile.width; d += kWidth) {
    if (d % kLine == 0) ahead.fetch<0>(d);
    Vec v[NO];
#pragma GCC unroll 6
    for (int o = 0; o < NO; ++o) v[o] = load(outputs[o] + d);
    const float* g = tile.gradient;
#pragma GCC unroll 1
    for (int c = 0; c < tile.row_count; ++c, g += tile.pair_pitch) {
      float* row = floats(tile.rows[c]) + d;
      const Vec h = load(row);
      Vec e[2] = {h};  // two chains of additions
#pragma GCC unroll 6
      for (int o = 0; o < NO; ++o) {
        const Vec factor = splat(g[o]);
        e[o % 2] = o == 1 ? factor * v[o] : e[o % 2] + factor * v[o];
        v[o] += factor * h;
      }
      store(row, NO == 1 ? e[0] : e[0] + e[1]);
    }
#pragma GCC unroll 6
    for (int o = 0; o < NO; ++o) store(outputs[o] + d, v[o]);
  }
}

// Lines [d, d + Lines * kLine) of all rows: the NC rows and their changes stay in registers while
// the outputs pass, NO of them or, if that is 0, any number.
template <int NC, int Lines, int NO>
PTMKERNELS_INLINE void update_lines(Tile& tile, int32_t d) {
  constexpr int kVectors = Lines * kLineVectors;
  Vec h[NC][kVectors], e[NC][kVectors];
  PTMKERNELS_UNROLL
  for (int i = 0; i < NC * kVectors; ++i) {
    const int c = i / kVectors, part = i % kVectors;
    h[c][part] = load(floats(tile.rows[c]) + d + part * kWidth);
    e[c][part] = Vec{};
  }
  auto pass = [&](int32_t o) __attribute__((always_inline)) {
    float* output = floats(tile.outputs[o]) + d;
    Vec v[kVectors];
    PTMKERNELS_UNROLL
    for (int i = 0; i < kVectors; ++i) v[i] = load(output + i * kWidth);
    PTMKERNELS_UNROLL
    for (int c = 0; c < NC; ++c) {
      const Vec factor = splat(tile.gradient[c * tile.pair_pitch + o]);
      PTMKERNELS_UNROLL
      for (int i = 0; i < kVectors; ++i) {
        e[c][i] += factor * v[i];
        v[i] += factor * h[c][i];
      }
    }
    PTMKERNELS_UNROLL
    for (int i = 0; i < kVectors; ++i) store(output + i * kWidth, v[i]);
  };
  if constexpr (NO > 0) {
    PTMKERNELS_UNROLL
    for (int o = 0; o < NO; ++o) pass(o);
  } else {
#pragma GCC unroll 1
    for (int32_t o = 0; o < tile.output_count; ++o) pass(o);
  }
  PTMKERNELS_UNROLL
  for (int i = 0; i < NC * kVectors; ++i) {
    const int c = i / kVectors, part = i % kVectors, at = d + part * kWidth;
    if constexpr (NC == 1) {
      store(tile.change + at, e[c][part]);
    } else {
      float* const row = floats(tile.rows[c]) + at;
      store(row, load(row) + e[c][part]);  // a row may occur twice
    }
  }
}

template <int NC, int NO = 0>
PTMKERNELS_NOINLINE void updates(Tile& tile, Ahead::Share ahead) {
  constexpr int kLines = NC > 2 ? 1 : 2;
  constexpr int kUsual = NO > 0 ? NO + 1 : 0;  // the next window's outputs and the row that enters
  int32_t d = 0;
  for (; d + kLines * kLine <= tile.width; d += kLines * kLine) {
    PTMKERNELS_UNROLL
    for (int line = 0; line < kLines; ++line) ahead.fetch<kUsual>(d + line * kLine);
    update_lines<NC, kLines, NO>(tile, d);
  }
  if (kLines > 1 && d < tile.width) {
    ahead.fetch<kUsual>(d);
    update_lines<NC, 1, NO>(tile, d);
  }
}

// The products of all pairs, a block of outputs at a time.
inline void all_products(Tile& tile) {
  using Products = void (*)(Tile&, int, int);
#define ALL_OUTPUTS(NC)                                                                  \
  {                                                                                      \
    products<NC, 1>, products<NC, 2>, products<NC, 3>, products<NC, 4>, products<NC, 5>, \
        products<NC, 6>                                                                  \
  }
  static constexpr Products kProducts[][kFewOutputs] = {ALL_OUTPUTS(1), ALL_OUTPUTS(2),
                                                        ALL_OUTPUTS(kPass)};
#undef ALL_OUTPUTS
  for (int32_t first = 0; first < tile.output_count;) {
    const int32_t left = tile.output_count - first;
    // The last two blocks are as equal as may be.
    const int32_t count = left >= 2 * kFewOutputs ? kFewOutputs
                          : left > kFewOutputs    ? (left + 1) / 2
                                                  : left;
    for (int row = 0; row < tile.row_count;) {
      const int rows_left = tile.row_count - row;
      const int taken = rows_left >= kPass ? kPass : rows_left >= 2 ? 2 : 1;
      kProducts[taken == 4 ? 2 : taken - 1][count - 1](tile, row, first);
      row += taken;
    }
    first += count;
  }
}

// The change of a single row is left in `change`.
inline void run_tile(Tile& tile, Ahead& ahead) {
  using Updates = void (*)(Tile&, Ahead::Share);
  static constexpr Updates kFew[] = {updates_of_few<1>, updates_of_few<2>, updates_of_few<3>,
                                     updates_of_few<4>, updates_of_few<5>, updates_of_few<6>};
  static constexpr Updates kOne[] = {updates<1, 1>, updates<1, 2>, updates<1, 3>,
                                     updates<1, 4>, updates<1, 5>, updates<1, 6>};
  static constexpr Updates kMany[] = {updates<1>, updates<2>, updates<3>, updates<4>};
  all_products(tile);
  gradients(tile);
  const bool few = tile.output_count <= kFewOutputs;
  const Updates run =
      few ? (tile.row_count > 1 ? kFew : kOne)[tile.output_count - 1] : kMany[tile.row_count - 1];
  run(tile, ahead.share());
}

}  // namespace ptmkernels::PTMKERNELS_CPU_ARCH
