// Attention forward: o_i = sum_j a_ij v_j, a = softmax of the scores (Vaswani et al. 2017, equation
// 1), one pass over the keys with a running maximum and sum (Milakov and Gimelshein 2018).
//
// A block owns a tile of queries and walks over the tiles of keys that hold something visible.
// While one is worked on, the keys and values of the next arrive in the other half of the buffer.
#pragma once

#include "attention/cuda/relative.cuh"
#include "attention/cuda/score.cuh"
#include "attention/cuda/shapes.h"
#include "attention/cuda/tile.cuh"
#include "attention/cuda/tile_bounds.cuh"
#include "attention/cuda/vectors.cuh"

namespace ptmkernels::attention::cuda {

// The state of a warp's rows: running maximum (natural where `scale_first`, else in units of
// log 2), sum and output.
template <int kM, int kN>
struct SoftmaxRows {
  float maximum[2 * kM];  // finite, so that no difference is infinity - infinity
  float sum[2 * kM];      // of this lane's columns
  float output[kM][kN][4];

  SIMT_FN void reset() {
    SIMT_UNROLL
    for (int r = 0; r < 2 * kM; ++r) {
      maximum[r] = -kLargest;
      sum[r] = 0.0f;
    }
    clear(output);
  }

  // Takes in a tile of scores times `factor` and leaves their weights relative to the maximum. With
  // kNatural the factor comes after the maximum, times which a large bias would overflow.
  template <bool kNatural, int kCols>
  SIMT_FN void update(float (&score)[kM][kCols][4], float factor) {
    float shrink[2 * kM];
    bool shrinks = false;
    SIMT_UNROLL
    for (int r = 0; r < 2 * kM; ++r) {
      const int m = r / 2, e = r % 2 * 2;
      float top = fmaxf(score[m][0][e], score[m][0][e + 1]);
      SIMT_UNROLL
      for (int n = 1; n < kCols; ++n) top = fmaxf(top, fmaxf(score[m][n][e], score[m][n][e + 1]));
      top = fmaxf(top, shuffle_xor(top, 1));
      top = fmaxf(top, shuffle_xor(top, 2));
      const float before = maximum[r];
      maximum[r] = fmaxf(before, kNatural ? top : top * factor);
      shrink[r] = exp2_fast((before - maximum[r]) * (kNatural ? factor : 1.0f));
      shrinks = shrinks || shrink[r] != 1.0f;
      float total = 0.0f;
      SIMT_UNROLL
      for (int n = 0; n < kCols; ++n) {
        SIMT_UNROLL
        for (int i = e; i < e + 2; ++i) {
          score[m][n][i] = exp2_fast(kNatural ? (score[m][n][i] - maximum[r]) * factor
                                              : score[m][n][i] * factor - maximum[r]);
          total += score[m][n][i];
        }
      }
      sum[r] = sum[r] * shrink[r] + total;
    }
    // After the first tiles the maximum seldom moves.
    if (ballot(shrinks) == 0) return;
    for_each(output, [&](float& value, int r, int) { value *= shrink[r]; });
  }

  // After the last tile: the sums of whole rows.
  SIMT_FN void finish() {
    SIMT_UNROLL
    for (int r = 0; r < 2 * kM; ++r) {
      sum[r] += shuffle_xor(sum[r], 1);
      sum[r] += shuffle_xor(sum[r], 2);
    }
  }
};

// kRelative: with the terms of distances and segments (relative.cuh).
template <typename T, int kHeadDim, bool kRelative>
struct ForwardKernel {
  using Params = ForwardParams;
  using Shape = ForwardShapeOf<T, kHeadDim, kRelative>;
  static constexpr int kThreads = Shape::kThreads, kMinBlocks = Shape::kMinBlocks;
  static constexpr int kQueries = Shape::kRows, kKeys = Shape::kCols, kStep = Shape::kStep;
  static constexpr int kM = Shape::kM, kN = Shape::kN;
  // The queries' fragments stay in registers where they are few.
  static constexpr bool kHoldQueries = sizeof(T) == 2 && kHeadDim * kM <= 128 && !kRelative;

  // Kept loaders of keys and values take registers, which not every kernel has left.
  static constexpr bool kKeepLoaders = sizeof(T) == 2 && !(kRelative && kHeadDim > 64);

