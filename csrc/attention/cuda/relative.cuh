// The terms of distances and segments in a tile of scores:
//
//     s_ij += (q_i + v).r_t    t = clamp(j - pos_i + offset, 0, R - 1)    dP_ij += dO_i.rv_t
//
// (Dai et al. 2019, section 3.3; Shaw et al. 2018, equations 3 and 4.) The rows of r that a tile
// reads are a band: those of the distances between its keys and the positions of its queries. A
// warp multiplies its queries by a window of the band at a time: by all rows that they read where
// the registers suffice, else by kBandChunk. Each lane picks what belongs to its scores along the
// diagonals. The other way round, weights that are shifted to the rows of a window give
// o_i += sum_j a_ij rv_t and dq_i += sum_j dS_ij r_t.
//
// A band runs over virtual rows, which differ from key to key also where t is clamped: virtual row
// x is row clamp(x, 0, R - 1) of r. Those of one query and one tile of keys begin no further
// outside of r than the tile is wide, so that no band is longer than R and two tiles.
#pragma once

#include "attention/cuda/device_params.h"
#include "attention/cuda/relative_terms.cuh"
#include "attention/cuda/score.cuh"
#include "attention/cuda/shapes.h"
#include "attention/cuda/tile.cuh"
#include "attention/cuda/vectors.cuh"

namespace ptmkernels::attention::cuda {

constexpr int kBandChunk = 16;  // rows of a band that are multiplied at a time, at least

// The bands of a block's tiles of scores. Its warps' rows are queries, or keys where kOwnKeys. The
// tiles may be kWidth columns wide parts of heads, the products then come one part after the other.
//
// Shared memory from kOffset on: for each stage a piece of the band with v.r of its rows, and
// vectors of the other side; a matrix for each warp; behind them, where there are relative values,
// their piece of each stage.
template <typename T, int kWidth, typename Shape, bool kOwnKeys, int kOffset>
struct RelativeTile {
  static constexpr int kThreads = Shape::kThreads, kRows = Shape::kRows, kCols = Shape::kCols;
  static constexpr int kStep = Shape::kStep, kN = Shape::kN, kBandRows = Shape::kBandRows;
  static constexpr int kKeys = kOwnKeys ? kRows : kCols;  // of a tile
  static_assert(Shape::kM == 1 && kStep == kCols && kBandRows % kBandChunk == 0);

  using Band = SharedTile<T, kBandRows, kWidth>;
  using Fragments = float[1][kN][4];

  static constexpr int kBandScores = Band::kBytes;
  static constexpr int kVectors = kBandScores + kBandRows * 4;
  static constexpr int kStageBytes = kVectors + 4 * kCols * 4;
  // Where the registers suffice, a warp takes at once all rows of a band that its 16 queries read
  // where they stand side by side; else kBandChunk rows at a time.
  static constexpr bool kWhole = !kOwnKeys && sizeof(T) == 2 && kWidth <= 64;
  static constexpr int kNeeded = kWhole ? kBandChunk + kStep : kBandChunk;
  static constexpr int kWindow = kNeeded < kBandRows ? kNeeded : kBandRows;
  // A warp's matrix: products of queries and rows of the band, or of rows and queries; or weights.
  // Before the weights of each query, and so behind those of the one before, lies a margin of
  // zeros.
  static constexpr int kMargin = kWhole ? kBandChunk + 4 : 0;
  static constexpr int kPitch = kMargin + kStep + (kWhole ? 0 : 4);
  static constexpr int kMatrixBytes = (kBandChunk * kPitch + kMargin) * 4;
  static_assert(kWindow <= kPitch);
  static constexpr int kMatrices = kOffset + Shape::kStages * kStageBytes;
  static constexpr int kValueBands = kMatrices + Shape::kWarps * kMatrixBytes;
  static constexpr int kSharedBytes = kValueBands + Shape::kStages * Band::kBytes;
  static_assert(kSharedBytes <= kMaxSharedBytes);

  static int shared_bytes(const Params& p) {
    return p.relative.value.data != nullptr ? kSharedBytes : kValueBands;
  }

  int batch, own0;
  QueryRows rows;      // where they are queries
  int32_t segment[2];  // of the lane's rows, where they are keys
  Interval of_block;   // starts, where the own side are queries
  Interval of_warp;
  float sum[2];        // of dS over a lane's columns
  float differing[2];  // of those whose segments differ

