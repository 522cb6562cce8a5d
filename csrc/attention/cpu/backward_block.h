// What the backward works on: how it is cut into tasks, the scratch of a task, and the steps on one
// block.
#pragma once

#include "attention/cpu/band_window.h"
#include "attention/cpu/bias_gradient.h"
#include "attention/cpu/relative_gradient.h"
#include "attention/cpu/softmax.h"

namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH {

// A group is the heads that add to the same dK and dV, and to the same gradient of the bias or of a
// relative key or value. Chunks of keys follow from the shape alone.
struct BackwardPlan {
  BackwardPlan(const BackwardParams& params, int64_t threads) {
    constexpr int64_t kChunkElements = 32 << 10;
    constexpr int64_t kFewTasks = 16;
    const Sizes& size = params.size;
    const Scores& bias = params.grad_bias;
    const Heads& key = params.grad_relative_key;
    const Heads& value = params.grad_relative_value;
    const int64_t tiles = divide_up(size.keys, kKeyTile);
    chunk_tiles = larger(1, kChunkElements / (kKeyTile * size.dimension));
    const int64_t heads = size.batches * size.key_heads;
    while (chunk_tiles > 1 && heads * divide_up(tiles, chunk_tiles) < kFewTasks) chunk_tiles /= 2;
    chunk_tiles = smaller(chunk_tiles, tiles);
    chunks = divide_up(tiles, chunk_tiles);
    const bool one_batch = (bias.data && bias.batch == 0) || (key.data && key.batch == 0) ||
                           (value.data && value.batch == 0);
    const bool one_head = (bias.data && bias.head == 0) || (key.data && key.head == 0) ||
                          (value.data && value.head == 0);
    group_batches = one_batch ? size.batches : 1;
    group_heads = one_head ? size.key_heads : 1;
    groups = size.batches / group_batches * (size.key_heads / group_heads);
    parallel_chunks = chunks > 1 && groups < 4 * threads;
    copies = parallel_chunks ? chunks : 1;
  }

  HeadGroups head_groups(const Sizes& size) const {
    return {group_batches, group_heads * (size.heads / size.key_heads), copies};
  }

  int64_t chunk_tiles;
  int64_t chunks;
  int64_t group_batches;
  int64_t group_heads;  // key heads
  int64_t groups;
  bool parallel_chunks;  // chunks of a group are tasks of their own
  int64_t copies;        // of dQ, until they are summed
};

template <class Unit>
struct BackwardScratch {
  BackwardScratch(Scratch& scratch, const Sizes& size, int64_t chunk_tiles,
                  const RelativeTerms& relative, const RelativeGradient& gradient)
      : start(scratch, relative), diagonals(scratch, size, kBlockQueries) {
    const int64_t pitch = pitch_of(size.dimension);
    const int64_t width = round_up(size.dimension, kWidth);
    const int64_t keys = chunk_tiles * kKeyTile;
    const int64_t pairs = kElements<Unit> - 1;  // floats need no copies in pairs
    key = scratch.take<Unit>(keys * pitch);
    key_pairs = scratch.take<Unit>(pairs * keys * pitch);
    value = scratch.take<Unit>(keys * pitch);
    grad_key = scratch.take<float>(keys * pitch);
    grad_value = scratch.take<float>(keys * pitch);
    query_rows = scratch.take<Unit>(kBlockQueries * pitch);
    query_pairs = scratch.take<Unit>(pairs * kBlockQueries * pitch);
    grad_output_rows = scratch.take<Unit>(kBlockQueries * pitch);
    grad_output_pairs = scratch.take<Unit>(pairs * kBlockQueries * pitch);
    query = scratch.take<Unit>(kBlockQueries * width);
    grad_output = scratch.take<Unit>(kBlockQueries * width);
    grad_query = scratch.take<float>(kBlockQueries * width);
    base = scratch.take<float>(kBlockQueries);
    rest = scratch.take<float>(kBlockQueries);
    delta = scratch.take<float>(kBlockQueries);
    weights = scratch.take<float>(kKeyTile * kTilePitch);
    grad_scores = scratch.take<float>(kKeyTile * kTilePitch);
    weight_rows = scratch.take<Unit>(pairs * kKeyTile * kTilePitch);
    grad_score_rows = scratch.take<Unit>(pairs * kKeyTile * kTilePitch);
    grad_score_pairs = scratch.take<Unit>(pairs * kKeyTile * kLanes);
    factors = scratch.take<float>(kKeyTile * kLanes);
    square = scratch.take<float>(kLanes * width);
    const int64_t bands = relative.key ? 1 : 0, segments = relative.segments() ? 1 : 0;
    content_rows = scratch.take<float>(kBlockQueries * pitch);
    position_rows = scratch.take<float>(bands * kBlockQueries * pitch);
    position = scratch.take<float>(bands * kBlockQueries * width);
    grad_position = scratch.take<float>(bands * kBlockQueries * width);
    carry = scratch.take<BandCarry>(kBlockPanels);
    carried = scratch.take<float>(bands * kBlockQueries * kLanes);
    segment = scratch.take<float>(segments * 2 * kBlockQueries);
    grad_segment = scratch.take<float>(segments * 2 * kBlockQueries);
    key_window = scratch.take<BandWindow>(1);
    key_window_rows = scratch.take<float>(bands * BandWindow::kRows * kTilePitch);
    value_window = scratch.take<BandWindow>(1);
    value_window_rows =
        scratch.take<float>(gradient.value.active() ? BandWindow::kRows * kTilePitch : 0);
    grad_relative_key = scratch.take<float>(gradient.key.task_elements());
    grad_relative_value = scratch.take<float>(gradient.value.task_elements());
  }

  StartScratch start;
  TableGradient::Diagonals diagonals;
  Unit* key;                // (chunk, pitch), units along the dimension
  Unit* key_pairs;          // (chunk / 2, pitch), along the keys
  Unit* value;              // (chunk, pitch), along the dimension
  float* grad_key;          // (chunk, pitch)
  float* grad_value;        // (chunk, pitch)
  Unit* query_rows;         // (kBlockQueries, pitch), along the dimension
  Unit* query_pairs;        // (kBlockQueries / 2, pitch), along the queries
  Unit* grad_output_rows;   // (kBlockQueries, pitch), along the dimension
  Unit* grad_output_pairs;  // (kBlockQueries / 2, pitch), along the queries
  Unit* query;              // (kBlockPanels, width, kLanes), along the dimension; floats are scaled
  Unit* grad_output;        // (kBlockPanels, width, kLanes), along the dimension
  float* grad_query;        // (kBlockPanels, width, kLanes)
  float* base;     // (kBlockQueries): -lse in units of log2(e), or lse where a bias stays apart;
                   // -infinity for a row that sees nothing
  float* rest;     // (kBlockQueries): log2(e) times what rounding took from lse
  float* delta;    // (kBlockQueries): -δ
  float* weights;  // (kKeyTile, kTilePitch)
  float* grad_scores;        // (kKeyTile, kTilePitch)
  Unit* weight_rows;         // (kKeyTile, kTilePitch / 2), along the queries
  Unit* grad_score_rows;     // (kKeyTile, kTilePitch / 2), along the queries
  Unit* grad_score_pairs;    // (kKeyTile / 2, kLanes), along the keys
  float* factors;            // (kKeyTile, kLanes)
  float* square;             // (kLanes, width)
  float* content_rows;       // (kBlockQueries, pitch): q + u
  float* position_rows;      // (kBlockQueries, pitch): q + v
  float* position;           // (kBlockPanels, width, kLanes): see PanelTerms
  float* grad_position;      // (kBlockPanels, width, kLanes): dB·r
  BandCarry* carry;          // (kBlockPanels)
  float* carried;            // (kBlockPanels, kLanes, kLanes)
  float* segment;            // (kBlockPanels, 2, kLanes): see PanelTerms
  float* grad_segment;       // (kBlockPanels, 2, kLanes): e
  BandWindow* key_window;    // dS by row of the relative key
  BandWindow* value_window;  // P ∘ Z by row of the relative value
  float* key_window_rows;    // see BandWindow
  float* value_window_rows;
  float* grad_relative_key;    // see TableRowsGradient
  float* grad_relative_value;  // see TableRowsGradient
};

// Of one head: a block of queries.
template <class Unit>
struct Block {
  int64_t batch;
  int64_t head;
  int64_t index;
  int64_t query;    // first
  int64_t queries;  // <= kBlockQueries
  int64_t panels;
  bool loaded = false;
  bool windows = false;          // the block's bands go through windows
  bool seen[kBlockPanels] = {};  // the panel has seen a key of the chunk, so its dQ is set
  Rows<Unit> rows = {};          // of the queries, along the dimension
  Rows<float> position = {};     // q + v
  Rows<Unit> query_units = {};   // along the queries
  Rows<Unit> grad_units = {};    // the output's gradient, along the queries
};

// Of one key head: a chunk of keys.
template <class Unit>
struct Chunk {
  int64_t index;
  int64_t key;  // first
  int64_t keys;
  Rows<Unit> key_rows;   // along the dimension
  Rows<Unit> key_units;  // along the keys
  Rows<Unit> value_rows;
};

// weights: scores less lse -> P ∘ Z; grads: dP less δ (with kDropout: dP) -> dS
template <bool kDropout>
PTMKERNELS_NOINLINE void differentiate(float* weights, float* grads, int64_t keys,
                                       const float* factors, const float* delta) {
  constexpr int kAtOnce = 2 * kVectors;  // two keys; at an odd end, one of them twice
  for (int64_t key = 0; key < keys; key += 2) {
    const int64_t next = key + 1 < keys ? key + 1 : key;
    const auto at = [&](int i, int64_t pitch) {
      return (i < kVectors ? key : next) * pitch + i % kVectors * kWidth;
    };
    Vec p[kAtOnce], grad[kAtOnce];
    PTMKERNELS_UNROLL
    for (int i = 0; i < kAtOnce; ++i) p[i] = min(Vec{}, load(weights + at(i, kTilePitch)));
    exp2<kAtOnce>(p);
    PTMKERNELS_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      grad[i] = load(grads + at(i, kTilePitch));
      if (kDropout) {
        const Vec z = load(factors + at(i, kLanes));
        grad[i] = p[i] * (z * grad[i] + load(delta + i % kVectors * kWidth));
        p[i] *= z;
      } else {
        grad[i] *= p[i];
      }
    }
    PTMKERNELS_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      store(weights + at(i, kTilePitch), p[i]);
      store(grads + at(i, kTilePitch), grad[i]);
    }
  }
}