  using QueryTile = SharedTile<T, kQueries, kHeadDim>;
  using KeyTile = SharedTile<T, kKeys, kHeadDim>;
  using KeyLoader = TileLoader<kThreads, T, kKeys, kHeadDim>;
  using State = SoftmaxRows<kM, kHeadDim / 8>;

  // Shared memory: the queries with their intervals, then for each stage keys, values, ranks and
  // the biases of the tile's distances.
  static constexpr int kIntervalOffset = QueryTile::kBytes;
  static constexpr int kStageOffset = kIntervalOffset + 2 * kQueries * 4;
  static constexpr int kValueOffset = KeyTile::kBytes;
  static constexpr int kRankOffset = kValueOffset + KeyTile::kBytes;
  static constexpr int kDistanceOffset = kRankOffset + kKeys * 4;
  static constexpr int kDistances = kQueries + kKeys;
  static constexpr int kStageBytes = kDistanceOffset + kDistances * 4;
  static constexpr int kSharedBytes = kStageOffset + Shape::kStages * kStageBytes;
  static_assert(kSharedBytes <= kMaxSharedBytes);
  using Relative = RelativeTileOf<T, kHeadDim, Shape, false, kSharedBytes, kRelative>;

  static int shared_bytes(const Params& p) {
    if constexpr (kRelative) {
      return Relative::shared_bytes(p);
    } else {
      return kSharedBytes;
    }
  }
  static int64_t blocks(const Params& p) {
    const int64_t tiles = (p.query_len + kQueries - 1) / kQueries;
    return tiles * p.batch * p.heads * p.splits;
  }

  // Which part of the work a block does. The last queries first: under a causal mask they have
  // most.
  struct Work {
    int batch, head, key_head, split, tile, query0;
  };

  static SIMT_FN Work work_of(const Params& p) {
    const int tiles = (p.query_len + kQueries - 1) / kQueries;
    int rest = static_cast<int>(block_index());
    const int tile = tiles - 1 - rest % tiles;
    rest /= tiles;
    const int split = rest % p.splits;
    rest /= p.splits;
    const int head = rest % p.heads, key_head = head / p.group;
    return {rest / p.heads, head, key_head, split, tile, tile * kQueries};
  }

  static SIMT_FN void run(const Params& p) {
    const Work work = work_of(p);
    TileWalk<true> walk = walk_of(p, work);
    State state;
    state.reset();
    Relative relative;
    Loaders loaders{};
    bool is_full;
    int tile = walk.next(is_full);
    uint32_t query[kHoldQueries ? kM : 1][kHoldQueries ? kHeadDim / 16 : 1][4];
    if (tile < walk.end) {
      if constexpr (kKeepLoaders) loaders.start(p, work);
      if constexpr (kRelative) relative.start(p, work.batch, work.head, work.query0);
      load_queries(p, work);
      load_stage(p, work, loaders, relative, tile, is_full, 0);
      if constexpr (kHoldQueries) {
        copy_wait<0>();
        barrier();  // the queries are here
        load_all_left(query, query_tile(), warp_row0());
      }
    }
    int stage = 0;
    while (tile < walk.end) {
      copy_wait<0>();
      barrier();  // this tile is here, and nobody works on the one before any more
      const int key0 = tile * kKeys;
      const bool tile_is_full = is_full;
      tile = walk.next(is_full);
      const int other = Shape::kStages - 1 - stage;
      if (Shape::kStages == 2 && tile < walk.end) {
        load_stage(p, work, loaders, relative, tile, is_full, other);
      }
      if constexpr (kRelative) relative.set_tile(p, work.head, key0, stage);
      // With relative positions the warps wait for each other.
      if (kRelative || work.query0 + warp_row0() < p.query_len) {
        SIMT_ROLL
        for (int step0 = 0; step0 < kKeys && key0 + step0 < p.key_len; step0 += kStep) {
          attend(p, work, relative, query, key0, step0, stage, tile_is_full, state);
        }
      }
      if constexpr (Shape::kStages == 1) {
        barrier();  // nobody works on this tile any more
        if (tile < walk.end) load_stage(p, work, loaders, relative, tile, is_full, 0);
      }
      stage = other;
    }
    state.finish();
    store(p, work, state);
  }

 private:
  static SIMT_FN int warp_row0() { return warp_index() * kM * 16; }
  static SIMT_FN QueryTile query_tile() { return {shared_memory<T>(0)}; }
  static SIMT_FN int stage_offset(int stage) { return kStageOffset + stage * kStageBytes; }
  static SIMT_FN KeyTile key_tile(int stage) { return {shared_memory<T>(stage_offset(stage))}; }
  static SIMT_FN KeyTile value_tile(int stage) { return key_tile(stage).behind(kValueOffset); }
  // Of the keys from step0 on. stay_here: all else is then a lane's offset from there.
  static SIMT_FN KeyTile step_tile(int stage, int step0) {
    constexpr int kRowBytes = kHeadDim * static_cast<int>(sizeof(T));
    return {shared_memory<T>(stay_here(stage_offset(stage) + step0 * kRowBytes))};
  }

  static SIMT_FN TileWalk<true> walk_of(const Params& p, const Work& work) {
    const int tiles = (p.key_len + kKeys - 1) / kKeys;
    TileWalk<true> walk;
    walk.set_mask(p.query_bounds, p.key_bounds, work.batch, work.tile);
    walk.hides_more = p.options.hides_more;
    walk.full_below = p.key_len / kKeys;
    const int first = static_cast<int>(static_cast<int64_t>(tiles) * work.split / p.splits);
    const int last = static_cast<int>(static_cast<int64_t>(tiles) * (work.split + 1) / p.splits);
    walk.start(first, p.factors == nullptr || has_large_lse(p, work) ? last : first);
    return walk;
  }

  static SIMT_FN bool has_large_lse(const Params& p, const Work& work) {
    const float* lse =
        p.lse + (static_cast<int64_t>(work.batch) * p.heads + work.head) * p.query_len;
    bool large = false;
    for (int row = lane_index(); row < kQueries; row += kWarpSize) {
      const int query = work.query0 + row;
      large = large || (query < p.query_len && is_large_lse(load_global(lse + query)));
    }
    return ballot(large) != 0;
  }

  static SIMT_FN void load_queries(const Params& p, const Work& work) {
    load_rows<kThreads>(query_tile(), p, p.query, work.batch, work.head, work.query0, p.query_len);
    load_intervals<kThreads, kQueries>(p, work.batch, work.query0, kIntervalOffset);
  }

  struct Loaders {
    KeyLoader keys, values;

    SIMT_FN void start(const Params& p, const Work& work) {
      keys.start(p, p.key, work.batch, work.key_head);
      values.start(p, p.value, work.batch, work.key_head);
    }
  };

  static SIMT_FN void load_stage(const Params& p, const Work& work, Loaders loaders,
                                 const Relative& relative, int tile, bool is_full, int stage) {
    const int key0 = tile * kKeys;
    if constexpr (!kKeepLoaders) loaders.start(p, work);
    loaders.keys.load(key_tile(stage), p.key, key0, p.key_len);
    loaders.values.load(value_tile(stage), p.value, key0, p.key_len);
    if (!is_full) {
      load_ranks<kThreads, kKeys>(p, work.batch, key0, stage_offset(stage) + kRankOffset);
    }
    if (p.options.distance_bias != nullptr) {
      load_distances<kThreads, kDistances>(p, work.head, least_distance(work, key0),
                                           stage_offset(stage) + kDistanceOffset);
    }
    if constexpr (kRelative) relative.load(p, work.head, key0, stage);
    copy_commit();
  }

  static SIMT_FN int least_distance(const Work& work, int key0) {
    return key0 - (work.query0 + kQueries - 1);
  }