  // The tile that is worked on.
  int other0, stage, head;
  Interval band;
  int resident;  // the piece of the band that is in shared memory

  // The rows of the block; `for_head` where they are queries.
  SIMT_FN void start(const Params& p, int for_batch, int for_head, int first_own) {
    batch = for_batch;
    head = for_head;
    own0 = first_own;
    const int warp0 = own0 + warp_row0();
    if constexpr (kOwnKeys) {
      SIMT_UNROLL
      for (int r = 0; r < 2; ++r) {
        const int row = warp0 + row_of(r);
        const bool inside = p.relative.segment != nullptr && row < p.key_len;
        segment[r] =
            inside
                ? load_global(p.relative.key_segment + batch * p.relative.key_segment_batch + row)
                : 0;
      }
    } else {
      rows.load(p, batch, head, warp0);
      of_block = starts_of(p, positions_of(p, batch, own0, kRows));
      of_warp = starts_of(p, positions_of(p, batch, warp0, kPositionGroup));
    }
    reset_sums();
  }

  // What the tile at `first_other` needs first, for query head `for_head`.
  SIMT_FN void load(const Params& p, int for_head, int first_other, int to_stage,
                    int col0 = 0) const {
    load_piece(p, for_head, band_of(p, first_other).first, to_stage, col0);
    const int vectors = stage_offset(to_stage) + kVectors;
    if constexpr (kOwnKeys) {
      load_query_terms(p, for_head, first_other, vectors);
    } else {
      load_key_terms<kThreads, kCols>(p, batch, for_head, first_other, vectors);
    }
  }

  // The tile whose loads have arrived.
  SIMT_FN void set_tile(const Params& p, int for_head, int first_other, int in_stage) {
    head = for_head;
    other0 = first_other;
    stage = in_stage;
    band = band_of(p, other0);
    resident = 0;
  }

  // f(first virtual row) for each piece of the band while it is in shared memory, in rising or
  // falling order.
  template <bool kFalling = false, typename F>
  SIMT_FN void for_pieces(const Params& p, int col0, F&& f) {
    const int pieces = (band.last - band.first) / kBandRows + 1;
    SIMT_ROLL
    for (int i = 0; i < pieces; ++i) {
      const int piece = kFalling ? pieces - 1 - i : i;
      const int first = band.first + piece * kBandRows;
      if (piece != resident) {
        barrier();  // nobody works on the piece before any more
        load_piece(p, head, first, stage, col0);
        copy_commit();
        copy_wait<0>();
        barrier();  // this piece is here
        resident = piece;
      }
      f(first);
    }
  }

  SIMT_FN Band key_band() const { return {shared_memory<T>(stage_offset(stage))}; }
  SIMT_FN Band value_band() const { return {shared_memory<T>(kValueBands + stage * Band::kBytes)}; }

  // score_ij += left_i . band_t, and v.r_t where `with_scores`. The piece begins at virtual row
  // `first`, the step at column `step0` of the other side's tile.
  template <typename Own, typename Other>
  SIMT_FN void add_products(Fragments& score, const Params& p, Band piece, int first, int step0,
                            Own own, Other other, bool with_scores) const {
    const auto matrix = warp_matrix();
    const bool adds = with_scores && p.relative.position != nullptr;
    for_windows(p, first, step0, [&](int from, int window, bool covers) {
      float product[1][(kOwnKeys ? kStep : kWindow) / 8][4];
      clear(product);
      if (adds) add_band_scores(product, window);
      if constexpr (kOwnKeys) {
        multiply_transposed<T>(product, piece, window, other, step0, p.exact);
      } else {
        multiply_transposed<T>(product, own, warp_row0(), piece, window, p.exact);
      }
      warp_barrier();  // nobody reads the window before any more
      save(product, matrix);
      warp_barrier();  // this window is here
      if (kWhole && covers) {
        pick(score, p, step0, first + window, [](int) { return true; });
      } else {
        const int behind = from - window;
        pick(score, p, step0, first + window,
             [behind](int row) { return row >= behind && row < kWindow; });
      }
    });
  }