// A tile (kKeyTile, kTilePitch) as the left side of a product over queries: floats as they are,
// pairs in a copy.
PTMKERNELS_INLINE Rows<float> tile_rows(const float* tile, const float*) {
  return {tile, kTilePitch};
}
PTMKERNELS_INLINE Rows<Pair> tile_rows(const float*, const Pair* copy) {
  return {copy, kTilePitch / 2};
}

// Sets keys [first, last) of a panel in the copy.
PTMKERNELS_INLINE void round_panel(const float*, int64_t, int64_t, int64_t, float*) {}

inline void round_panel(const float* tile, int64_t panel, int64_t first, int64_t last, Pair* copy) {
  BFloat16* const to = reinterpret_cast<BFloat16*>(copy);
  for (int64_t at = first * kTilePitch + panel * kLanes; at < last * kTilePitch; at += kTilePitch) {
    for (int v = 0; v < kVectors; ++v)
      store_elements(to + at + v * kWidth, load(tile + at + v * kWidth));
  }
}

// Clears key `key` of a panel in what tile_rows gives.
PTMKERNELS_INLINE void clear_panel(float* tile, int64_t panel, int64_t key, float*) {
  fill(tile + key * kTilePitch + panel * kLanes, kLanes, 0);
}

PTMKERNELS_INLINE void clear_panel(float*, int64_t panel, int64_t key, Pair* copy) {
  fill(reinterpret_cast<float*>(copy + (key * kTilePitch + panel * kLanes) / 2), kLanes / 2, 0);
}

