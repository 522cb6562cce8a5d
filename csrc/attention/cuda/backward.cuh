// Attention backward (Dao et al. 2022, algorithm 4), deterministic: one kernel for dQ, whose blocks
// own queries and walk over keys, and one for dK and dV, whose blocks own keys and walk over
// queries. Both are this file; the second is the first with the two sides exchanged.
//
//     P = exp(S - lse)    dP = dO V^T    dS = P (dP - delta)
//     dQ = scale dS K     dK = scale dS^T Q     dV = P^T dO
//
// With dropout (keep = 0 or 1 / (1 - p)): dV = (P keep)^T dO and dS = P (dP keep - delta).
#pragma once

#include "attention/cuda/relative.cuh"
#include "attention/cuda/score.cuh"
#include "attention/cuda/shapes.h"
#include "attention/cuda/tile.cuh"
#include "attention/cuda/tile_bounds.cuh"
#include "attention/cuda/vectors.cuh"

namespace ptmkernels::attention::cuda {

// kOwnKeys: the kernel of dK and dV. kRelative: with the terms of distances and segments
// (relative.cuh); the gradients of r and rv have a kernel of their own (relative_gradient.cuh).
template <typename T, int kHeadDim, bool kOwnKeys, bool kRelative>
struct BackwardKernel {
  using Params = BackwardParams;
  using Shape = BackwardShapeOf<T, kHeadDim, kRelative>;
  static constexpr int kThreads = Shape::kThreads;
  static constexpr int kMinBlocks = kOwnKeys ? Shape::kMinBlocks : Shape::kMinQueryBlocks;
  static constexpr int kRows = Shape::kRows, kCols = Shape::kCols, kStep = Shape::kStep;
  static constexpr int kM = Shape::kM, kN = Shape::kN;
  // Of wide heads a block computes a part, where all accumulators would not fit into the registers:
  // dK and dV together are twice those of dQ, and float32 needs more beside them.
  static constexpr bool kWide =
      kHeadDim > kMaxGradCols && (kOwnKeys || kRelative || sizeof(T) == 4);
  static constexpr int kGradCols = kWide ? kMaxGradCols : kHeadDim;
  static constexpr int kParts = kHeadDim / kGradCols;

  // Kept loaders of the other side take registers, which not every kernel has left.
  static constexpr bool kKeepLoaders = sizeof(T) == 2;

  using OwnTile = SharedTile<T, kRows, kHeadDim>;
  using OtherTile = SharedTile<T, kCols, kHeadDim>;
  using OtherLoader = TileLoader<kThreads, T, kCols, kHeadDim>;
  using Gradient = float[kM][kGradCols / 8][4];
  using Place = ScorePlace<kOwnKeys>;

  // Shared memory. Of the own side: Q and dO (K and V), lows and highs (ranks). For each stage the
  // same of the other side, the rows' statistics where they are queries, and the distances' biases.
  static constexpr int kOwnSecond = OwnTile::kBytes;
  static constexpr int kOwnVectors = 2 * OwnTile::kBytes;
  static constexpr int kStageOffset = kOwnVectors + 2 * kRows * 4;
  static constexpr int kOtherSecond = OtherTile::kBytes;
  static constexpr int kOtherVectors = 2 * OtherTile::kBytes;
  static constexpr int kStatistics = kOtherVectors + 2 * kCols * 4;
  static constexpr int kDistanceOffset = kStatistics + (kOwnKeys ? 2 * kCols * 4 : 0);
  static constexpr int kDistances = kRows + kCols;
  static constexpr int kStageBytes = kDistanceOffset + kDistances * 4;
  static constexpr int kSharedBytes = kStageOffset + Shape::kStages * kStageBytes;
  static_assert(kSharedBytes <= kMaxSharedBytes);
  using Relative = RelativeTileOf<T, kHeadDim, Shape, kOwnKeys, kSharedBytes, kRelative>;

  static int shared_bytes(const Params& p) {
    if constexpr (kRelative) {
      return Relative::shared_bytes(p);
    } else {
      return kSharedBytes;
    }
  }
  static SIMT_HOST_FN int own_len(const Params& p) { return kOwnKeys ? p.key_len : p.query_len; }
  static SIMT_HOST_FN int own_heads(const Params& p) { return kOwnKeys ? p.key_heads : p.heads; }
  static SIMT_HOST_FN int own_tiles(const Params& p) { return (own_len(p) + kRows - 1) / kRows; }
  static int64_t blocks(const Params& p) {
    return static_cast<int64_t>(p.batch) * own_heads(p) * kParts * own_tiles(p);
  }

  // What a block does: its own tile, and the tiles of the other side for each of its query heads.
  struct Work {
    int batch, own_head, part, tile, own0;
    int other_head;  // of keys and values, or the first query head
    int first_head, end_head;
  };

  // Where the block is on the other side.
  struct Step {
    int head, tile;
    bool is_full;
  };

  static SIMT_FN Work work_of(const Params& p) {
    const int tiles = own_tiles(p), heads = own_heads(p);
    int rest = static_cast<int>(block_index());
    // Under a causal mask the last queries and the first keys have most to do: they start first.
    const int tile = kOwnKeys ? rest % tiles : tiles - 1 - rest % tiles;
    rest /= tiles;
    const int part = rest % kParts;
    rest /= kParts;
    const int head = rest % heads, group = p.group;
    const int first = kOwnKeys ? head * group : head, end = kOwnKeys ? first + group : head + 1;
    return {rest / heads, head, part, tile, tile * kRows, kOwnKeys ? first : head / group,
            first,        end};
  }

  static SIMT_FN void run(const Params& p) {
    const Work work = work_of(p);
    Walk walk = walk_of(p, work);
    Gradient first_grad, second_grad;  // dQ, or dK and dV
    clear(first_grad);
    if constexpr (kOwnKeys) clear(second_grad);
    Step step{work.first_head, 0, false};
    find_next(walk, work, step);
    Relative relative;
    int unfinished = work.first_head;
    if constexpr (kRelative) {
      relative.start(p, work.batch, work.own_head, work.own0);
      finish_heads(p, work, relative, unfinished, step.head, first_grad);
    }
    Loaders loaders{};
    if (step.tile < walk.end) {
      if constexpr (kKeepLoaders) loaders.start(p, work);
      load_own(p, work);
      load_stage(p, work, loaders, relative, step, 0);
    }
    float lse[2 * kM], delta[2 * kM];
    if constexpr (!kOwnKeys) {
      const int64_t head = static_cast<int64_t>(work.batch) * p.heads + work.own_head;
      load_statistics<kM>(p, head, work.own0 + warp_row0(), lse, delta);
    }
    int stage = 0;
    while (step.tile < walk.end) {
      copy_wait<0>();
      barrier();  // this tile is here, and nobody works on the one before any more
      const Step now = step;
      find_next(walk, work, step);
      const int other = Shape::kStages - 1 - stage;
      if (Shape::kStages == 2 && step.tile < walk.end) {
        load_stage(p, work, loaders, relative, step, other);
      }
      if constexpr (kRelative) relative.set_tile(p, now.head, now.tile * kCols, stage);
      SIMT_ROLL
      for (int step0 = 0; step0 < kCols; step0 += kStep) {
        add_gradients(p, work, relative, now, step0, stage, lse, delta, first_grad, second_grad);
      }
      if constexpr (kRelative) {
        finish_heads(p, work, relative, unfinished, step.head, first_grad);
      }
      if constexpr (Shape::kStages == 1) {
        barrier();  // nobody works on this tile any more
        if (step.tile < walk.end) load_stage(p, work, loaders, relative, step, 0);
      }
      stage = other;
    }
    if constexpr (kRelative) {
      finish_heads(p, work, relative, unfinished, work.end_head, first_grad);
    }
    if constexpr (kOwnKeys) {
      store(p, work, first_grad, p.grad_key, p.options.scale);
      store(p, work, second_grad, p.grad_value, p.options.keep_scale);
    } else {
      store(p, work, first_grad, p.grad_query, p.options.scale);
    }
  }

 private:
  using Walk = TileWalk<!kOwnKeys>;

  static SIMT_FN int warp_row0() { return warp_index() * kM * 16; }
  static SIMT_FN int stage_offset(int stage) { return kStageOffset + stage * kStageBytes; }
  static SIMT_FN OwnTile own_tile(int offset) { return {shared_memory<T>(offset)}; }
  static SIMT_FN OtherTile other_tile(int stage, int offset) {
    return {shared_memory<T>(stage_offset(stage) + offset)};
  }

  // Of the rows from step0 on. stay_here: all else is then a lane's offset from there.
  static SIMT_FN OtherTile step_tile(int stage, int step0) {
    constexpr int kRowBytes = kHeadDim * static_cast<int>(sizeof(T));
    return {shared_memory<T>(stay_here(stage_offset(stage) + step0 * kRowBytes))};
  }