  // acc_i += sum_j weight_ij band_t, columns col0 .. of it; the rows are queries. save_weights goes
  // before.
  template <int kGradN>
  SIMT_FN void add_shifted(float (&acc)[1][kGradN][4], const Params& p, Band piece, int first,
                           int step0, int col0) const {
    static_assert(!kOwnKeys);
    for_windows(p, first, step0, [&](int from, int window, bool covers) {
      float shifted[1][kWindow / 8][4];
      if (kWhole && covers) {
        shift(shifted, p, step0, first + window, [](int, int) { return true; });
      } else {
        const int behind = from - window;
        shift(shifted, p, step0, first + window,
              [behind](int row, int col) { return row >= behind && col >= 0 && col < kStep; });
      }
      multiply<T>(acc, shifted, piece, window, col0, p.exact);
    });
  }

  SIMT_FN void save_weights(Fragments& weight) const {
    const auto matrix = warp_matrix();
    warp_barrier();  // nobody reads what lies there any more
    if constexpr (kWhole) clear_margins(matrix);
    save(weight, matrix.behind(kMargin));
    warp_barrier();  // the weights are here
  }

  SIMT_FN void add_terms(Fragments& score, const Params& p, int step0) const {
    const auto numbers = shared_memory<float>(stage_offset(stage) + kVectors);
    const auto segments = shared_memory<int32_t>(stage_offset(stage) + kVectors + kCols * 4);
    if constexpr (!kOwnKeys) {
      rows.add_terms(score, p, numbers, segments, step0);
    } else {
      if (p.relative.content != nullptr) {
        float content[2];
        SIMT_UNROLL
        for (int r = 0; r < 2; ++r) {
          const int key = own0 + warp_row0() + row_of(r);
          const int64_t matrix = static_cast<int64_t>(batch) * p.heads + head;
          content[r] =
              key < p.key_len ? load_global(p.relative.content + matrix * p.key_len + key) : 0.0f;
        }
        for_each(score, [&](float& value, int r, int) { value += content[r]; });
      }
      if (p.relative.segment == nullptr) return;
      for_each(score, [&](float& value, int r, int c) {
        const int query = step0 + col_of(c);
        const bool same = segments.load(query) == segment[r];
        value += numbers.load((same ? 2 : 3) * kCols + query);
      });
    }
  }

  SIMT_FN void reset_sums() {
    SIMT_UNROLL
    for (int r = 0; r < 2; ++r) sum[r] = differing[r] = 0.0f;
  }

  SIMT_FN void add_sums(Fragments& change, const Params& p, int step0) {
    for_each(change, [&](float& value, int r, int) { sum[r] += value; });
    if constexpr (!kOwnKeys) {
      if (p.relative.segment == nullptr) return;
      const auto segments = shared_memory<int32_t>(stage_offset(stage) + kVectors + kCols * 4);
      for_each(change, [&](float& value, int r, int c) {
        if (segments.load(step0 + col_of(c)) != rows.segment[r]) differing[r] += value;
      });
    }
  }

  // After the last tile of query head `of_head` for these keys: dk_j += u sum_i dS_ij, without the
  // scale. Columns col0 .. of the gradient; `writes`: this block also stores the sums.
  template <int kGradN>
  SIMT_FN void finish_keys(float (&grad_key)[1][kGradN][4], const Params& p, int of_head, int col0,
                           bool writes) {
    if (p.relative.content == nullptr) return;
    sum_lanes(sum);
    if (writes) {
      const int64_t matrix = static_cast<int64_t>(batch) * p.heads + of_head;
      store_sums(p.relative.key_change + matrix * p.key_len, sum, p.key_len);
    }
    add_outer(grad_key, sum, vector(p.relative.content_bias, of_head, 0), col0, p.head_dim);
    reset_sums();
  }

  // After the last tile: dq_i += g_0 (sum of dS_ij over its own segment) + g_1 (over others).
  template <int kGradN>
  SIMT_FN void finish_queries(float (&grad_query)[1][kGradN][4], const Params& p, int col0,
                              bool writes) {
    if (p.relative.segment == nullptr) return;
    sum_lanes(sum);
    sum_lanes(differing);
    SIMT_UNROLL
    for (int r = 0; r < 2; ++r) sum[r] -= differing[r];
    if (writes) {
      const int64_t matrix = (static_cast<int64_t>(batch) * p.heads + head) * p.query_len;
      const int64_t all = static_cast<int64_t>(p.batch) * p.heads * p.query_len;
      store_sums(p.relative.segment_change + matrix, sum, p.query_len);
      store_sums(p.relative.segment_change + all + matrix, differing, p.query_len);
    }
    add_outer(grad_query, sum, vector(p.relative.segment_key, head, 0), col0, p.head_dim);
    add_outer(grad_query, differing, vector(p.relative.segment_key, head, 1), col0, p.head_dim);
  }