// Zeros in `rows` (count, pitch) of a block beyond the head dimension, up to whole panels, and
// beyond the last row up to `padded`.
template <class Unit>
void clear_padding(Unit* rows, int64_t count, int64_t padded, int64_t dimension, int64_t pitch) {
  const int64_t width = round_up(dimension, kLanes), written = round_up(dimension, kWidth);
  float* row = reinterpret_cast<float*>(rows);
  for (int64_t i = 0; i < count; ++i, row += pitch) fill(row + written, width - written, 0);
  for (int64_t i = count; i < padded; ++i, row += pitch) fill(row, width, 0);
}

template <class T, class G>
float dot_elements(const T* a, const G* b, int64_t count) {
  Vec total = {};
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) total += load_elements(a + i) * load_elements(b + i);
  if (i < count) total += load_first(a + i, count - i) * load_first(b + i, count - i);
  return sum(total);
}

// A row of the output times one of its gradient that is laid out.
inline float dot_row(DType dtype, const void* row, const float* gradient, int64_t count) {
  switch (dtype) {
    case DType::kBFloat16:
      return dot_elements(static_cast<const BFloat16*>(row), gradient, count);
    case DType::kFloat16:
      return dot_elements(static_cast<const Float16*>(row), gradient, count);
    default:
      return dot_elements(static_cast<const float*>(row), gradient, count);
  }
}

inline float dot_row(DType, const void* row, const Pair* gradient, int64_t count) {
  return dot_elements(static_cast<const BFloat16*>(row),
                      reinterpret_cast<const BFloat16*>(gradient), count);
}

// Zeros where a panel does not see keys of [key, end).
template <class Unit>
void clear_hidden(const PanelRanges& ranges, int64_t p, int64_t key, int64_t end,
                  const BackwardScratch<Unit>& scratch) {
  if (ranges.first[p] <= key && ranges.last[p] >= end) return;
  for (int64_t j = key; j < end; ++j) {
    if (j >= ranges.first[p] && j < ranges.last[p]) continue;
    clear_panel(scratch.weights, p, j, scratch.weight_rows);
    clear_panel(scratch.grad_scores, p, j, scratch.grad_score_rows);
  }
}

// The rows of a block in units along the dimension, with zeros beyond the last; floats also with
// zeros up to whole panels of columns.
template <class Unit>
Rows<Unit> block_rows(const Heads& heads, const Block<Unit>& block, int64_t dimension,
                      int64_t pitch, Unit* copy) {
  const int64_t padded = block.panels * kLanes;
  if (block.queries == padded && dimension % (kLanes * kElements<Unit>) == 0) {
    return dimension_units(heads, block.batch, block.head, block.query, block.queries, dimension,
                           pitch, copy);
  }
  copy_units(heads, block.batch, block.head, block.query, block.queries, dimension, pitch, copy);
  clear_padding(copy, block.queries, padded, dimension, pitch);
  return {copy, pitch};
}

// The same in units along the queries.
template <class Unit>
Rows<Unit> block_units(const Heads& heads, const Block<Unit>& block, const Rows<Unit>& rows,
                       int64_t dimension, int64_t pitch, Unit* copy) {
  if constexpr (kElements<Unit> == 1) return rows;
  const Rows<Unit> units =
      row_units(heads, block.batch, block.head, block.query, block.queries, dimension, pitch, copy);
  clear_padding(copy, divide_up(block.queries, 2), block.panels * kLanes / 2, dimension, pitch);
  return units;
}

}  // namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH
