// Gradients of the relative keys and values, deterministic: a block owns rows of them and goes over
// the queries, and for each tile of queries over the keys whose distances lie in these rows.
//
//     dr_t = scale sum_ij dS_ij (q_i + v)      drv_t = sum_ij a_ij dO_i     over all j - pos_i +
//     offset = t
//
// (relative.cuh.) The products of a tile of queries with the block's rows are made once, each tile
// of keys picks its part, and dS, or a, is gathered by query and row in shared memory; where the
// distances are clamped, the first or last row gets the sum. dS is computed again as in
// backward.cuh.
#pragma once

#include "attention/cuda/relative.cuh"
#include "attention/cuda/score.cuh"
#include "attention/cuda/shapes.h"
#include "attention/cuda/tile.cuh"
#include "attention/cuda/tile_bounds.cuh"
#include "attention/cuda/vectors.cuh"

namespace ptmkernels::attention::cuda {

struct RelativeGradientParams : BackwardParams {
  bool of_value;      // the gradient of rv, else that of r
  int own_batches;    // of r or rv: B, or 1 where the batch shares it
  bool one_head;      // the heads share it; each has a part of its own
  int splits;         // blocks that share an owner's tiles of queries
  float* gradient;    // (splits, H or 1, own_batches, 1 or H, R, D): parts, then what they sum to
  float* row_change;  // (splits, own_batches, H, R): sum of dS; null for rv
};

template <typename T, int kHeadDim>
struct RelativeGradientKernel {
  using Params = RelativeGradientParams;
  using Shape = RelativeGradientShape<T, kHeadDim>;
  static constexpr int kThreads = Shape::kThreads, kMinBlocks = Shape::kMinBlocks;
  static constexpr int kQueries = Shape::kRows, kKeys = Shape::kCols, kN = Shape::kN;
  static constexpr int kRows = kKeys;  // of r or rv
  static constexpr int kGradCols = kHeadDim < kMaxGradCols ? kHeadDim : kMaxGradCols;
  static constexpr int kParts = kHeadDim / kGradCols;
  // Of the block's gradient a warp has 16 rows and some columns.
  static constexpr int kWarpRows = kRows / 16, kWarpCols = Shape::kWarps / kWarpRows;
  static constexpr int kOwnCols = kGradCols / kWarpCols;

  using QueryTile = SharedTile<T, kQueries, kHeadDim>;
  using KeyTile = SharedTile<T, kKeys, kHeadDim>;
  using KeyLoader = TileLoader<kThreads, T, kKeys, kHeadDim>;
  using Fragments = float[1][kN][4];
  using Gradient = float[1][kOwnCols / 8][4];

  // Shared memory: Q and dO; K and V, before them r and rv; matrices of queries and rows; vectors.
  static constexpr int kPitch = kRows + 4;
  static constexpr int kMatrixBytes = kQueries * kPitch * 4;
  static constexpr int kGradOutput = QueryTile::kBytes;
  static constexpr int kKey = 2 * QueryTile::kBytes;
  static constexpr int kValue = kKey + KeyTile::kBytes;
  static constexpr int kKeyProducts = kValue + KeyTile::kBytes;       // q_i.r_t + v.r_t
  static constexpr int kValueProducts = kKeyProducts + kMatrixBytes;  // dO_i.rv_t
  static constexpr int kSums = kValueProducts + kMatrixBytes;
  static constexpr int kIntervals = kSums + kMatrixBytes;
  static constexpr int kRanks = kIntervals + 2 * kQueries * 4;
  static constexpr int kKeyTerms = kRanks + kKeys * 4;
  static constexpr int kDistances = kKeyTerms + 2 * kKeys * 4;
  static constexpr int kRowScores = kDistances + (kQueries + kKeys) * 4;  // v.r_t
  static constexpr int kRowSums = kRowScores + kRows * 4;
  static constexpr int kSharedBytes = kRowSums + kRows * 4;
  static_assert(kSharedBytes <= kMaxSharedBytes);

