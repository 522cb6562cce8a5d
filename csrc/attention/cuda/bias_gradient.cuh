// Gradients of biases, deterministic: dbias = dS summed over what the bias is broadcast over. A
// block owns a tile of the bias and goes over all tiles of scores that read it, adding up dS in
// registers:
//
//   dense bias       tile (b', h', i', j'); a broadcast dimension has one tile and is gone over
//   bucketed bias    head h and tile diagonal j' - i': all of its tiles hold the same distances at
//   the
//                    same places, so one sum along the tile's diagonals at the end serves them all
//
// dS is computed again from Q, K, dO and V (backward.cuh), in chunks of the head dimension, so that
// one kernel for each type serves every head dimension.
#pragma once

#include "attention/cuda/relative.cuh"
#include "attention/cuda/score.cuh"
#include "attention/cuda/shapes.h"
#include "attention/cuda/tile.cuh"
#include "attention/cuda/tile_bounds.cuh"
#include "attention/cuda/vectors.cuh"

namespace ptmkernels::attention::cuda {

constexpr int kBiasTile = 64;                        // queries and keys
constexpr int kTileDistances = 2 * kBiasTile - 1;    // j - i within a tile
constexpr int kTileDistancesPadded = 2 * kBiasTile;  // and as they are stored

struct BiasGradientParams : BackwardParams {
  bool diagonals;  // bucketed bias
  // Dense: how many tiles of each kind are owned; 1 where the bias is broadcast. Bucketed: heads,
  // and tile diagonals in `own_key_tiles`.
  int own_batches, own_heads, own_query_tiles, own_key_tiles;
  // How many of each an owner goes over, its items.
  int each_batches, each_heads, each_query_tiles, each_key_tiles;
  int query_tiles, key_tiles;  // of the scores
  int splits;                  // blocks that share an owner's work
  // With one split, a dense bias' gradient itself; else a float32 sum for each split.
  void* gradient;
  bool gradient_is_float;
  int64_t batch_stride, head_stride, row_stride, col_stride;  // of the gradient, 0 where broadcast
  float*
      partial;  // (splits, elements) of a dense bias, (splits, H, diagonals, kTileDistancesPadded)
  int64_t elements;
};

// How many tiles of scores each owner goes over.
SIMT_HOST_FN int64_t bias_items(const BiasGradientParams& p) {
  return static_cast<int64_t>(p.each_batches) * p.each_heads * p.each_query_tiles *
         p.each_key_tiles;
}

// kRelative: with the terms of distances and segments (relative.cuh).
template <typename T, bool kRelative>
struct BiasGradientKernel {
  using Params = BiasGradientParams;
  using Shape = RelativeShape<4, kBiasTile, kRelative ? 1 : 2, kBiasTile, 1>;
  static constexpr int kThreads = Shape::kThreads, kMinBlocks = Shape::kMinBlocks;
  static constexpr int kM = Shape::kM, kN = Shape::kN;
  static constexpr int kChunkCols = 128 / static_cast<int>(sizeof(T));  // of the head dimension

  using Tile = SharedTile<T, kBiasTile, kChunkCols>;
  using Fragments = float[kM][kN][4];

  // Shared memory: for each stage a chunk of Q, K, dO, V; for each of two items its vectors; the
  // sum.
  static constexpr int kStageBytes = 4 * Tile::kBytes;
  static constexpr int kVectors = Shape::kStages * kStageBytes;
  static constexpr int kHigh = kBiasTile * 4, kRank = 2 * kHigh, kDistance = 3 * kHigh;
  static constexpr int kVectorBytes = kDistance + kTileDistancesPadded * 4;
  static constexpr int kSum = kVectors + 2 * kVectorBytes;
  static constexpr int kPitch =
      kBiasTile + 1;  // neither rows, columns nor diagonals meet in a bank
  static constexpr int kSharedBytes = kSum + kBiasTile * kPitch * 4;
  static_assert(kSharedBytes <= kMaxSharedBytes);
  using Relative = RelativeTileOf<T, kChunkCols, Shape, false, kSharedBytes, kRelative>;