 private:
  static SIMT_FN int warp_row0() { return warp_index() * 16; }
  static SIMT_FN int stage_offset(int of_stage) { return kOffset + of_stage * kStageBytes; }
  static SIMT_FN Shared<float> warp_matrix() {
    return shared_memory<float>(kMatrices + warp_index() * kMatrixBytes);
  }

  SIMT_FN void load_piece(const Params& p, int for_head, int first, int to_stage, int col0) const {
    const RelativeTerms& t = p.relative;
    const Band keys{shared_memory<T>(stage_offset(to_stage))};
    const Band values{shared_memory<T>(kValueBands + to_stage * Band::kBytes)};
    load_band<kThreads>(keys, p, t.key, batch, for_head, first, col0);
    if (t.value.data != nullptr) {
      load_band<kThreads>(values, p, t.value, batch, for_head, first, col0);
    }
    load_band_scores<kThreads, kBandRows>(p, batch, for_head, first,
                                          stage_offset(to_stage) + kBandScores);
  }

  // For kCols queries: the virtual rows of the block's first key, segments and segment terms.
  SIMT_FN void load_query_terms(const Params& p, int for_head, int query0, int offset) const {
    const RelativeTerms& t = p.relative;
    const auto starts = shared_memory<int32_t>(offset);
    SIMT_ROLL
    for (int i = thread_index(); i < kCols; i += kThreads) {
      starts.store(i, first_row(p, own0, start_of(p, position_of(p, batch, query0 + i)), kKeys));
    }
    if (t.segment == nullptr) return;
    const int queries = p.query_len - query0;
    load_vector<kThreads, kCols>(shared_memory<int32_t>(offset + kCols * 4),
                                 t.query_segment + batch * t.query_segment_batch + query0, queries,
                                 0);
    SIMT_UNROLL
    for (int differs = 0; differs < 2; ++differs) {
      load_vector<kThreads, kCols>(shared_memory<float>(offset + (2 + differs) * kCols * 4),
                                   segment_scores(p, differs, batch, for_head) + query0, queries,
                                   0.0f);
    }
  }

  SIMT_FN Interval rows_between(const Params& p, int key0, Interval starts) const {
    return {first_row(p, key0, starts.first, kKeys), first_row(p, key0, starts.last, kKeys)};
  }

  // The virtual rows of a tile.
  SIMT_FN Interval band_of(const Params& p, int first_other) const {
    const Interval starts =
        kOwnKeys ? rows_between(p, own0, starts_of(p, positions_of(p, batch, first_other, kCols)))
                 : rows_between(p, first_other, of_block);
    return {starts.first, starts.last + kKeys - 1};
  }

  // Those of the warp's rows in a step.
  SIMT_FN Interval band_of_warp(const Params& p, int step0) const {
    if constexpr (kOwnKeys) {
      return {band.first + warp_row0(), band.last - kKeys + 1 + warp_row0() + 15};
    } else {
      const Interval starts = rows_between(p, other0, of_warp);
      return {starts.first + step0, starts.last + step0 + kStep - 1};
    }
  }

  // The virtual row of a score.
  SIMT_FN int row_of_score(const Params& p, int step0, int r, int c) const {
    if constexpr (kOwnKeys) {
      const auto starts = shared_memory<int32_t>(stage_offset(stage) + kVectors);
      return starts.load(step0 + col_of(c)) + warp_row0() + row_of(r);
    } else {
      return first_row(p, other0, rows.start[r], kKeys) + step0 + col_of(c);
    }
  }

  // f(first row that is new, first row of the window, whether all that the warp's rows read lies in
  // it) for each window of the piece. A window does not reach beyond the piece.
  template <typename F>
  SIMT_FN void for_windows(const Params& p, int first, int step0, F&& f) const {
    const Interval mine = band_of_warp(p, step0);
    const int begin = mine.first > first ? (mine.first - first) / kBandChunk * kBandChunk : 0;
    const int end = mine.last - first + 1 < kBandRows ? mine.last - first + 1 : kBandRows;
    SIMT_ROLL
    for (int from = begin; from < end; from += kWindow) {
      const int window = from < kBandRows - kWindow ? from : kBandRows - kWindow;
      const bool covers = mine.first >= first + window && mine.last < first + window + kWindow;
      f(from, window, covers);
    }
  }

