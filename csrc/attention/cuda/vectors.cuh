// What belongs to the rows and columns of a tile of scores: the vectors of a head, ranks,
// intervals, the biases of its distances, the rows' statistics.
#pragma once

#include "attention/cuda/load.cuh"
#include "attention/cuda/score.cuh"
#include "attention/cuda/tile.cuh"

namespace ptmkernels::attention::cuda {

// Rows of a head from row0 on, of `length` that there are, and of them the columns from col0 on.
template <int kThreads, typename T, int kRows, int kCols>
SIMT_FN void load_rows(SharedTile<T, kRows, kCols> tile, const Params& p, const Rows& source,
                       int batch, int head, int row0, int length, int col0 = 0) {
  TileLoader<kThreads, T, kRows, kCols> loader;
  loader.start(p, source, batch, head, col0);
  loader.load(tile, source, row0, length);
}

// kCount ranks from key0 on; without a mask 0 for every key that there is.
template <int kThreads, int kCount>
SIMT_FN void load_ranks(const Params& p, int batch, int key0, int offset) {
  const ScoreOptions& o = p.options;
  const auto rank = shared_memory<int32_t>(offset);
  const int keys = p.key_len - key0;
  if (o.key_rank != nullptr) {
    const int32_t* from = o.key_rank + batch * o.key_rank_batch + key0;
    load_vector<kThreads, kCount>(rank, from, keys, kPaddedRank);
  } else {
    SIMT_ROLL
    for (int i = thread_index(); i < kCount; i += kThreads) {
      rank.store(i, i < keys ? 0 : kPaddedRank);
    }
  }
}

// kCount lows from query0 on, then as many highs; without a mask every interval holds every rank.
template <int kThreads, int kCount>
SIMT_FN void load_intervals(const Params& p, int batch, int query0, int offset) {
  const ScoreOptions& o = p.options;
  const bool masked = o.key_rank != nullptr;
  const int rows = masked ? p.query_len - query0 : 0;
  const int32_t* low = masked ? o.query_low + batch * o.query_low_batch + query0 : nullptr;
  const int32_t* high = masked ? o.query_high + batch * o.query_high_batch + query0 : nullptr;
  load_vector<kThreads, kCount>(shared_memory<int32_t>(offset), low, rows, kLowestRank);
  load_vector<kThreads, kCount>(shared_memory<int32_t>(offset + kCount * 4), high, rows,
                                kPaddedRank - 1);
}

// The biases of kCount distances j - i, from `least` on; zero where there is no such distance.
template <int kThreads, int kCount>
SIMT_FN void load_distances(const Params& p, int head, int least, int offset) {
  const int total = p.query_len + p.key_len - 1;
  const int first = least + p.query_len - 1;
  const float* from = p.options.distance_bias + static_cast<int64_t>(head) * total;
  const auto target = shared_memory<float>(offset);
  SIMT_ROLL
  for (int i = thread_index(); i < kCount; i += kThreads) {
    const int place = first + i;
    const bool inside = place >= 0 && place < total;
    copy_async<Bytes4>(target, i, from + (inside ? place : 0), inside);
  }
}

// Log-sum-exp and delta of a lane's rows, which are queries; of those beyond the end all weights
// are 0.
template <int kM>
SIMT_FN void load_statistics(const BackwardParams& p, int64_t batch_and_head, int row0,
                             float (&lse)[2 * kM], float (&delta)[2 * kM]) {
  SIMT_UNROLL
  for (int r = 0; r < 2 * kM; ++r) {
    const int row = row0 + row_of(r);
    const bool inside = row < p.query_len;
    const int64_t place = batch_and_head * p.query_len + row;
    lse[r] = inside ? load_global(p.row_lse + place) : kInfinity;
    delta[r] = inside ? load_global(p.delta + place) : 0.0f;
  }
}

}  // namespace ptmkernels::attention::cuda