  static int shared_bytes(const Params& p) {
    if constexpr (kRelative) {
      return Relative::shared_bytes(p);
    } else {
      return kSharedBytes;
    }
  }
  static int64_t blocks(const Params& p) {
    return static_cast<int64_t>(p.own_batches) * p.own_heads * p.own_query_tiles * p.own_key_tiles *
           p.splits;
  }

  // Which of its owner's items one is, and its head of keys and values.
  struct Item {
    int batch, head, query_tile, key_tile, key_head;
  };

  // What a block owns, and its items: `left` from the next one on.
  struct Work {
    int batch, head, query_tile, key_tile, split;
    Item item;
    int64_t left;
  };

  // An item's tile of scores and the chunk of the head dimension that is next.
  struct Step {
    int batch, head, key_head, query_tile, key_tile, chunk, parity;
    bool is_full;

    SIMT_FN int query0() const { return query_tile * kBiasTile; }
    SIMT_FN int key0() const { return key_tile * kBiasTile; }
  };

  static SIMT_FN void run(const Params& p) {
    const int block = static_cast<int>(block_index());
    Work work = work_of(p, block);
    const int last_chunk = (p.head_dim - 1) / kChunkCols;
    Fragments score, change, sum;
    clear(sum);
    Step step{};
    bool more = find_item(p, work, step);
    Relative relative;
    if (more) load(p, relative, step, 0);
    int stage = 0;
    while (more) {
      copy_wait<0>();
      barrier();  // this chunk is here, and nobody works on the one before any more
      const Step now = step;
      if (step.chunk < last_chunk) {
        ++step.chunk;
      } else {
        more = find_item(p, work, step);
      }
      const int other = Shape::kStages - 1 - stage;
      if (Shape::kStages == 2 && more) load(p, relative, step, other);
      if (now.chunk == 0) {
        clear(score);
        clear(change);
      }
      if constexpr (kRelative) add_relative(p, relative, now, stage, score, change);
      multiply_transposed<T>(score, tile(stage, 0), warp_row0(), tile(stage, 1), 0, p.exact);
      multiply_transposed<T>(change, tile(stage, 2), warp_row0(), tile(stage, 3), 0, p.exact);
      if (now.chunk == last_chunk) add_score_gradient(p, now, score, change, sum);
      if constexpr (Shape::kStages == 1) {
        barrier();  // nobody works on this chunk any more
        if (more) load(p, relative, step, 0);
      }
      stage = other;
    }
    // Found anew, the work takes no registers in the loop for what only the sum needs.
    store(p, work_of(p, stay_here(block)), sum);
  }

 private:
  static SIMT_FN int warp_row0() { return warp_index() * 16; }
  static SIMT_FN Tile tile(int stage, int which) {
    return {shared_memory<T>(stay_here(stage * kStageBytes) + which * Tile::kBytes)};
  }
  static SIMT_FN int vectors(const Step& step) { return kVectors + step.parity * kVectorBytes; }

  static SIMT_FN Work work_of(const Params& p, int block) {
    int64_t rest = block;
    Work work;
    work.split = static_cast<int>(rest % p.splits);
    rest /= p.splits;
    work.key_tile = static_cast<int>(rest % p.own_key_tiles);
    rest /= p.own_key_tiles;
    work.query_tile = static_cast<int>(rest % p.own_query_tiles);
    rest /= p.own_query_tiles;
    work.head = static_cast<int>(rest % p.own_heads);
    work.batch = static_cast<int>(rest / p.own_heads);
    const int64_t items = bias_items(p), first = items * work.split / p.splits;
    work.left = items * (work.split + 1) / p.splits - first;
    work.item = item_at(p, work, first);
    return work;
  }

