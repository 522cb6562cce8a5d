// Which tiles of the score matrix hold something visible, from the least and greatest of their
// ranks and intervals. This is all that block sparsity needs; nothing of size tiles x tiles is
// built.
#pragma once

#include "attention/cuda/device_params.h"
#include "common/simt.h"

namespace ptmkernels::attention::cuda {

using namespace simt;

// Keys: a = least rank, b = greatest rank of the keys that are not padded (INT32_MAX and INT32_MIN
// where all are), c = greatest rank of all, padded ones and those beyond the end included.
// Queries: a, b = least and greatest low; c, d = least and greatest high.
SIMT_FN bool tile_is_visible(const TileBounds& queries, const TileBounds& keys) {
  return keys.b >= queries.a && keys.a <= queries.d;
}

SIMT_FN bool tile_is_full(const TileBounds& queries, const TileBounds& keys) {
  return queries.b <= keys.a && keys.c <= queries.c;
}

SIMT_FN TileBounds load_bounds(const TileBounds* bounds) {
  const Bytes16 words = load_global(reinterpret_cast<const Bytes16*>(bounds));
  return {static_cast<int32_t>(words.x), static_cast<int32_t>(words.y),
          static_cast<int32_t>(words.z), static_cast<int32_t>(words.w)};
}

// The bounds of all tiles of one kind and size; a launch fills several such lists.
struct TileBoundsJob {
  const int32_t* low;   // ranks of the keys, or lows of the queries: (rows, length)
  const int32_t* high;  // highs of the queries; null for keys
  int64_t low_row, high_row;
  int rows, length, tile_size, tiles;
  TileBounds* bounds;  // (rows, tiles)
};

struct TileBoundsParams {
  static constexpr int kMaxJobs = 9;
  TileBoundsJob job[kMaxJobs];
  int jobs;
  int64_t first_block[kMaxJobs + 1];  // of each job
};

// One warp for each tile.
struct TileBoundsKernel {
  static constexpr int kThreads = 128, kMinBlocks = 1;
  using Params = TileBoundsParams;

  static int shared_bytes(const Params&) { return 0; }
  static int64_t blocks_of(const TileBoundsJob& job) {
    constexpr int kTilesPerBlock = kThreads / kWarpSize;
    return (static_cast<int64_t>(job.rows) * job.tiles + kTilesPerBlock - 1) / kTilesPerBlock;
  }

  static SIMT_FN void run(const Params& p) {
    int index = 0;
    while (index + 1 < p.jobs && block_index() >= p.first_block[index + 1]) ++index;
    const TileBoundsJob& job = p.job[index];
    const int64_t block = block_index() - p.first_block[index];
    const int64_t place = block * (kThreads / kWarpSize) + warp_index();
    if (place >= static_cast<int64_t>(job.rows) * job.tiles) return;
    const int64_t row = place / job.tiles;
    const int first = static_cast<int>(place % job.tiles) * job.tile_size;
    const int32_t* low = job.low + row * job.low_row;
    TileBounds bounds{INT32_MAX, INT32_MIN, job.high ? INT32_MAX : INT32_MIN, INT32_MIN};
    for (int i = first + lane_index(); i < first + job.tile_size; i += kWarpSize) {
      if (job.high) {
        if (i < job.length) {
          add_query(bounds, load_global(low + i), load_global(job.high + row * job.high_row + i));
        }
      } else {
        add_key(bounds, i < job.length ? load_global(low + i) : kPaddedRank);
      }
    }
    reduce(bounds, job.high != nullptr);
    if (lane_index() == 0) {
      const Bytes16 words{static_cast<uint32_t>(bounds.a), static_cast<uint32_t>(bounds.b),
                          static_cast<uint32_t>(bounds.c), static_cast<uint32_t>(bounds.d)};
      store_global(reinterpret_cast<Bytes16*>(job.bounds + place), words);
    }
  }

 private:
  static SIMT_FN int32_t least(int32_t x, int32_t y) { return x < y ? x : y; }
  static SIMT_FN int32_t greatest(int32_t x, int32_t y) { return x > y ? x : y; }

  static SIMT_FN void add_key(TileBounds& bounds, int32_t rank) {
    bounds.c = greatest(bounds.c, rank);
    if (rank == kPaddedRank) return;
    bounds.a = least(bounds.a, rank);
    bounds.b = greatest(bounds.b, rank);
  }

  static SIMT_FN void add_query(TileBounds& bounds, int32_t low, int32_t high) {
    bounds.a = least(bounds.a, low);
    bounds.b = greatest(bounds.b, low);
    bounds.c = least(bounds.c, high);
    bounds.d = greatest(bounds.d, high);
  }

  static SIMT_FN void reduce(TileBounds& bounds, bool queries) {
    for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
      bounds.a = least(bounds.a, shuffle_xor(bounds.a, mask));
      bounds.b = greatest(bounds.b, shuffle_xor(bounds.b, mask));
      const int32_t c = shuffle_xor(bounds.c, mask);
      bounds.c = queries ? least(bounds.c, c) : greatest(bounds.c, c);
      bounds.d = greatest(bounds.d, shuffle_xor(bounds.d, mask));
    }
  }
};

// Goes over the tiles of one side that hold something visible for a tile of the other, in order.
// Every warp of a block walks by itself, 32 tiles with one ballot, and comes to the same tiles.
template <bool kOwnQueries>
struct TileWalk {
  const TileBoundsList* own_list;  // of the block's own tiles; empty: every tile is visible
  const TileBoundsList* other_list;
  int batch, own_tile;
  int end;          // of the tiles to go over
  int full_below;   // without ranks: tiles below this need no test
  bool hides_more;  // no tile is full: the mask is more than ranks
  int base = 0;     // the first of the 32 tiles that were classified last
  uint32_t visible = 0, full = 0;

  SIMT_FN void set_mask(const TileBoundsList& own, const TileBoundsList& others, int of_batch,
                        int tile) {
    own_list = &own;
    other_list = &others;
    batch = of_batch;
    own_tile = tile;
  }

  SIMT_FN void start(int first, int last) {
    base = first;
    end = last;
    visible = full = 0;
    if (has_mask() && first < end) classify();
  }

  // The next visible tile, or `end`; *is_full: every query of the tile sees every key.
  SIMT_FN int next(bool& is_full) {
    if (!has_mask()) {
      is_full = base < full_below && !hides_more;
      return base < end ? base++ : end;
    }
    while (visible == 0) {
      base += kWarpSize;
      if (base >= end) return end;
      classify();
    }
    const int index = lowest_bit(visible);
    visible &= visible - 1;
    is_full = (full >> index & 1) != 0;
    return base + index;
  }

 private:
  SIMT_FN bool has_mask() const { return own_list->data != nullptr; }

  // Loaded each time, so that the bounds take no registers meanwhile.
  SIMT_FN TileBounds bounds_of(const TileBoundsList& list, int tile) const {
    return load_bounds(list.data + stay_here(batch) * list.batch + tile);
  }

  SIMT_FN void classify() {
    const int tile = base + lane_index();
    bool seen = false, whole = false;
    if (tile < end) {
      const TileBounds own = bounds_of(*own_list, stay_here(own_tile));
      const TileBounds other = bounds_of(*other_list, tile);
      seen = kOwnQueries ? tile_is_visible(own, other) : tile_is_visible(other, own);
      whole = !hides_more && (kOwnQueries ? tile_is_full(own, other) : tile_is_full(other, own));
    }
    visible = ballot(seen);
    full = ballot(whole);
  }
};

}  // namespace ptmkernels::attention::cuda