  static SIMT_FN Walk walk_of(const Params& p, const Work& work) {
    const int length = kOwnKeys ? p.query_len : p.key_len;
    Walk walk;
    walk.set_mask(p.own_bounds, p.other_bounds, work.batch, work.tile);
    // Keys beyond the end must be hidden from the queries; as rows of their own they are not
    // stored.
    walk.hides_more = p.options.hides_more;
    walk.full_below = kOwnKeys ? INT32_MAX : p.key_len / kCols;
    walk.start(0, (length + kCols - 1) / kCols);
    return walk;
  }

  // The next visible tile: of the same head, else of the next one that shares the keys.
  static SIMT_FN void find_next(Walk& walk, const Work& work, Step& step) {
    step.tile = walk.next(step.is_full);
    while (step.tile == walk.end && step.head + 1 < work.end_head) {
      ++step.head;
      walk.start(0, walk.end);
      step.tile = walk.next(step.is_full);
    }
  }

  // What the sums of dS give to the gradient, of the query heads from `unfinished` to `until`; for
  // own queries at the end.
  static SIMT_FN void finish_heads(const Params& p, const Work& work, Relative& relative,
                                   int& unfinished, int until, Gradient& gradient) {
    SIMT_ROLL
    for (; unfinished < until; ++unfinished) {
      const int col0 = work.part * kGradCols;
      if constexpr (kOwnKeys) {
        relative.finish_keys(gradient, p, unfinished, col0, work.part == 0);
      } else {
        relative.finish_queries(gradient, p, col0, work.part == 0);
      }
    }
  }

  static SIMT_FN void load_own(const Params& p, const Work& work) {
    const int length = own_len(p);
    load_rows<kThreads>(own_tile(0), p, kOwnKeys ? p.key : p.query, work.batch, work.own_head,
                        work.own0, length);
    load_rows<kThreads>(own_tile(kOwnSecond), p, kOwnKeys ? p.value : p.grad_output, work.batch,
                        work.own_head, work.own0, length);
    if constexpr (kOwnKeys) {
      load_ranks<kThreads, kRows>(p, work.batch, work.own0, kOwnVectors);
    } else {
      load_intervals<kThreads, kRows>(p, work.batch, work.own0, kOwnVectors);
    }
  }

  // Of the other side: Q and dO of the block's first query head, or K and V.
  struct Loaders {
    OtherLoader first, second;

    SIMT_FN void start(const Params& p, const Work& work) {
      first.start(p, kOwnKeys ? p.query : p.key, work.batch, work.other_head);
      second.start(p, kOwnKeys ? p.grad_output : p.value, work.batch, work.other_head);
    }
  };

  static SIMT_FN void load_stage(const Params& p, const Work& work, Loaders loaders,
                                 const Relative& relative, const Step& step, int stage) {
    if constexpr (!kKeepLoaders) loaders.start(p, work);
    const int other0 = step.tile * kCols;
    const int head = step.head, heads_on = kOwnKeys ? head - work.other_head : 0;
    const int length = kOwnKeys ? p.query_len : p.key_len;
    const int vectors = stage_offset(stage) + kOtherVectors;
    loaders.first.load(other_tile(stage, 0), kOwnKeys ? p.query : p.key, other0, length, heads_on);
    loaders.second.load(other_tile(stage, kOtherSecond), kOwnKeys ? p.grad_output : p.value, other0,
                        length, heads_on);
    if constexpr (kOwnKeys) {
      if (!step.is_full) load_intervals<kThreads, kCols>(p, work.batch, other0, vectors);
      const int64_t row = (static_cast<int64_t>(work.batch) * p.heads + head) * length + other0;
      const int statistics = stage_offset(stage) + kStatistics;
      load_vector<kThreads, kCols>(shared_memory<float>(statistics), p.row_lse + row,
                                   length - other0, kInfinity);
      load_vector<kThreads, kCols>(shared_memory<float>(statistics + kCols * 4), p.delta + row,
                                   length - other0, 0.0f);
    } else {
      if (!step.is_full) load_ranks<kThreads, kCols>(p, work.batch, other0, vectors);
    }
    if (p.options.distance_bias != nullptr) {
      load_distances<kThreads, kDistances>(p, step.head, least_distance(work, other0),
                                           stage_offset(stage) + kDistanceOffset);
    }
    if constexpr (kRelative) relative.load(p, step.head, other0, stage);
    copy_commit();
  }

  static SIMT_FN int least_distance(const Work& work, int other0) {
    return kOwnKeys ? work.own0 - (other0 + kCols - 1) : other0 - (work.own0 + kRows - 1);
  }

