// What the product Q·K starts from: everything of a score but the product itself.
//
//     start_ij = base_i + log2(e) · (bias_ij + table[bucket[j - i + L - 1]] + scale · (q_i +
//     v)·r_ij
//     + scale · (q_i + w)·g_ij),  -infinity where the mask hides key j from query i
//
// The micro-kernel loads it as its initial accumulators, so a bias or a mask costs one pass over
// the tiles that it touches and nothing elsewhere; every further term of a score is one more
// summand here. Scores are in units of log2(e): the softmax is one of powers of 2.
//
// A large bias, such as the most negative number that stands for "hidden", stays apart: it would
// overflow in those units, and each step of the product would be rounded to its last digit. It is
// added to the finished product in natural units, as the formula is written.
#pragma once

#include "attention/cpu/relative.h"

namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH {

PTMKERNELS_INLINE Scores at_head(Scores scores, int64_t batch, int64_t head) {
  if (scores.data)
    scores.data = element(scores.data, scores.dtype, batch * scores.batch + head * scores.head);
  return scores;
}

PTMKERNELS_INLINE const uint8_t* allowed_row(const Scores& allowed, int64_t row) {
  return static_cast<const uint8_t*>(allowed.data) + row * allowed.row;
}

// The options of one call in the form that the kernels read.
struct ScoreOptions {
  ScoreOptions(const Sizes& sizes, const Options& options, const CpuRuntime& runtime)
      : size(sizes),
        mask(options.mask),
        bias(options.bias),
        bounds(sizes, options.mask, runtime),
        relative(sizes, options.relative, runtime) {
    if (options.table) expand_table(options, runtime);
  }

  // The bucketed bias of a head by distance, table[bucket[...], head] at [i - j + S - 1], so that
  // it rises with the query.
  const float* diagonal_of(int64_t head) const {
    return diagonal ? diagonal + head * diagonal_stride : nullptr;
  }

  const Sizes& size;
  const Mask& mask;
  const Scores& bias;
  MaskBounds bounds;
  RelativeTerms relative;
  const float* diagonal = nullptr;
  int64_t diagonal_stride = 0;

 private:
  void expand_table(const Options& options, const CpuRuntime& runtime) {
    const int64_t distances = size.queries + size.keys - 1;
    diagonal_stride = round_up(distances + kLanes, 16);  // the last panel reads up to kLanes beyond
    float* values = allocate<float>(runtime, size.heads * diagonal_stride);
    diagonal = values;
    parallel(runtime, size.heads, static_cast<size_t>(options.table_rows) * sizeof(float),
             [&](int64_t head, char* scratch) {
               float* column = reinterpret_cast<float*>(scratch);
               for (int64_t row = 0; row < options.table_rows; ++row) {
                 const int64_t offset = row * options.table_row + head * options.table_column;
                 column[row] = read_scalar(
                     element(const_cast<void*>(options.table), options.table_dtype, offset),
                     options.table_dtype);
               }
               float* to = values + head * diagonal_stride;
               for (int64_t i = 0; i < distances; ++i)
                 to[i] = column[options.bucket[distances - 1 - i]];
               fill(to + distances, diagonal_stride - distances, 0);
             });
  }
};

// What `start_tile` finds: rows (keys) outside of [first, last) are hidden from every query of the
// panel. `first` is even, and so is `last` unless it is the tile's, so that two rows can make a
// pair.
struct StartTile {
  const float* start;
  int64_t stride;
  int64_t first;
  int64_t last;
  // (kKeyTile, kLanes): what stays apart, -infinity where the mask hides a key; null where `start`
  // holds everything.
  const float* apart = nullptr;
};

// When a bias stays apart: if it is large, or also where the scores before it were natural ones.
enum class Apart { kNever, kIfLarge, kAlways };

struct StartScratch {
  float* tile;    // (kKeyTile + kWidth, kLanes)
  float* square;  // (kLanes, kKeyTile)
  float* band;    // (band rows, kLanes)
  float* base;    // (kLanes)

  StartScratch(Scratch& scratch, const RelativeTerms& relative)
      : tile(scratch.take<float>((kKeyTile + kWidth) * kLanes)),
        square(scratch.take<float>(kLanes * kKeyTile)),
        band(scratch.take<float>(relative.band_rows() * kLanes)),
        base(scratch.take<float>(kLanes)) {}
};

// Of a panel of queries, in units of log2(e); null where there is no such term.
struct PanelTerms {
  const float* position = nullptr;  // (D, kLanes): scale · (q + v)
  BandCarry* carry = nullptr;
  const float* segment = nullptr;  // (2, kLanes): scale · (q + w)·g for the same and for another
};

// One row of the dense parts, for keys [key, key + keys).
inline void dense_row(const Scores& bias, const Scores& allowed, int64_t query, int64_t key,
                      int64_t keys, float* to) {
  if (bias.data) {
    const char* from = element(bias.data, bias.dtype, query * bias.row + key * bias.column);
    if (bias.column == 1) {
      read_row(bias.dtype, from, keys, 1, to);
    } else {
      for (int64_t j = 0; j < keys; ++j)
        to[j] = read_scalar(from + j * bias.column * element_size(bias.dtype), bias.dtype);
    }
  } else {
    fill(to, keys, 0);
  }
  if (allowed.data) {
    const uint8_t* see = allowed_row(allowed, query) + key * allowed.column;
    for (int64_t j = 0; j < keys; ++j) to[j] = see[j * allowed.column] ? to[j] : -kInfinity;
  }
}

// Narrows [first, last) to the keys that some row of `square` (rows, kKeyTile) does not hide.
inline void trim_dense(const float* square, int64_t rows, int64_t* first, int64_t* last) {
  const auto hidden = [&](int64_t key) {
    for (int64_t row = 0; row < rows; ++row) {
      if (square[row * kKeyTile + key] != -kInfinity) return false;
    }
    return true;
  };
  while (*first < *last && hidden(*first)) ++*first;
  while (*first < *last && hidden(*last - 1)) --*last;
}

// The dense bias and the dense mask, transposed: a query in each lane.
inline void fill_dense(const Tile& tile, const Scores& bias, const Scores& allowed,
                       const StartScratch& scratch, StartTile* result) {
  const bool by_key = (!bias.data || bias.row == 0) && (!allowed.data || allowed.row == 0);
  const int64_t rows = by_key ? 1 : tile.queries;
  for (int64_t row = 0; row < rows; ++row) {
    dense_row(bias, allowed, tile.query + row, tile.key, tile.keys,
              scratch.square + row * kKeyTile);
  }
  trim_dense(scratch.square, rows, &result->first, &result->last);
  if (result->first >= result->last) return;
  if (by_key) {
    for (int64_t j = 0; j < tile.keys; ++j) {
      for (int v = 0; v < kVectors; ++v)
        store(scratch.tile + j * kLanes + v * kWidth, splat(scratch.square[j]));
    }
  } else {
    fill(scratch.square + rows * kKeyTile, (kLanes - rows) * kKeyTile, 0);
    transpose(scratch.square, kKeyTile, kLanes, tile.keys, scratch.tile, kLanes);
  }
}

// The intervals of a panel, a query in each lane; lanes beyond the last query repeat it.
struct PanelIntervals {
  IntVec low[kVectors], high[kVectors];

  PanelIntervals(const Mask& mask, const Tile& tile) {
    int32_t lows[kLanes], highs[kLanes];
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const int64_t query = tile.query + smaller(lane, tile.queries - 1);
      lows[lane] = mask.low[tile.batch * mask.low_batch + query];
      highs[lane] = mask.high[tile.batch * mask.high_batch + query];
    }
    for (int v = 0; v < kVectors; ++v) {
      low[v] = load_as<IntVec>(lows + v * kWidth);
      high[v] = load_as<IntVec>(highs + v * kWidth);
    }
  }

  PTMKERNELS_INLINE IntVec see(int v, int32_t rank) const {
    return (low[v] <= rank) & (high[v] >= rank);
  }
};