  static int shared_bytes(const Params&) { return kSharedBytes; }
  static SIMT_HOST_FN int query_tiles(const Params& p) {
    return (p.query_len + kQueries - 1) / kQueries;
  }
  static SIMT_HOST_FN int row_tiles(const Params& p) {
    return (p.relative.rows + kRows - 1) / kRows;
  }
  // Tiles of queries that an owner goes over.
  static SIMT_HOST_FN int64_t items(const Params& p) {
    return static_cast<int64_t>(p.batch / p.own_batches) * query_tiles(p);
  }
  static int64_t owners(const Params& p) {
    return static_cast<int64_t>(p.own_batches) * p.heads * kParts * row_tiles(p);
  }
  static int64_t blocks(const Params& p) { return owners(p) * p.splits; }

  struct Work {
    int own_batch, head, key_head, part, row0, split;
    int batch, query_tile;  // of the item that is next
    int64_t left;           // items
  };

  // A tile of queries and the tiles of keys that meet the block's rows there.
  struct Item {
    int batch, query_tile, first_tile, last_tile;

    SIMT_FN int query0() const { return query_tile * kQueries; }
  };

  // Keys and values of an item.
  struct Loaders {
    KeyLoader keys, values;

    SIMT_FN void start(const Params& p, const Work& work, const Item& item) {
      keys.start(p, p.key, item.batch, work.key_head);
      values.start(p, p.value, item.batch, work.key_head);
    }
  };

  // Of a lane's two rows, which are queries.
  struct Statistics {
    float lse[2], delta[2];
  };

  static SIMT_FN void run(const Params& p) {
    Work work = work_of(p);
    Gradient gradient;
    clear(gradient);
    float row_sum = 0.0f;  // of row thread_index()
    Item item;
    while (find_item(p, work, item)) {
      barrier();  // nobody works on the queries before any more
      load_queries(p, work, item);
      copy_wait<0>();
      barrier();  // queries and rows are here
      QueryRows rows;
      rows.load(p, item.batch, work.head, item.query0() + warp_row0());
      Statistics statistics;
      load_statistics<1>(p, static_cast<int64_t>(item.batch) * p.heads + work.head,
                         item.query0() + warp_row0(), statistics.lse, statistics.delta);
      Loaders loaders;
      loaders.start(p, work, item);
      multiply_rows(p);
      SIMT_ROLL
      for (int tile = item.first_tile; tile <= item.last_tile; ++tile) {
        bool is_full;
        if (!is_visible(p, item, tile, is_full)) continue;
        barrier();  // nobody works on the keys, or rows, before any more
        load_keys(p, work, item, loaders, tile * kKeys, is_full);
        copy_wait<0>();
        barrier();  // the keys are here
        add_tile(p, work, item, rows, statistics, tile * kKeys, is_full);
      }
      barrier();  // the sums of all warps are here
      add_item(p, work, gradient, row_sum);
    }
    store(p, work, gradient, row_sum);
  }

 private:
  static SIMT_FN int warp_row0() { return warp_index() * 16; }
  static SIMT_FN QueryTile query_tile(int offset) { return {shared_memory<T>(offset)}; }
  static SIMT_FN KeyTile key_tile(int offset) { return {shared_memory<T>(offset)}; }

  static SIMT_FN Work work_of(const Params& p) {
    int64_t rest = block_index();
    Work work;
    work.split = static_cast<int>(rest % p.splits);
    rest /= p.splits;
    work.row0 = static_cast<int>(rest % row_tiles(p)) * kRows;
    rest /= row_tiles(p);
    work.part = static_cast<int>(rest % kParts);
    rest /= kParts;
    work.head = static_cast<int>(rest % p.heads);
    work.own_batch = static_cast<int>(rest / p.heads);
    work.key_head = work.head / p.group;
    const int64_t first = items(p) * work.split / p.splits;
    work.batch = work.own_batch + static_cast<int>(first / query_tiles(p));
    work.query_tile = static_cast<int>(first % query_tiles(p));
    work.left = items(p) * (work.split + 1) / p.splits - first;
    return work;
  }

  // Moves to the next item that has keys; false where there is none.
  static SIMT_FN bool find_item(const Params& p, Work& work, Item& item) {
    const int64_t offset = p.relative.offset;
    for (; work.left > 0; --work.left) {
      item.batch = work.batch;
      item.query_tile = work.query_tile;
      if (++work.query_tile == query_tiles(p)) {
        work.query_tile = 0;
        ++work.batch;
      }
      const Interval positions = positions_of(p, item.batch, item.query0(), kQueries);
      // The first and the last row stand for all distances beyond.
      const bool is_first = work.row0 == 0, is_last = work.row0 + kRows >= p.relative.rows;
      const int first = is_first ? 0 : clamp(work.row0 - offset + positions.first, 0, p.key_len);
      const int last =
          is_last ? p.key_len - 1
                  : clamp(work.row0 + kRows - 1 - offset + positions.last, -1, p.key_len - 1);
      if (first > last) continue;
      item.first_tile = first / kKeys;
      item.last_tile = last / kKeys;
      --work.left;
      return true;
    }
    return false;
  }

  static SIMT_FN bool is_visible(const Params& p, const Item& item, int tile, bool& is_full) {
    if (p.own_bounds.data == nullptr) {
      is_full = (tile + 1) * kKeys <= p.key_len && !p.options.hides_more;
      return true;
    }
    const TileBounds queries =
        load_bounds(p.own_bounds.data + item.batch * p.own_bounds.batch + item.query_tile);
    const TileBounds keys =
        load_bounds(p.other_bounds.data + item.batch * p.other_bounds.batch + tile);
    is_full = tile_is_full(queries, keys) && !p.options.hides_more;
    return tile_is_visible(queries, keys);
  }

  static SIMT_FN void load_queries(const Params& p, const Work& work, const Item& item) {
    const RelativeTerms& t = p.relative;
    load_rows<kThreads>(query_tile(0), p, p.query, item.batch, work.head, item.query0(),
                        p.query_len);
    load_rows<kThreads>(query_tile(kGradOutput), p, p.grad_output, item.batch, work.head,
                        item.query0(), p.query_len);
    load_band<kThreads>(key_tile(kKey), p, t.key, item.batch, work.head, work.row0);
    load_band_scores<kThreads, kRows>(p, item.batch, work.head, work.row0, kRowScores);
    if (t.value.data != nullptr) {
      load_band<kThreads>(key_tile(kValue), p, t.value, item.batch, work.head, work.row0);
    }
    load_intervals<kThreads, kQueries>(p, item.batch, item.query0(), kIntervals);
    copy_commit();
  }

  static SIMT_FN void load_keys(const Params& p, const Work& work, const Item& item,
                                const Loaders& loaders, int key0, bool is_full) {
    loaders.keys.load(key_tile(kKey), p.key, key0, p.key_len);
    if (!p.of_value) loaders.values.load(key_tile(kValue), p.value, key0, p.key_len);
    if (!is_full) load_ranks<kThreads, kKeys>(p, item.batch, key0, kRanks);
    load_key_terms<kThreads, kKeys>(p, item.batch, work.head, key0, kKeyTerms);
    if (p.options.distance_bias != nullptr) {
      load_distances<kThreads, kQueries + kKeys>(p, work.head, least_distance(item, key0),
                                                 kDistances);
    }
    copy_commit();
  }

  static SIMT_FN int least_distance(const Item& item, int key0) {
    return key0 - (item.query0() + kQueries - 1);
  }

  // f(value, place in a matrix) for each element of a warp's queries and the block's rows.
  template <typename F>
  static SIMT_FN void for_matrix(Fragments& tile, F&& f) {
    for_each(tile, [&](float& value, int r, int c) {
      f(value, (warp_row0() + row_of(r)) * kPitch + col_of(c), col_of(c));
    });
  }

  // The products of the warp's queries with the block's rows; no sums yet.
  static SIMT_FN void multiply_rows(const Params& p) {
    const auto of_keys = shared_memory<float>(kKeyProducts);
    const auto of_values = shared_memory<float>(kValueProducts);
    const auto row_score = shared_memory<float>(kRowScores), sums = shared_memory<float>(kSums);
    const bool adds = p.relative.position != nullptr;
    Fragments product;
    clear(product);
    multiply_transposed<T>(product, query_tile(0), warp_row0(), key_tile(kKey), 0, p.exact);
    for_matrix(product, [&](float& value, int place, int row) {
      of_keys.store(place, adds ? value + row_score.load(row) : value);
      sums.store(place, 0.0f);
    });
    if (p.relative.value.data == nullptr || p.of_value) return;
    clear(product);
    multiply_transposed<T>(product, query_tile(kGradOutput), warp_row0(), key_tile(kValue), 0,
                           p.exact);
    for_matrix(product, [&](float& value, int place, int) { of_values.store(place, value); });
  }

  // Adds dS, or a, of one tile of keys to the sums.
  static SIMT_FN void add_tile(const Params& p, const Work& work, const Item& item,
                               const QueryRows& rows, const Statistics& statistics, int key0,
                               bool is_full) {
    Fragments score, change;
    clear(score);
    clear(change);
    int first[2];  // virtual row of the first key, from the block's first row on
    SIMT_UNROLL
    for (int r = 0; r < 2; ++r) first[r] = first_row(p, key0, rows.start[r], kKeys) - work.row0;
    const int below = -work.row0, above = p.relative.rows - 1 - work.row0;
    const auto of_keys = shared_memory<float>(kKeyProducts);
    const auto of_values = shared_memory<float>(kValueProducts);
    const bool adds_values = p.relative.value.data != nullptr && !p.of_value;
    for_each(score, [&](float& value, int r, int c) {
      const int row = clamp(first[r] + col_of(c), below, above);
      if (row < 0 || row >= kRows) return;
      const int place = (warp_row0() + row_of(r)) * kPitch + row;
      value = of_keys.load(place);
      if (adds_values) change[0][c / 2][r * 2 + c % 2] = of_values.load(place);
    });
    multiply_transposed<T>(score, query_tile(0), warp_row0(), key_tile(kKey), 0, p.exact);
    rows.add_terms(score, p, shared_memory<float>(kKeyTerms),
                   shared_memory<int32_t>(kKeyTerms + kKeys * 4), 0);
    if (!p.of_value) {
      multiply_transposed<T>(change, query_tile(kGradOutput), warp_row0(), key_tile(kValue), 0,
                             p.exact);
    }
    find_changes(p, work, item, statistics, score, change, key0, is_full);
    const auto sums = shared_memory<float>(kSums);
    float under[2] = {}, over[2] = {};
    for_each(change, [&](float& value, int r, int c) {
      const int row = first[r] + col_of(c);
      if (row < below) {
        under[r] += value;
      } else if (row > above) {
        over[r] += value;
      } else if (row >= 0 && row < kRows) {
        const int place = (warp_row0() + row_of(r)) * kPitch + row;
        sums.store(place, sums.load(place) + value);
      }
    });
    warp_barrier();  // each query's sums are here, but for what is clamped
    if (below == 0) add_clamped(under, 0);
    if (above < kRows) add_clamped(over, above);
  }

  // Leaves dS, or a after dropout, in `change`.
  static SIMT_FN void find_changes(const Params& p, const Work& work, const Item& item,
                                   const Statistics& statistics, Fragments& score,
                                   Fragments& change, int key0, bool is_full) {
    const ScorePlace<false> place{item.batch,
                                  work.head,
                                  item.query0(),
                                  warp_row0(),
                                  key0,
                                  0,
                                  shared_memory<int32_t>(kIntervals),
                                  shared_memory<int32_t>(kIntervals + kQueries * 4),
                                  shared_memory<int32_t>(kRanks),
                                  shared_memory<float>(kDistances),
                                  least_distance(item, key0)};
    const float factor = finish_scores<T>(score, p, place, is_full);
    const bool drops = p.options.drops;
    const uint32_t dropped = drops ? dropped_elements<1, kN>(p.options, place) : 0;
    if (drops) replace(change, dropped, 0.0f);
    to_weights(p.options, score, factor, [&](int r, int) { return statistics.lse[r]; });
    for_each(change, [&](float& value, int r, int c) {
      const float weight = score[0][c / 2][r * 2 + c % 2];
      value = p.of_value ? weight : weight * (value * p.options.keep_scale - statistics.delta[r]);
    });
    if (drops && p.of_value) replace(change, dropped, 0.0f);
  }

  static SIMT_FN void add_clamped(float (&x)[2], int row) {
    sum_lanes(x);
    const auto sums = shared_memory<float>(kSums);
    if (lane_index() % 4 != 0) return;
    SIMT_UNROLL
    for (int r = 0; r < 2; ++r) {
      const int place = (warp_row0() + row_of(r)) * kPitch + row;
      sums.store(place, sums.load(place) + x[r]);
    }
  }

  // gradient_t += sum_i sums_it q_i, or dO_i.
  static SIMT_FN void add_item(const Params& p, const Work& work, Gradient& gradient,
                               float& row_sum) {
    const auto sums = shared_memory<float>(kSums);
    float weight[1][kQueries / 8][4];
    const int row0 = grad_row0();
    for_each(weight, [&](float& value, int r, int c) {
      value = sums.load(col_of(c) * kPitch + row0 + row_of(r));
    });
    multiply<T>(gradient, weight, query_tile(p.of_value ? kGradOutput : 0), 0, grad_col0(work),
                p.exact);
    const int row = thread_index();
    if (p.of_value || row >= kRows) return;
    SIMT_ROLL
    for (int i = 0; i < kQueries; ++i) row_sum += sums.load(i * kPitch + row);
  }

  static SIMT_FN int grad_row0() { return warp_index() % kWarpRows * 16; }
  static SIMT_FN int grad_col0(const Work& work) {
    return work.part * kGradCols + warp_index() / kWarpRows * kOwnCols;
  }

  static SIMT_FN void store(const Params& p, const Work& work, Gradient& gradient, float row_sum) {
    const RelativeTerms& t = p.relative;
    if (!p.of_value && t.position != nullptr) {
      store_row_sums(p, work, row_sum);
      const auto row_sums = shared_memory<float>(kRowSums);
      const int row0 = grad_row0();
      const float sum[2] = {row_sums.load(row0 + row_of(0)), row_sums.load(row0 + row_of(1))};
      const T* bias =
          static_cast<const T*>(t.position_bias.data) + work.head * t.position_bias.head;
      add_outer(gradient, sum, bias, grad_col0(work), p.head_dim);
    }
    const int parts = p.one_head ? p.heads : 1, own_heads = p.one_head ? 1 : p.heads;
    int64_t matrix = static_cast<int64_t>(work.split) * parts + (p.one_head ? work.head : 0);
    matrix = (matrix * p.own_batches + work.own_batch) * own_heads + (p.one_head ? 0 : work.head);
    const float scale = p.of_value ? p.options.keep_scale : p.options.scale;
    const float factor[2] = {scale, scale};
    store_rows<float>(gradient, p.gradient + matrix * t.rows * p.head_dim, work.row0 + grad_row0(),
                      t.rows, grad_col0(work), p.head_dim, factor);
  }

  static SIMT_FN void store_row_sums(const Params& p, const Work& work, float row_sum) {
    const int row = thread_index();
    if (row < kRows) {
      shared_memory<float>(kRowSums).store(row, row_sum);
      if (work.part == 0 && work.row0 + row < p.relative.rows) {
        const int64_t matrix =
            (static_cast<int64_t>(work.split) * p.own_batches + work.own_batch) * p.heads +
            work.head;
        store_global(p.row_change + matrix * p.relative.rows + work.row0 + row, row_sum);
      }
    }
    barrier();  // the rows' sums are here
  }
};

}  // namespace ptmkernels::attention::cuda