  static SIMT_FN Place place_of(const Work& work, const Step& step, int step0, int stage) {
    const int other0 = step.tile * kCols;
    const int others = stage_offset(stage) + kOtherVectors;
    const int queries = kOwnKeys ? others : kOwnVectors, keys = kOwnKeys ? kOwnVectors : others;
    constexpr int kQueries = kOwnKeys ? kCols : kRows;
    return {work.batch,
            step.head,
            work.own0,
            warp_row0(),
            other0 + step0,
            step0,
            shared_memory<int32_t>(queries),
            shared_memory<int32_t>(queries + kQueries * 4),
            shared_memory<int32_t>(keys),
            shared_memory<float>(stage_offset(stage) + kDistanceOffset),
            least_distance(work, other0)};
  }

  // kStep columns of the other side's tile. lse and delta: of the rows, where they are queries.
  template <typename First, typename Second>
  static SIMT_FN void add_gradients(const Params& p, const Work& work, Relative& relative,
                                    const Step& step, int step0, int stage,
                                    const float (&lse)[2 * kM], const float (&delta)[2 * kM],
                                    First& first_grad, Second& second_grad) {
    float weight[kM][kN][4], change[kM][kN][4];
    clear(weight);
    if constexpr (kRelative) {
      clear(change);
      add_relative(p, relative, step0, stage, weight, change);
    }
    const OtherTile first = step_tile(stage, step0), second = first.behind(kOtherSecond);
    multiply_transposed<T>(weight, own_tile(0), warp_row0(), first, 0, p.exact);
    const Place place = place_of(work, step, step0, stage);
    const float factor = finish_scores<T>(weight, p, place, step.is_full);
    const auto column_lse = shared_memory<float>(stage_offset(stage) + kStatistics);
    const auto column_delta = shared_memory<float>(stage_offset(stage) + kStatistics + kCols * 4);
    to_weights(p.options, weight, factor, [&](int r, int c) {
      return kOwnKeys ? column_lse.load(place.other_index(c)) : lse[r];
    });
    if constexpr (!kRelative) clear(change);
    multiply_transposed<T>(change, own_tile(kOwnSecond), warp_row0(), second, 0, p.exact);
    const bool drops = p.options.drops;
    uint32_t dropped = 0;
    if (drops) {
      dropped = dropped_elements<kM, kN>(p.options, place);
      replace(change, dropped, 0.0f);
    }
    for_each(change, [&](float& value, int r, int c) {
      const float own = kOwnKeys ? column_delta.load(place.other_index(c)) : delta[r];
      value = weight[r / 2][c / 2][r % 2 * 2 + c % 2] * (value * p.options.keep_scale - own);
    });
    if constexpr (kOwnKeys) {
      if (drops) replace(weight, dropped, 0.0f);
      multiply<T>(second_grad, weight, second, 0, work.part * kGradCols, p.exact);
    }
    multiply<T>(first_grad, change, first, 0, work.part * kGradCols, p.exact);
    if constexpr (kRelative) {
      relative.add_sums(change, p, step0);
      if constexpr (!kOwnKeys) {
        relative.save_weights(change);
        relative.template for_pieces<true>(p, 0, [&](int first) {
          relative.add_shifted(first_grad, p, relative.key_band(), first, step0,
                               work.part * kGradCols);
        });
      }
    }
  }

  // The relative terms of a step's scores and of dP.
  template <typename Fragments>
  static SIMT_FN void add_relative(const Params& p, Relative& relative, int step0, int stage,
                                   Fragments& score, Fragments& change) {
    relative.for_pieces(p, 0, [&](int first) {
      relative.add_products(score, p, relative.key_band(), first, step0, own_tile(0),
                            other_tile(stage, 0), true);
      if (p.relative.value.data == nullptr) return;
      relative.add_products(change, p, relative.value_band(), first, step0, own_tile(kOwnSecond),
                            other_tile(stage, kOtherSecond), false);
    });
    relative.add_terms(score, p, step0);
  }

  static SIMT_FN void store(const Params& p, const Work& work, const Gradient& gradient,
                            void* target, float scale) {
    const int64_t head = static_cast<int64_t>(work.batch) * own_heads(p) + work.own_head;
    T* matrix = static_cast<T*>(target) + head * own_len(p) * p.head_dim;
    float factor[2 * kM];
    SIMT_UNROLL
    for (int r = 0; r < 2 * kM; ++r) factor[r] = scale;
    store_rows<T>(gradient, matrix, work.own0 + warp_row0(), own_len(p), work.part * kGradCols,
                  p.head_dim, factor);
  }
};

}  // namespace ptmkernels::attention::cuda