  static SIMT_FN Item item_at(const Params& p, const Work& work, int64_t index) {
    Item item;
    item.key_tile = static_cast<int>(index % p.each_key_tiles);
    index /= p.each_key_tiles;
    item.query_tile = static_cast<int>(index % p.each_query_tiles);
    index /= p.each_query_tiles;
    item.head = static_cast<int>(index % p.each_heads);
    item.batch = static_cast<int>(index / p.each_heads);
    item.key_head = (work.head + item.head) / p.group;
    return item;
  }

  // The item behind, without a division.
  static SIMT_FN void advance(const Params& p, Item& item) {
    if (++item.key_tile < p.each_key_tiles) return;
    item.key_tile = 0;
    if (++item.query_tile < p.each_query_tiles) return;
    item.query_tile = 0;
    if (++item.head < p.each_heads) {
      if (item.head == (item.key_head + 1) * p.group) ++item.key_head;
      return;
    }
    item.head = 0;
    if (p.each_heads > 1) item.key_head = 0;
    ++item.batch;
  }

  // Moves to the next item with something visible; false where there is none.
  static SIMT_FN bool find_item(const Params& p, Work& work, Step& step) {
    step.parity = 1 - step.parity;
    step.chunk = 0;
    for (; work.left > 0; --work.left) {
      const Item item = work.item;
      advance(p, work.item);
      step.batch = work.batch + item.batch;
      step.head = work.head + item.head;
      step.key_head = item.key_head;
      step.query_tile = work.query_tile + item.query_tile;
      step.key_tile = p.diagonals ? step.query_tile + work.key_tile - (p.query_tiles - 1)
                                  : work.key_tile + item.key_tile;
      const bool exists = step.key_tile >= 0 && step.key_tile < p.key_tiles;
      if (exists && is_visible(p, step)) {
        --work.left;
        return true;
      }
    }
    return false;
  }

  static SIMT_FN bool is_visible(const Params& p, Step& step) {
    if (p.own_bounds.data == nullptr) {
      step.is_full = step.key0() + kBiasTile <= p.key_len && !p.options.hides_more;
      return true;
    }
    const TileBounds queries =
        load_bounds(p.own_bounds.data + step.batch * p.own_bounds.batch + step.query_tile);
    const TileBounds keys =
        load_bounds(p.other_bounds.data + step.batch * p.other_bounds.batch + step.key_tile);
    step.is_full = tile_is_full(queries, keys) && !p.options.hides_more;
    return tile_is_visible(queries, keys);
  }

  static SIMT_FN void load_chunk(Tile target, const Params& p, const Rows& source, const Step& step,
                                 int head, int row0, int length) {
    load_rows<kThreads>(target, p, source, step.batch, head, row0, length, step.chunk * kChunkCols);
  }

  static SIMT_FN void load(const Params& p, Relative& relative, const Step& step, int stage) {
    load_chunk(tile(stage, 0), p, p.query, step, step.head, step.query0(), p.query_len);
    load_chunk(tile(stage, 1), p, p.key, step, step.key_head, step.key0(), p.key_len);
    load_chunk(tile(stage, 2), p, p.grad_output, step, step.head, step.query0(), p.query_len);
    load_chunk(tile(stage, 3), p, p.value, step, step.key_head, step.key0(), p.key_len);
    if (step.chunk == 0) {
      const int offset = vectors(step);
      if (!step.is_full) {
        load_intervals<kThreads, kBiasTile>(p, step.batch, step.query0(), offset);
        load_ranks<kThreads, kBiasTile>(p, step.batch, step.key0(), offset + kRank);
      }
      if (p.options.distance_bias != nullptr) {
        load_distances<kThreads, kTileDistancesPadded>(p, step.head, least_distance(step),
                                                       offset + kDistance);
      }
    }
    if constexpr (kRelative) {
      if (step.chunk == 0) relative.start(p, step.batch, step.head, step.query0());
      relative.load(p, step.head, step.key0(), stage, step.chunk * kChunkCols);
    }
    copy_commit();
  }