  // v.r_t to the products of a window.
  template <int kColumns>
  SIMT_FN void add_band_scores(float (&product)[1][kColumns][4], int window) const {
    const auto scores = shared_memory<float>(stage_offset(stage) + kBandScores).behind(window);
    for_each(product, [&](float& value, int r, int c) {
      value = scores.load(kOwnKeys ? row_of(r) : col_of(c));
    });
  }

  // Fragments to rows of the warp's matrix.
  template <int kColumns>
  static SIMT_FN void save(const float (&tile)[1][kColumns][4], Shared<float> matrix) {
    SIMT_UNROLL
    for (int r = 0; r < 2; ++r) {
      SIMT_UNROLL
      for (int n = 0; n < kColumns; ++n) {
        const Bytes8 pair{as_bits(tile[0][n][2 * r]), as_bits(tile[0][n][2 * r + 1])};
        matrix.template store_as<Bytes8>(row_of(r) * kPitch + col_of(2 * n), pair);
      }
    }
  }

  static SIMT_FN void clear_margins(Shared<float> matrix) {
    constexpr int kQuads = kMargin / 4, kCount = (kBandChunk + 1) * kQuads;
    SIMT_UNROLL
    for (int first = 0; first < kCount; first += kWarpSize) {
      const int quad = first + lane_index();
      if (quad >= kCount) continue;
      matrix.template store_as<Bytes16>(quad / kQuads * kPitch + quad % kQuads * 4,
                                        Bytes16{0, 0, 0, 0});
    }
  }

  // score_ij += the product of its row of the band, where is_here(row of the window).
  template <typename IsHere>
  SIMT_FN void pick(Fragments& score, const Params& p, int step0, int virtual_row,
                    IsHere is_here) const {
    const auto matrix = warp_matrix();
    for_each(score, [&](float& value, int r, int c) {
      const int row = row_of_score(p, step0, r, c) - virtual_row;
      if (!is_here(row)) return;
      value += matrix.load(kOwnKeys ? row * kPitch + col_of(c) : row_of(r) * kPitch + row);
    });
  }

  // The weight of each row of a window, where is_here(row of the window, column of the weights).
  template <typename IsHere>
  SIMT_FN void shift(float (&shifted)[1][kWindow / 8][4], const Params& p, int step0,
                     int virtual_row, IsHere is_here) const {
    const auto weights = warp_matrix().behind(kMargin);
    for_each(shifted, [&](float& value, int r, int c) {
      const int row = col_of(c);
      const int col = row + virtual_row - row_of_score(p, step0, r, 0) + col_of(0);
      value = is_here(row, col) ? weights.load(row_of(r) * kPitch + col) : 0.0f;
    });
  }

  static SIMT_FN const T* vector(const Rows& source, int of_head, int row) {
    return static_cast<const T*>(source.data) + of_head * source.head + row * source.row;
  }

  SIMT_FN void store_sums(float* target, const float (&x)[2], int length) const {
    SIMT_UNROLL
    for (int r = 0; r < 2; ++r) {
      const int row = own0 + warp_row0() + row_of(r);
      if (lane_index() % 4 == 0 && row < length) store_global(target + row, x[r]);
    }
  }
};

struct NoRelativeTile {};

template <typename T, int kWidth, typename Shape, bool kOwnKeys, int kOffset, bool kRelative>
struct RelativeTileSelect {
  using Type = NoRelativeTile;
};
template <typename T, int kWidth, typename Shape, bool kOwnKeys, int kOffset>
struct RelativeTileSelect<T, kWidth, Shape, kOwnKeys, kOffset, true> {
  using Type = RelativeTile<T, kWidth, Shape, kOwnKeys, kOffset>;
};

// A kernel's RelativeTile, or nothing where it has no relative positions.
template <typename T, int kWidth, typename Shape, bool kOwnKeys, int kOffset, bool kRelative>
using RelativeTileOf =
    typename RelativeTileSelect<T, kWidth, Shape, kOwnKeys, kOffset, kRelative>::Type;

}  // namespace ptmkernels::attention::cuda