  // Takes kStep keys of a tile into the state of the warp's rows.
  template <typename Queries>
  static SIMT_FN void attend(const Params& p, const Work& work, Relative& relative,
                             const Queries& query, int key0, int step0, int stage, bool is_full,
                             State& state) {
    float score[kM][kN][4];
    clear(score);
    if constexpr (kRelative) {
      relative.for_pieces(p, 0, [&](int first) {
        relative.add_products(score, p, relative.key_band(), first, step0, query_tile(),
                              key_tile(stage), true);
      });
      relative.add_terms(score, p, step0);
    }
    const KeyTile keys = step_tile(stage, step0);
    if constexpr (kHoldQueries) {
      multiply_transposed<T>(score, query, keys, 0, p.exact);
    } else {
      multiply_transposed<T>(score, query_tile(), warp_row0(), keys, 0, p.exact);
    }
    const ScorePlace<false> place{work.batch,
                                  work.head,
                                  work.query0,
                                  warp_row0(),
                                  key0 + step0,
                                  step0,
                                  shared_memory<int32_t>(kIntervalOffset),
                                  shared_memory<int32_t>(kIntervalOffset + kQueries * 4),
                                  shared_memory<int32_t>(stage_offset(stage) + kRankOffset),
                                  shared_memory<float>(stage_offset(stage) + kDistanceOffset),
                                  least_distance(work, key0)};
    const float factor = finish_scores<T>(score, p, place, is_full);
    if (p.options.scale_first) {
      state.template update<true>(score, factor);
    } else {
      state.template update<false>(score, factor);
    }
    if (p.options.drops) {
      replace(score, dropped_elements<kM, kN>(p.options, place), 0.0f);
    }
    multiply<T>(state.output, score, keys.behind(kValueOffset), 0, 0, p.exact);
    if constexpr (kRelative) {
      if (p.relative.value.data == nullptr) return;
      relative.save_weights(score);
      relative.template for_pieces<true>(p, 0, [&](int first) {
        relative.add_shifted(state.output, p, relative.value_band(), first, step0, 0);
      });
    }
  }

  // 1 / sum_j exp(s_ij - lse_i), or 1 where the log-sum-exp is not large.
  static SIMT_FN void store_factors(const Params& p, const Work& work, const State& state) {
    const int64_t head = static_cast<int64_t>(work.batch) * p.heads + work.head;
    SIMT_UNROLL
    for (int r = 0; r < 2 * kM; ++r) {
      const int row = work.query0 + warp_row0() + row_of(r);
      if (lane_index() % 4 != 0 || row >= p.query_len) continue;
      const float lse = load_global(p.lse + head * p.query_len + row);
      const float sum = state.sum[r] * exp2_fast((state.maximum[r] - lse) * kLog2e);
      store_global(p.factors + head * p.query_len + row, is_large_lse(lse) ? 1.0f / sum : 1.0f);
    }
  }

  static SIMT_FN void store(const Params& p, const Work& work, const State& state) {
    if (p.factors != nullptr) return store_factors(p, work, state);
    const int64_t head = static_cast<int64_t>(work.batch) * p.heads + work.head;
    const int64_t split = work.split * (static_cast<int64_t>(p.batch) * p.heads) + head;
    const bool whole = p.splits == 1;
    const int row0 = work.query0 + warp_row0();
    float factor[2 * kM];
    SIMT_UNROLL
    for (int r = 0; r < 2 * kM; ++r) {
      const bool empty = state.sum[r] == 0.0f;
      factor[r] = empty ? 0.0f : p.options.keep_scale / state.sum[r];
      const int row = row0 + row_of(r);
      if (lane_index() % 4 != 0 || row >= p.query_len) continue;
      const float maximum = p.options.scale_first ? state.maximum[r] : state.maximum[r] * kLn2;
      if (whole) {
        const float lse = empty ? -kInfinity : maximum + log2_fast(state.sum[r]) * kLn2;
        store_global(p.lse + head * p.query_len + row, lse);
      } else {
        store_global(p.split_maximum + split * p.query_len + row, empty ? -kInfinity : maximum);
        store_global(p.split_sum + split * p.query_len + row, state.sum[r]);
      }
    }
    const int64_t matrix = static_cast<int64_t>(p.query_len) * p.head_dim;
    if (whole) {
      T* output = static_cast<T*>(p.output) + head * matrix;
      store_rows<T>(state.output, output, row0, p.query_len, 0, p.head_dim, factor);
    } else {
      float* output = p.split_output + split * matrix;
      store_rows<float>(state.output, output, row0, p.query_len, 0, p.head_dim, factor);
    }
  }
};

}  // namespace ptmkernels::attention::cuda