  static SIMT_FN int least_distance(const Step& step) {
    return step.key0() - (step.query0() + kBiasTile - 1);
  }

  // The relative terms, as far as a chunk of the head dimension makes them.
  static SIMT_FN void add_relative(const Params& p, Relative& relative, const Step& step, int stage,
                                   Fragments& score, Fragments& change) {
    const bool first_chunk = step.chunk == 0;
    relative.set_tile(p, step.head, step.key0(), stage);
    relative.for_pieces(p, step.chunk * kChunkCols, [&](int first) {
      relative.add_products(score, p, relative.key_band(), first, 0, tile(stage, 0), tile(stage, 1),
                            first_chunk);
      if (p.relative.value.data == nullptr) return;
      relative.add_products(change, p, relative.value_band(), first, 0, tile(stage, 2),
                            tile(stage, 3), false);
    });
    if (first_chunk) relative.add_terms(score, p, 0);
  }

  // sum += dS of a tile whose products are done: `score` = Q K^T, `change` = dO V^T.
  static SIMT_FN void add_score_gradient(const Params& p, const Step& step, Fragments& score,
                                         Fragments& change, Fragments& sum) {
    const int offset = vectors(step);
    const ScorePlace<false> place{step.batch,
                                  step.head,
                                  step.query0(),
                                  warp_row0(),
                                  step.key0(),
                                  0,
                                  shared_memory<int32_t>(offset),
                                  shared_memory<int32_t>(offset + kHigh),
                                  shared_memory<int32_t>(offset + kRank),
                                  shared_memory<float>(offset + kDistance),
                                  least_distance(step)};
    const float factor = finish_scores<T>(score, p, place, step.is_full);
    if (p.options.drops) {
      replace(change, dropped_elements<kM, kN>(p.options, place), 0.0f);
    }
    const int64_t head = static_cast<int64_t>(step.batch) * p.heads + step.head;
    float lse[2 * kM], delta[2 * kM];
    load_statistics<kM>(p, head, step.query0() + warp_row0(), lse, delta);
    to_weights(p.options, score, factor, [&](int r, int) { return lse[r]; });
    for_each(sum, [&](float& value, int r, int c) {
      const int n = c / 2, e = r % 2 * 2 + c % 2;
      value += score[r / 2][n][e] * (change[r / 2][n][e] * p.options.keep_scale - delta[r]);
    });
  }

  static SIMT_FN void store(const Params& p, const Work& work, Fragments& sum) {
    const auto matrix = shared_memory<float>(kSum);
    for_each(sum, [&](float& value, int r, int c) {
      matrix.store((warp_row0() + row_of(r)) * kPitch + col_of(c), value);
    });
    barrier();  // the whole tile's sum is here
    if (p.diagonals) {
      store_diagonals(p, work, matrix);
    } else {
      store_dense(p, work, matrix);
    }
  }

  static SIMT_FN void store_diagonals(const Params& p, const Work& work, Shared<float> matrix) {
    const int64_t list =
        (static_cast<int64_t>(work.split) * p.heads + work.head) * p.own_key_tiles + work.key_tile;
    for (int d = thread_index(); d < kTileDistances; d += kThreads) {
      const int shift = d - (kBiasTile - 1);  // column - row
      float total = 0.0f;
      for (int row = shift < 0 ? -shift : 0; row < kBiasTile && row + shift < kBiasTile; ++row) {
        total += matrix.load(row * kPitch + row + shift);
      }
      store_global(p.partial + list * kTileDistancesPadded + d, total);
    }
  }

  // Sums over the rows, the columns or both, where the bias is broadcast over them.
  static SIMT_FN void store_dense(const Params& p, const Work& work, Shared<float> matrix) {
    const int rows = p.row_stride ? kBiasTile : 1, cols = p.col_stride ? kBiasTile : 1;
    const int query0 = p.row_stride ? work.query_tile * kBiasTile : 0;
    const int key0 = p.col_stride ? work.key_tile * kBiasTile : 0;
    const int64_t base = work.batch * p.batch_stride + work.head * p.head_stride;
    for (int place = thread_index(); place < rows * cols; place += kThreads) {
      const int row = place / cols, col = place % cols;
      const int query = query0 + row, key = key0 + col;
      if ((p.row_stride && query >= p.query_len) || (p.col_stride && key >= p.key_len)) continue;
      float total = 0.0f;
      for (int r = p.row_stride ? row : 0; r < (p.row_stride ? row + 1 : kBiasTile); ++r) {
        for (int c = p.col_stride ? col : 0; c < (p.col_stride ? col + 1 : kBiasTile); ++c) {
          total += matrix.load(r * kPitch + c);
        }
      }
      const int64_t target = base + query * p.row_stride + key * p.col_stride;
      if (p.splits > 1) {
        store_global(p.partial + work.split * p.elements + target, total);
      } else if (p.gradient_is_float) {
        store_global(static_cast<float*>(p.gradient) + target, total);
      } else {
        store_global(static_cast<T*>(p.gradient) + target, from_float<T>(total));
      }
    }
  }
};

struct TableGradientParams {
  const float* partial;  // (splits, H, diagonals, kTileDistancesPadded)
  int splits, heads, diagonals, query_tiles;
  int query_len, key_len, buckets;
  const int32_t* bucket;  // (L + S - 1,)
  float* gradient;        // (N, H)
};

// gradient[n, h] = sum of dS over the distances of bucket n; one block for each entry.
struct TableGradientKernel {
  using Params = TableGradientParams;
  static constexpr int kThreads = 128, kMinBlocks = 1;

  static int shared_bytes(const Params&) { return kThreads / kWarpSize * 4; }
  static int64_t blocks(const Params& p) { return static_cast<int64_t>(p.buckets) * p.heads; }

  static SIMT_FN void run(const Params& p) {
    const int bucket = static_cast<int>(block_index() / p.heads);
    const int head = static_cast<int>(block_index() % p.heads);
    float total = 0.0f;
    for (int d = thread_index(); d < p.query_len + p.key_len - 1; d += kThreads) {
      if (load_global(p.bucket + d) == bucket) total += at_distance(p, head, d - (p.query_len - 1));
    }
    for (int mask = kWarpSize / 2; mask > 0; mask /= 2) total += shuffle_xor(total, mask);
    const auto sums = shared_memory<float>(0);
    if (lane_index() == 0) sums.store(warp_index(), total);
    barrier();  // the warps' sums are here
    if (thread_index() != 0) return;
    total = 0.0f;
    for (int w = 0; w < kThreads / kWarpSize; ++w) total += sums.load(w);
    store_global(p.gradient + static_cast<int64_t>(bucket) * p.heads + head, total);
  }

 private:
  // A distance j - i lies on one or two tile diagonals.
  static SIMT_FN float at_distance(const Params& p, int head, int distance) {
    const int shifted = distance + (kBiasTile - 1) + p.query_tiles * kBiasTile;
    const int upper = shifted / kBiasTile - 1;  // its number: query_tiles - 1 is the main one
    const int place = shifted % kBiasTile;
    float total = 0.0f;
    for (int s = 0; s < p.splits; ++s) {
      const float* lists = p.partial + (static_cast<int64_t>(s) * p.heads + head) * p.diagonals *
                                           kTileDistancesPadded;
      if (upper < p.diagonals) {
        total += load_global(lists + static_cast<int64_t>(upper) * kTileDistancesPadded + place);
      }
      if (upper > 0 && place + kBiasTile < kTileDistances) {
        total += load_global(lists + static_cast<int64_t>(upper - 1) * kTileDistancesPadded +
                             place + kBiasTile);
      }
    }
    return total;
  }
};

}  // namespace ptmkernels::attention::cuda