// The tree's intervals of a panel.
struct PanelBranches {
  IntVec trunk[kVectors], low[kVectors], high[kVectors];

  PanelBranches(const Sizes& size, const Mask& mask, const Tile& tile) {
    int32_t trunks[kLanes], lows[kLanes], highs[kLanes];
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const int64_t token = tile.query + smaller(lane, tile.queries - 1) + size.keys - size.queries;
      const Branch branch = branch_of(mask.tree + tile.batch * mask.tree_batch, size.keys, token);
      trunks[lane] = branch.trunk ? -1 : 0;
      lows[lane] = branch.low;
      highs[lane] = branch.high;
    }
    for (int v = 0; v < kVectors; ++v) {
      trunk[v] = load_as<IntVec>(trunks + v * kWidth);
      low[v] = load_as<IntVec>(lows + v * kWidth);
      high[v] = load_as<IntVec>(highs + v * kWidth);
    }
  }

  PTMKERNELS_INLINE IntVec see(int v, const Branch& key) const {
    return (trunk[v] & (key.trunk ? -1 : 0)) | ((low[v] <= key.high) & (high[v] >= key.low));
  }
};

PTMKERNELS_INLINE void hide(float* start, IntVec see) {
  store(start, select(see, load(start), splat(-kInfinity)));
}

inline void hide_by_interval(const Mask& mask, const Tile& tile, float* starts, StartTile* result) {
  const int32_t* ranks = mask.rank + tile.batch * mask.rank_batch + tile.key;
  const PanelIntervals panel(mask, tile);
  for (int64_t j = result->first; j < result->last; ++j) {
    for (int v = 0; v < kVectors; ++v)
      hide(starts + j * kLanes + v * kWidth, panel.see(v, ranks[j]));
  }
}

inline void hide_by_tree(const Sizes& size, const Mask& mask, const Tile& tile, float* starts,
                         StartTile* result) {
  const PanelBranches panel(size, mask, tile);
  for (int64_t j = result->first; j < result->last; ++j) {
    const Branch key = branch_of(mask.tree + tile.batch * mask.tree_batch, size.keys, tile.key + j);
    for (int v = 0; v < kVectors; ++v) hide(starts + j * kLanes + v * kWidth, panel.see(v, key));
  }
}

// Narrows [first, last) to the keys whose rank lies in the hull of the panel's intervals.
inline void trim_interval(const Mask& mask, const Tile& tile, const QueryBounds& queries,
                          StartTile* result) {
  const int32_t* ranks = mask.rank + tile.batch * mask.rank_batch + tile.key;
  const auto hidden = [&](int64_t key) {
    return ranks[key] < queries.low.min || ranks[key] > queries.high.max;
  };
  while (result->first < result->last && hidden(result->first)) ++result->first;
  while (result->first < result->last && hidden(result->last - 1)) --result->last;
}

// The bucketed biases of a tile: key j's begin at the result - j; null without a table.
PTMKERNELS_INLINE const float* distances_of(const ScoreOptions& options, const Tile& tile) {
  const float* const diagonal = options.diagonal_of(tile.head);
  return diagonal ? diagonal + tile.query - tile.key + options.size.keys - 1 : nullptr;
}

// The base, the dense bias, which lies in the tile already, and the bucketed one.
inline void add_biases(const ScoreOptions& options, const Tile& tile, bool dense,
                       const StartScratch& scratch, StartTile* result) {
  const Vec base0 = load(result->start), base1 = load(result->start + kWidth);
  const float* const distance = distances_of(options, tile);
  for (int64_t j = result->first; j < result->last; ++j) {
    float* const row = scratch.tile + j * kLanes;
    Vec start0 = base0, start1 = base1;
    if (dense) start0 += kLog2e * load(row), start1 += kLog2e * load(row + kWidth);
    if (distance) {
      start0 += kLog2e * load(distance - j);
      start1 += kLog2e * load(distance - j + kWidth);
    }
    store(row, start0);
    store(row + kWidth, start1);
  }
  result->start = scratch.tile;
  result->stride = kLanes;
}

// Whether a bias of the tile is finite and above kLargeBias or below -kLargeBias.
inline bool is_large(const ScoreOptions& options, const Tile& tile, bool dense,
                     const StartScratch& scratch, const StartTile& range) {
  constexpr float kLargeBias = 128;
  IntVec any = {};
  const auto look = [&](const float* row) {
    for (int v = 0; v < kVectors; ++v) {
      const Vec x = load(row + v * kWidth);
      any |= (x > kLargeBias) | ((x < -kLargeBias) & (x > -kInfinity));
    }
  };
  const float* const distance = distances_of(options, tile);
  for (int64_t j = range.first; j < range.last; ++j) {
    if (dense) look(scratch.tile + j * kLanes);
    if (distance) look(distance - j);
  }
  int32_t found = 0;
  for (int lane = 0; lane < kWidth; ++lane) found |= any[lane];
  return found != 0;
}

// The same biases apart; the start becomes zeros.
inline void keep_apart(const ScoreOptions& options, const Tile& tile, bool dense,
                       const StartScratch& scratch, StartTile* result) {
  const float* const distance = distances_of(options, tile);
  for (int64_t j = result->first; j < result->last; ++j) {
    for (int v = 0; v < kVectors; ++v) {
      Vec bias = dense ? load(scratch.tile + j * kLanes + v * kWidth) : Vec{};
      if (distance) bias += load(distance - j + v * kWidth);
      store(scratch.square + j * kLanes + v * kWidth, bias);
    }
  }
  fill(scratch.base, kLanes, 0);
  result->start = scratch.base;
  result->apart = scratch.square;
}

inline void add_positions(const ScoreOptions& options, const Tile& tile, const PanelTerms& terms,
                          const StartScratch& scratch, StartTile* result) {
  const RelativeTerms& relative = options.relative;
  const BandShape shape = relative.shape(tile, result->first, result->last);
  relative.multiply_band(relative.key, tile, shape, terms.position, terms.carry, scratch.band);
  relative.add_band(tile, shape, scratch.band, result->start + result->first * result->stride,
                    result->stride, scratch.tile + result->first * kLanes);
  result->start = scratch.tile;
  result->stride = kLanes;
}

PTMKERNELS_INLINE Vec segment_term(const RelativeTerms::PanelSegments& panel, const float* segment,
                                   int v, int64_t key) {
  return select(panel.differ(v, key), load(segment + kLanes + v * kWidth),
                load(segment + v * kWidth));
}

// Adds the term to the base where the tile's keys are of one segment; else it returns false.
inline bool add_one_segment(const ScoreOptions& options, const Tile& tile, const float* segment,
                            const StartScratch& scratch, StartTile* result) {
  const RelativeTerms::PanelSegments panel = options.relative.segments_of(tile);
  if (panel.run_end(result->first, result->last) < result->last) return false;
  for (int v = 0; v < kVectors; ++v) {
    const Vec base = load(result->start + v * kWidth);
    store(scratch.base + v * kWidth, base + segment_term(panel, segment, v, result->first));
  }
  result->start = scratch.base;
  return true;
}

inline void add_segments(const ScoreOptions& options, const Tile& tile, const float* segment,
                         const StartScratch& scratch, StartTile* result) {
  const RelativeTerms::PanelSegments panel = options.relative.segments_of(tile);
  for (int64_t j = result->first; j < result->last; ++j) {
    for (int v = 0; v < kVectors; ++v) {
      const Vec start = load(result->start + j * result->stride + v * kWidth);
      store(scratch.tile + j * kLanes + v * kWidth, start + segment_term(panel, segment, v, j));
    }
  }
  result->start = scratch.tile;
  result->stride = kLanes;
}

// The start of the scores of one tile. `base` (kLanes) is added to every row unless a bias stays
// apart. `visible` says what the tile's bounds promise.
inline StartTile start_tile(const ScoreOptions& options, const Tile& tile,
                            const QueryBounds& queries, Visible visible, const float* base,
                            const PanelTerms& terms, const StartScratch& scratch, Apart apart) {
  StartTile result = {base, 0, 0, tile.keys};
  const Mask& mask = options.mask;
  const bool masked = visible != Visible::kAll;
  const bool dense = options.bias.data || mask.allowed.data;
  const float* diagonal = options.diagonal_of(tile.head);
  const bool relative = terms.position || terms.segment;
  if (!masked && !dense && !diagonal && !relative) return result;

  if (masked && mask.rank) trim_interval(mask, tile, queries, &result);
  if (dense && result.first < result.last) {
    fill_dense(tile, at_head(options.bias, tile.batch, tile.head),
               at_head(mask.allowed, tile.batch, tile.head), scratch, &result);
  }
  if (result.first >= result.last) return result;
  result.first -= result.first % 2;
  result.last = smaller(result.last + result.last % 2, tile.keys);
  const bool biased = options.bias.data || diagonal;
  if (biased && apart != Apart::kNever) {
    if (apart == Apart::kAlways || is_large(options, tile, dense, scratch, result))
      keep_apart(options, tile, dense, scratch, &result);
  }
  bool segments = terms.segment;
  if (segments && add_one_segment(options, tile, terms.segment, scratch, &result)) segments = false;
  if (!result.apart && (dense || diagonal || !(terms.position || segments)))
    add_biases(options, tile, dense, scratch, &result);
  if (terms.position) add_positions(options, tile, terms, scratch, &result);
  if (segments) add_segments(options, tile, terms.segment, scratch, &result);
  float* const hidden = result.apart ? scratch.square : scratch.tile;
  if (masked && mask.rank) hide_by_interval(mask, tile, hidden, &result);
  if (masked && mask.tree) hide_by_tree(options.size, mask, tile, hidden, &result);
  return result;
}

}  // namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH
