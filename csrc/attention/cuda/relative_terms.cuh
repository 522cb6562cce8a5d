// What the kernels with relative positions share (relative.cuh, relative_gradient.cuh): where
// queries stand, the rows of r that they read, and the terms of one number for each query or key.
#pragma once

#include "attention/cuda/device_params.h"
#include "attention/cuda/tile.cuh"
#include "attention/cuda/tile_bounds.cuh"
#include "attention/cuda/vectors.cuh"

namespace ptmkernels::attention::cuda {

struct Interval {
  int first, last;
};

// Where the positions of `count` queries from `query0` on lie; both are multiples of
// kPositionGroup.
SIMT_FN Interval positions_of(const Params& p, int batch, int query0, int count) {
  const RelativeTerms& t = p.relative;
  if (t.query_position == nullptr) return {query0, query0 + count - 1};
  const int last = (p.query_len - 1) / kPositionGroup;
  Interval found{INT32_MAX, INT32_MIN};
  SIMT_ROLL
  for (int i = 0; i < count; i += kPositionGroup) {
    const int group = (query0 + i) / kPositionGroup;
    const TileBounds bounds = load_bounds(t.position_bounds.data + batch * t.position_bounds.batch +
                                          (group < last ? group : last));
    found.first = bounds.a < found.first ? bounds.a : found.first;
    found.last = bounds.d > found.last ? bounds.d : found.last;
  }
  return found;
}

// Where a query stands; behind the last one as the last one does.
SIMT_FN int position_of(const Params& p, int batch, int query) {
  const RelativeTerms& t = p.relative;
  if (t.query_position == nullptr) return query;
  const int row = query < p.query_len ? query : p.query_len - 1;
  return load_global(t.query_position + batch * t.query_position_batch + row);
}

// The row of key 0 for a query at `position`, without the clamp of rows to those that there are. It
// is kept where adding the place of a key cannot overflow.
SIMT_FN int start_of(const Params& p, int position) {
  constexpr int kFar = 1 << 30;
  return clamp(p.relative.offset - position, -kFar, kFar);
}

// The virtual row of the first of a tile's `keys` keys, for a query with this start.
SIMT_FN int first_row(const Params& p, int key0, int start, int keys) {
  const int row = key0 + start, rows = p.relative.rows;
  return row < -keys ? -keys : row > rows ? rows : row;
}

// The least and the greatest start of queries at these positions.
SIMT_FN Interval starts_of(const Params& p, Interval positions) {
  return {start_of(p, positions.last), start_of(p, positions.first)};
}

SIMT_FN const float* segment_scores(const Params& p, int differs, int batch, int head) {
  const int64_t matrix = (int64_t{differs} * p.batch + batch) * p.heads + head;
  return p.relative.segment + matrix * p.query_len;
}

// The sums of whole rows from those of each lane's columns.
SIMT_FN void sum_lanes(float (&x)[2]) {
  SIMT_UNROLL
  for (int r = 0; r < 2; ++r) {
    x[r] += shuffle_xor(x[r], 1);
    x[r] += shuffle_xor(x[r], 2);
  }
}

// acc += x vector, columns col0 .. of the vector's `cols`.
template <typename T, int kN>
SIMT_FN void add_outer(float (&acc)[1][kN][4], const float (&x)[2], const T* vector, int col0,
                       int cols) {
  SIMT_UNROLL
  for (int c = 0; c < 2 * kN; ++c) {
    const int col = col0 + col_of(c);
    const float value = col < cols ? to_float(load_global(vector + col)) : 0.0f;
    SIMT_UNROLL
    for (int r = 0; r < 2; ++r) acc[0][c / 2][r * 2 + c % 2] += x[r] * value;
  }
}

// What a lane knows of its two rows, which are queries.
struct QueryRows {
  int start[2];  // start_of their positions
  int segment[2];
  float same[2], differs[2];  // the segment term with keys of the same segment and of others

  SIMT_FN void load(const Params& p, int batch, int head, int row0) {
    SIMT_UNROLL
    for (int r = 0; r < 2; ++r) {
      const int row = row0 + row_of(r);
      start[r] = start_of(p, position_of(p, batch, row));
      segment[r] = 0;
      same[r] = differs[r] = 0.0f;
      if (p.relative.segment == nullptr || row >= p.query_len) continue;
      segment[r] =
          load_global(p.relative.query_segment + batch * p.relative.query_segment_batch + row);
      same[r] = load_global(segment_scores(p, 0, batch, head) + row);
      differs[r] = load_global(segment_scores(p, 1, batch, head) + row);
    }
  }

  // score_ij += u.k_j and the segment term; the keys' numbers are those of a tile, from `key0` on.
  template <int kN>
  SIMT_FN void add_terms(float (&score)[1][kN][4], const Params& p, Shared<float> content,
                         Shared<int32_t> key_segment, int key0) const {
    if (p.relative.content != nullptr) {
      for_each(score, [&](float& value, int, int c) { value += content.load(key0 + col_of(c)); });
    }
    if (p.relative.segment == nullptr) return;
    for_each(score, [&](float& value, int r, int c) {
      value += key_segment.load(key0 + col_of(c)) == segment[r] ? same[r] : differs[r];
    });
  }
};

// u.k_j of kCount keys from `key0` on, then their segments.
template <int kThreads, int kCount>
SIMT_FN void load_key_terms(const Params& p, int batch, int head, int key0, int offset) {
  const RelativeTerms& t = p.relative;
  const int keys = p.key_len - key0;
  if (t.content != nullptr) {
    const int64_t row = (static_cast<int64_t>(batch) * p.heads + head) * p.key_len + key0;
    load_vector<kThreads, kCount>(shared_memory<float>(offset), t.content + row, keys, 0.0f);
  }
  if (t.segment != nullptr) {
    load_vector<kThreads, kCount>(shared_memory<int32_t>(offset + kCount * 4),
                                  t.key_segment + batch * t.key_segment_batch + key0, keys, 0);
  }
}

// Virtual rows `first` .. of the relative keys or values, columns col0 .. of them.
template <int kThreads, typename T, int kRows, int kCols>
SIMT_FN void load_band(SharedTile<T, kRows, kCols> tile, const Params& p, const Rows& source,
                       int batch, int head, int first, int col0 = 0) {
  TileLoader<kThreads, T, kRows, kCols> loader;
  loader.start(p, source, batch, stay_here(head), col0);
  loader.load_clamped(tile, source, first, p.relative.rows - 1);
}

// v.r of the same rows, where there is a v.
template <int kThreads, int kCount>
SIMT_FN void load_band_scores(const Params& p, int batch, int head, int first, int offset) {
  const RelativeTerms& t = p.relative;
  if (t.position == nullptr) return;
  const float* from = t.position + batch * t.position_batch + static_cast<int64_t>(head) * t.rows;
  SIMT_ROLL
  for (int i = thread_index(); i < kCount; i += kThreads) {
    copy_async<Bytes4>(shared_memory<float>(offset), i, from + clamp(first + i, 0, t.rows - 1));
  }
}

}  // namespace ptmkernels::attention::cuda
