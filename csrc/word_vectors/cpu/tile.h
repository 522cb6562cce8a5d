// The inner kernels: a tile of up to 4 input rows against up to 6 output rows, all float32.
//
// For input rows h_c and output rows v_o with labels y_o (1 for the word, 0 for noise):
//   g_co = learning_rate * m_o * (y_o - sigmoid(h_c . v_o))        the products of all pairs first
//   for c in order, for o in order:  e_c += g_co v_o;  v_o += g_co h_c;      then h_c += e_c
// (Mikolov et al. 2013, equation 4, by gradient ascent). The updates are applied in order inside
// the tile, only the products are those of its start: this loses no quality, a tile whose updates
// all use its start does (docs/word_vectors.md). m_o counts how often a negative was drawn: a row
// occurs once in a tile.
#pragma once

#include "common/simd.h"

namespace ptmkernels::PTMKERNELS_CPU_ARCH {

constexpr int kTileRows = 4;
constexpr int kTileOutputs = 6;
// Rows of a pass of products: its sums stay in registers, 16 of them with vectors of 4 and 8, 32
// with vectors of 16.
constexpr int kPass = kWidth == 16 ? 4 : 2;
// What belongs to the pair (c, o) lies at [c * kPairPitch + o].
constexpr int kPairPitch = kWidth > 8 ? kWidth : 8;
constexpr int kTilePairs = kTileRows * kPairPitch;

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

  struct Share {
    const char* const* rows;
    int32_t count, element;

    PTMKERNELS_INLINE void fetch(int32_t d) const {
      if (d % 16) return;  // a cache line of float32
      for (int32_t r = 0; r < count; ++r) __builtin_prefetch(rows[r] + d * element, 1);
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

// Width counts whole vectors: rows that are not made of them come as padded copies (rows.h).
struct Tile {
  float* rows[kTileRows];        // h
  float* errors[kTileRows];      // sums of e over several tiles
  float* outputs[kTileOutputs];  // v
  const float* labels;           // (kPairPitch,), of which the first output_count count
  const float* weights;          // (kPairPitch,): learning rate * multiplicity
  int32_t row_count, output_count, width;
  alignas(64) float product[kTilePairs];
  alignas(64) float gradient[kTilePairs];
};

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

// The products of rows [row, row + NC).
template <int NC, int NO>
PTMKERNELS_NOINLINE void products(Tile& tile, int row) {
  const float* rows[NC];
  const float* outputs[NO];
  Vec sums[NC * NO];
#pragma GCC unroll 4
  for (int c = 0; c < NC; ++c) rows[c] = tile.rows[row + c];
#pragma GCC unroll 6
  for (int o = 0; o < NO; ++o) outputs[o] = tile.outputs[o];
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
    lane_sums<NO>(sums + c * NO, tile.product + (row + c) * kPairPitch);
  }
}

inline void gradients(Tile& tile) {
  for (int o = 0; o < tile.output_count; o += kWidth) {
    const Vec label = load(tile.labels + o), weight = load(tile.weights + o);
    for (int at = o; at < tile.row_count * kPairPitch; at += kPairPitch) {
      store(tile.gradient + at, weight * (label - sigmoid(load(tile.product + at))));
    }
  }
}

// Where the change e of a row goes.
enum class Change { kRow, kFirstError, kNextError };

// kRow: h += e at once, as all outputs are in this tile; else e is the first or a further part of
// tile.errors.
template <int NO, Change To>
PTMKERNELS_NOINLINE void updates(Tile& tile, Ahead::Share ahead) {
  float* outputs[NO];
#pragma GCC unroll 6
  for (int o = 0; o < NO; ++o) outputs[o] = tile.outputs[o];
  for (int32_t d = 0; d < tile.width; d += kWidth) {
    ahead.fetch(d);
    Vec v[NO];
#pragma GCC unroll 6
    for (int o = 0; o < NO; ++o) v[o] = load(outputs[o] + d);
    const float* g = tile.gradient;
#pragma GCC unroll 1
    for (int c = 0; c < tile.row_count; ++c, g += kPairPitch) {
      float* row = tile.rows[c] + d;
      float* target = To == Change::kRow ? row : tile.errors[c] + d;
      const Vec h = load(row);
      Vec e[2];  // two chains of additions
      if constexpr (To == Change::kRow) e[0] = h;
      if constexpr (To == Change::kNextError) e[0] = load(target);
#pragma GCC unroll 6
      for (int o = 0; o < NO; ++o) {
        const Vec factor = splat(g[o]);
        const bool starts = o == 1 || (o == 0 && To == Change::kFirstError);
        e[o % 2] = starts ? factor * v[o] : e[o % 2] + factor * v[o];
        v[o] += factor * h;
      }
      store(target, NO == 1 ? e[0] : e[0] + e[1]);
    }
#pragma GCC unroll 6
    for (int o = 0; o < NO; ++o) store(outputs[o] + d, v[o]);
  }
}

template <Change To>
void run_tile(Tile& tile, Ahead& ahead) {
  using Products = void (*)(Tile&, int);
  using Updates = void (*)(Tile&, Ahead::Share);
#define ALL_OUTPUTS(NC)                                                                  \
  {                                                                                      \
    products<NC, 1>, products<NC, 2>, products<NC, 3>, products<NC, 4>, products<NC, 5>, \
        products<NC, 6>                                                                  \
  }
  static constexpr Products kProducts[][kTileOutputs] = {ALL_OUTPUTS(1), ALL_OUTPUTS(2),
                                                         ALL_OUTPUTS(kPass)};
#undef ALL_OUTPUTS
  static constexpr Updates kUpdates[] = {updates<1, To>, updates<2, To>, updates<3, To>,
                                         updates<4, To>, updates<5, To>, updates<6, To>};
  const int column = tile.output_count - 1;
  for (int row = 0; row < tile.row_count;) {
    const int left = tile.row_count - row;
    const int taken = left >= kPass ? kPass : left >= 2 ? 2 : 1;
    kProducts[taken == 4 ? 2 : taken - 1][column](tile, row);
    row += taken;
  }
  gradients(tile);
  kUpdates[column](tile, ahead.share());
}

}  // namespace ptmkernels::PTMKERNELS_CPU_ARCH
