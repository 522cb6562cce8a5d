// The terms of distances and of segments (params.h, Relative).
//
// A tile of keys against a panel of queries touches a band of rows of the relative key: row j -
// pos_i
// + offset for key j and query i. The products of the band and the panel come from the
// micro-kernel, row by row with a query in each lane; what key j needs lies on a diagonal, in lane
// l of row j - l. So the rows are delayed, each lane by its number, in log2(kWidth) steps in
// registers: the band turns into a start of scores at the cost of a copy. The backward delays the
// other way round. Where several queries stand at one position (XLNet's predicted rows lie behind
// their content rows), each lane is delayed by its distance from the first one's position.
//
// Where the positions of a panel fall, or rise by more than one, each lane reads its own rows
// instead.
#pragma once

#include "attention/cpu/mask.h"

namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH {

// Of one head: a tile of at most kKeyTile keys against a panel of kLanes queries.
struct Tile {
  int64_t batch;
  int64_t head;
  int64_t query;    // first
  int64_t queries;  // of which exist, <= kLanes
  int64_t key;      // first
  int64_t keys;
};

// Where the queries of a panel stand: how many positions behind the first. From lane to lane it is
// one more (successive), or one more or none (rising: XLNet's predicted rows behind their content
// rows).
struct PanelShifts {
  bool rising = true;
  bool successive = true;
  int64_t first[kVectors];  // of the first lane of each vector
  IntVec lane[kVectors];    // of each lane, from there; below kWidth
};

// Which rows each lane takes where they are delayed by S: before, if its delay has bit S. The delay
// of a lane is its number, with kReverse kWidth - 1 less that.
template <bool kReverse>
class NumberedLanes {
 public:
  NumberedLanes(const PanelShifts&, int) {}

  template <int S>
  PTMKERNELS_INLINE Vec take(Vec now, Vec before) const {
    return take_delayed<S>(now, before, typename MakeLanes<kWidth>::type());
  }

 private:
  template <int S, int... I>
  PTMKERNELS_INLINE static Vec take_delayed(Vec now, Vec before, Lanes<I...>) {
    return __builtin_shufflevector(now, before, (((I & S) != 0) != kReverse ? I + kWidth : I)...);
  }
};

// The same where the delay of a lane is its shift in vector v of a panel.
template <bool kReverse>
class ShiftedLanes {
 public:
  ShiftedLanes(const PanelShifts& shifts, int v) {
    const IntVec delay = kReverse ? splat(kWidth - 1) - shifts.lane[v] : shifts.lane[v];
    for (int step = 1, n = 0; step < kWidth; step *= 2, ++n)
      has_bit_[n] = (delay & splat(step)) != IntVec{};
  }

  template <int S>
  PTMKERNELS_INLINE Vec take(Vec now, Vec before) const {
    return select(has_bit_[__builtin_ctz(S)], before, now);
  }

 private:
  IntVec has_bit_[5];
};

// Rows pass through; each lane comes out so many rows later as its delay is.
template <class DelayedLanes>
class LaneDelay {
 public:
  explicit LaneDelay(const DelayedLanes& lanes) : lanes_(lanes) {}

  // kWidth rows, in place.
  PTMKERNELS_INLINE void pass(Vec* rows) { pass_from<kWidth / 2>(rows, history_); }

 private:
  // `history` holds the last S rows that reached this step, then those of the next.
  template <int S>
  PTMKERNELS_INLINE void pass_from(Vec* rows, Vec* history) {
    if constexpr (S > 0) {
      Vec next[S];
      PTMKERNELS_UNROLL
      for (int r = 0; r < S; ++r) next[r] = rows[kWidth - S + r];
      PTMKERNELS_UNROLL
      for (int r = kWidth - 1; r >= 0; --r)
        rows[r] = lanes_.template take<S>(rows[r], r >= S ? rows[r - S] : history[r]);
      PTMKERNELS_UNROLL
      for (int r = 0; r < S; ++r) history[r] = next[r];
      pass_from<S / 2>(rows, history + S);
    }
  }

  const DelayedLanes lanes_;
  Vec history_[kWidth] = {};
};

PTMKERNELS_INLINE void copy_row(const float* from, float* to) {
  for (int v = 0; v < kVectors; ++v) store(to + v * kWidth, load(from + v * kWidth));
}

PTMKERNELS_INLINE void add_row(const float* from, float* to) {
  for (int v = 0; v < kVectors; ++v)
    store(to + v * kWidth, load(to + v * kWidth) + load(from + v * kWidth));
}

// to[j] = from[j] + (lane l: band[j + kLanes - its shift]) for `keys` keys.
template <class DelayedLanes>
PTMKERNELS_NOINLINE void add_diagonals_of(const PanelShifts& shifts, const float* band,
                                          const float* from, int64_t stride, int64_t keys,
                                          float* to) {
  for (int v = 0; v < kVectors; ++v) {
    const float* row = band + (kLanes - shifts.first[v] - kWidth) * kLanes + v * kWidth;
    LaneDelay<DelayedLanes> delay(DelayedLanes(shifts, v));
    for (int64_t j = -kWidth; j < keys; j += kWidth, row += kWidth * kLanes) {
      Vec rows[kWidth];
      PTMKERNELS_UNROLL
      for (int r = 0; r < kWidth; ++r) rows[r] = load(row + r * kLanes);
      delay.pass(rows);
      const auto add = [&](int r) __attribute__((always_inline)) {
        const Vec sum = load(from + (j + r) * stride + v * kWidth) + rows[r];
        store(to + (j + r) * kLanes + v * kWidth, sum);
      };
      if (j >= 0 && j + kWidth <= keys) {
        PTMKERNELS_UNROLL
        for (int r = 0; r < kWidth; ++r) add(r);
      } else if (j >= 0) {  // rows beyond the last key were written by nobody
        PTMKERNELS_UNROLL
        for (int r = 0; r < kWidth; ++r) {
          if (j + r < keys) add(r);
        }
      }
    }
  }
}

inline void add_diagonals(const PanelShifts& shifts, const float* band, const float* from,
                          int64_t stride, int64_t keys, float* to) {
  const auto add = shifts.successive ? add_diagonals_of<NumberedLanes<false>>
                                     : add_diagonals_of<ShiftedLanes<false>>;
  add(shifts, band, from, stride, keys, to);
}

// The transpose of the same: band[j + kLanes - shift of lane l] = tile[j] in lane l, 0 where there
// is no such key; with kAdd the first kLanes rows are added to. Writes `keys`, rounded up to
// kWidth, + kLanes rows.
template <bool kAdd, class DelayedLanes>
PTMKERNELS_NOINLINE void spread_diagonals_of(const PanelShifts& shifts, const float* tile,
                                             int64_t stride, int64_t keys, float* band,
                                             int64_t pitch) {
  for (int v = 0; v < kVectors; ++v) {
    float* to = band + v * kWidth;
    LaneDelay<DelayedLanes> delay(DelayedLanes(shifts, v));
    const int64_t first = shifts.first[v] + kWidth - 1;
    for (int64_t j = first - kLanes; j < first + keys; j += kWidth) {
      const bool add = kAdd && j < first;
      Vec rows[kWidth];
      if (j >= 0 && j + kWidth <= keys) {
        PTMKERNELS_UNROLL
        for (int r = 0; r < kWidth; ++r) rows[r] = load(tile + (j + r) * stride + v * kWidth);
      } else {
        PTMKERNELS_UNROLL
        for (int r = 0; r < kWidth; ++r) {
          const bool exists = j + r >= 0 && j + r < keys;
          rows[r] = exists ? load(tile + (j + r) * stride + v * kWidth) : Vec{};
        }
      }
      delay.pass(rows);
      PTMKERNELS_UNROLL
      for (int r = 0; r < kWidth; ++r)
        store(to + r * pitch, add ? load(to + r * pitch) + rows[r] : rows[r]);
      to += kWidth * pitch;
    }
  }
}

template <bool kAdd>
void spread_diagonals(const PanelShifts& shifts, const float* tile, int64_t stride, int64_t keys,
                      float* band, int64_t pitch) {
  const auto spread = shifts.successive ? spread_diagonals_of<kAdd, NumberedLanes<true>>
                                        : spread_diagonals_of<kAdd, ShiftedLanes<true>>;
  spread(shifts, tile, stride, keys, band, pitch);
}

// Which rows of the relative key some keys and a panel meet, and how they lie in a band: (rows,
// kLanes), of which [first, last] are rows of the table, the others beyond its ends and taken from
// the nearest.
struct BandShape {
  PanelShifts shifts;
  int64_t key;
  int64_t keys;
  int64_t rows;
  int64_t first, last;
  int64_t table_row;  // of `first`

  int64_t used() const { return last - first + 1; }
};

// The last rows of a panel's band are the first of the band of the keys that follow.
struct BandCarry {
  float* rows;  // (kLanes, kLanes)
  int64_t key;  // that follows; -1: none
};

// Rows [table_row, table_row + rows) of a relative key, and their gradients or weights.
struct Band {
  const float* data;  // (rows, stride)
  int64_t stride;
  int64_t lanes;  // queries
  int64_t table_row;
  int64_t rows;
};

// A relative key or value in float32.
struct RelativeTable {
  const float* data = nullptr;
  int64_t batch = 0;
  int64_t head = 0;
  int64_t stride = 0;

  explicit operator bool() const { return data != nullptr; }
  const float* row(int64_t b, int64_t h, int64_t r) const {
    return data + b * batch + h * head + r * stride;
  }
};

class RelativeTerms {
 public:
  RelativeTerms(const Sizes& size, const Relative& relative, const CpuRuntime& runtime)
      : key(table_of(size, relative, relative.key, runtime)),
        value(table_of(size, relative, relative.value, runtime)),
        size_(size),
        relative_(relative),
        width_(round_up(size.dimension, kLanes)) {
    content_bias_ = vectors_of(relative.content_bias, 1, runtime);
    position_bias_ = vectors_of(relative.position_bias, 1, runtime);
    segment_bias_ = vectors_of(relative.segment_bias, 1, runtime);
    segment_key_ = vectors_of(relative.segment_key, 2, runtime);
  }

  bool segments() const { return segment_key_ != nullptr; }
  bool active() const { return key || value || segments() || content_bias_; }

  // Of a head: zeros beyond the head dimension up to whole panels; null where there is none.
  const float* content_bias(int64_t head) const { return vector_of(content_bias_, head); }
  const float* position_bias(int64_t head) const { return vector_of(position_bias_, head); }
  const float* segment_bias(int64_t head) const { return vector_of(segment_bias_, head); }
  const float* segment_key(bool differ, int64_t head) const {
    return vector_of(segment_key_, (differ ? size_.heads : 0) + head);
  }

  // Rows of the largest band.
  int64_t band_rows() const {
    if (!key && !value) return 0;
    const int64_t rows = kKeyTile + kLanes;
    return relative_.query_position.data ? larger(rows, relative_.rows) : rows;
  }

  int64_t position(int64_t batch, int64_t query) const {
    const Integers& given = relative_.query_position;
    return given.data ? given.data[batch * given.batch + query] : query;
  }

  // Does each of the queries [first, last) stand where the one before it does, or one further?
  bool rising(int64_t batch, int64_t first, int64_t last) const {
    for (int64_t query = first + 1; query < last && relative_.query_position.data; ++query) {
      const int64_t step = int64_t{position(batch, query)} - position(batch, query - 1);
      if (step < 0 || step > 1) return false;
    }
    return true;
  }

  // Of the panel of a tile; lanes beyond its last query go on, one position each.
  PanelShifts shifts(const Tile& tile) const {
    PanelShifts result;
    for (int v = 0; v < kVectors; ++v) result.first[v] = v * kWidth;
    if (relative_.query_position.data) find_shifts(tile, &result);
    return result;
  }

  // The row of the table for a key and a query's position, were the table without ends.
  int64_t endless_row(int64_t key, int64_t position) const {
    return key - position + relative_.offset;
  }
  int64_t rows() const { return relative_.rows; }

  // The row of the table for a key and a query's position.
  int64_t row(int64_t key, int64_t position) const { return clamp(endless_row(key, position)); }

  // Of keys [first, last) of the tile.
  BandShape shape(const Tile& tile, int64_t first, int64_t last) const {
    BandShape shape = {shifts(tile), tile.key + first, last - first, 0, 0, 0, 0};
    const int64_t start = position(tile.batch, tile.query);
    if (shape.shifts.rising) {
      const int64_t row = shape.key - start - kLanes + relative_.offset;
      shape.rows = shape.keys + kLanes;
      shape.first = smaller(larger(-row, 0), shape.rows - 1);
      shape.last = larger(smaller(relative_.rows - 1 - row, shape.rows - 1), 0);
      shape.table_row = clamp(row + shape.first);
    } else {
      int64_t least = start, most = start;
      for (int64_t lane = 1; lane < tile.queries; ++lane) {
        const int64_t p = position(tile.batch, tile.query + lane);
        least = smaller(least, p);
        most = larger(most, p);
      }
      shape.table_row = row(shape.key, most);
      shape.last = row(shape.key + shape.keys - 1, least) - shape.table_row;
      shape.rows = shape.last + 1;
    }
    return shape;
  }

  // The products of the band with `panel` (D, kLanes) -> band (rows, kLanes).
  void multiply_band(const RelativeTable& table, const Tile& tile, const BandShape& shape,
                     const float* panel, BandCarry* carry, float* band) const {
    const int64_t known =
        carry && shape.shifts.rising && carry->key == shape.key ? static_cast<int64_t>(kLanes) : 0;
    for (int64_t i = 0; i < known; ++i) copy_row(carry->rows + i * kLanes, band + i * kLanes);
    const int64_t first = larger(shape.first, known);
    Product<float> product;
    product.c = band + first * kLanes;
    product.a = table.row(tile.batch, tile.head, shape.table_row + first - shape.first);
    product.a_stride = table.stride;
    product.b = panel;
    product.depth = size_.dimension;
    multiply<Start::kZero, Layout::kRowMajor>(product, 0, shape.last + 1 - first);
    for (int64_t i = known; i < first; ++i) copy_row(band + first * kLanes, band + i * kLanes);
    const int64_t last = larger(shape.last, known - 1);
    for (int64_t i = last + 1; i < shape.rows; ++i)
      copy_row(band + last * kLanes, band + i * kLanes);
    if (!carry || !shape.shifts.rising) return;
    for (int64_t i = 0; i < kLanes; ++i)
      copy_row(band + (shape.keys + i) * kLanes, carry->rows + i * kLanes);
    carry->key = shape.key + shape.keys;
  }

  // to[j] = from[j] + the band's row for key j and each lane, `keys` rows of kLanes.
  void add_band(const Tile& tile, const BandShape& shape, const float* band, const float* from,
                int64_t stride, float* to) const {
    if (shape.shifts.rising) return add_diagonals(shape.shifts, band, from, stride, shape.keys, to);
    IntVec shift[kVectors];
    lane_shifts(tile, shape, shift);
    for (int64_t j = 0; j < shape.keys; ++j) {
      for (int v = 0; v < kVectors; ++v) {
        const IntVec index = band_index(shift[v] + static_cast<int32_t>(j), v, shape);
        const Vec sum = load(from + j * stride + v * kWidth) + gather(band, index);
        store(to + j * kLanes + v * kWidth, sum);
      }
    }
  }

  // The transpose: each of `keys` rows of `scores` (stride `stride`) is added to the band, lane by
  // lane.
  Band collect(const Tile& tile, const BandShape& shape, const float* scores, int64_t stride,
               float* band) const {
    if (shape.shifts.rising) {
      spread_diagonals<false>(shape.shifts, scores, stride, shape.keys, band, kLanes);
      for (int64_t i = 0; i < shape.first; ++i)
        add_row(band + i * kLanes, band + shape.first * kLanes);
      for (int64_t i = shape.last + 1; i < shape.rows; ++i)
        add_row(band + i * kLanes, band + shape.last * kLanes);
    } else {
      fill(band, shape.rows * kLanes, 0);
      for (int64_t lane = 0; lane < tile.queries; ++lane) {
        const int64_t at = position(tile.batch, tile.query + lane);
        for (int64_t j = 0; j < shape.keys; ++j)
          band[(row(shape.key + j, at) - shape.table_row) * kLanes + lane] +=
              scores[j * stride + lane];
      }
    }
    return {band + shape.first * kLanes, kLanes, kLanes, shape.table_row, shape.used()};
  }

  // -1 in the lanes whose segment is not that of a key.
  struct PanelSegments {
    IntVec segment[kVectors];
    const int32_t* keys;  // of the tile

    PTMKERNELS_INLINE IntVec differ(int v, int64_t j) const { return segment[v] != keys[j]; }

    // The end of the run of keys of one segment that begins with `first`.
    int64_t run_end(int64_t first, int64_t last) const {
      IntVec others = {};
      int64_t end = first;
      for (; end + kWidth <= last; end += kWidth)
        others |= load_as<IntVec>(keys + end) != keys[first];
      int32_t any = 0;
      for (int lane = 0; lane < kWidth; ++lane) any |= others[lane];
      if (any) end = first + 1;
      while (end < last && keys[end] == keys[first]) ++end;
      return end;
    }
  };

  PanelSegments segments_of(const Tile& tile) const {
    const Integers& queries = relative_.query_segment;
    int32_t lanes[kLanes];
    for (int64_t lane = 0; lane < kLanes; ++lane)
      lanes[lane] =
          queries.data[tile.batch * queries.batch + tile.query + smaller(lane, tile.queries - 1)];
    PanelSegments panel;
    for (int v = 0; v < kVectors; ++v) panel.segment[v] = load_as<IntVec>(lanes + v * kWidth);
    panel.keys = key_segments(tile.batch) + tile.key;
    return panel;
  }

  // sums (2, kLanes) += the rows [first, last) of `scores`, whose first it points to, of the keys
  // of the same segment and of another.
  void sum_segments(const Tile& tile, const float* scores, int64_t stride, int64_t first,
                    int64_t last, float* sums) const {
    const PanelSegments panel = segments_of(tile);
    for (int64_t run = first, end; run < last; run = end) {
      end = panel.run_end(run, last);
      Vec total[kVectors];
      sum_rows(scores + (run - first) * stride, stride, end - run, total);
      for (int v = 0; v < kVectors; ++v) {
        const IntVec differ = panel.differ(v, run);
        float* const same = sums + v * kWidth;
        float* const other = same + kLanes;
        store(same, load(same) + select(differ, Vec{}, total[v]));
        store(other, load(other) + select(differ, total[v], Vec{}));
      }
    }
  }

  int32_t query_segment(int64_t batch, int64_t query) const {
    return relative_.query_segment.data[batch * relative_.query_segment.batch + query];
  }
  const int32_t* key_segments(int64_t batch) const {
    return relative_.key_segment.data + batch * relative_.key_segment.batch;
  }

  // scale · (q + w)·g of a panel of queries, rows (kLanes, stride) -> to (2, kLanes): for the same
  // segment, for another.
  void segment_scores(int64_t head, const Rows<float>& rows, float scale, float* to) const {
    for (int differ = 0; differ < 2; ++differ) {
      const float* const g = segment_key(differ, head);
      const float* const w = segment_bias(head);
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        Vec total = {};
        for (int64_t d = 0; d < size_.dimension; d += kWidth) {
          const Vec shift = w ? load(w + d) : Vec{};
          total += (load(rows.row(lane) + d) + shift) * load(g + d);
        }
        to[differ * kLanes + lane] = scale * sum(total);
      }
    }
  }

  const RelativeTable key;
  const RelativeTable value;

 private:
  int64_t clamp(int64_t row) const { return smaller(larger(row, 0), relative_.rows - 1); }

  void find_shifts(const Tile& tile, PanelShifts* shifts) const {
    int32_t lanes[kLanes] = {};
    for (int64_t lane = 1; lane < kLanes; ++lane) {
      int64_t step = 1;
      if (lane < tile.queries) {
        const int64_t query = tile.query + lane;
        step = position(tile.batch, query) - position(tile.batch, query - 1);
      }
      shifts->rising &= step == 0 || step == 1;
      shifts->successive &= step == 1;
      lanes[lane] = lanes[lane - 1] + (step == 1);
    }
    for (int v = 0; v < kVectors; ++v) {
      shifts->first[v] = lanes[v * kWidth];
      shifts->lane[v] = load_as<IntVec>(lanes + v * kWidth) - splat(lanes[v * kWidth]);
    }
  }

  const float* vector_of(const float* vectors, int64_t index) const {
    return vectors ? vectors + index * width_ : nullptr;
  }

  // The sum of rows of kLanes, in two chains for each vector.
  static void sum_rows(const float* rows, int64_t stride, int64_t count, Vec* total) {
    Vec even[kVectors] = {}, odd[kVectors] = {};
    for (int64_t i = 0; i + 1 < count; i += 2, rows += 2 * stride) {
      for (int v = 0; v < kVectors; ++v) {
        even[v] += load(rows + v * kWidth);
        odd[v] += load(rows + stride + v * kWidth);
      }
    }
    for (int v = 0; v < kVectors; ++v)
      total[v] = even[v] + odd[v] + (count % 2 ? load(rows + v * kWidth) : Vec{});
  }

  // key - position + offset of each lane for the first key; lanes beyond the last query repeat it.
  void lane_shifts(const Tile& tile, const BandShape& shape, IntVec* shift) const {
    int32_t lanes[kLanes];
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const int64_t query = tile.query + smaller(lane, tile.queries - 1);
      lanes[lane] =
          static_cast<int32_t>(shape.key - position(tile.batch, query) + relative_.offset);
    }
    for (int v = 0; v < kVectors; ++v) shift[v] = load_as<IntVec>(lanes + v * kWidth);
  }

  PTMKERNELS_INLINE IntVec band_index(IntVec row, int v, const BandShape& shape) const {
    const IntVec least = splat(static_cast<int32_t>(shape.table_row));
    const IntVec most = splat(static_cast<int32_t>(shape.table_row + shape.last));
    row = row < least ? least : row;
    row = row > most ? most : row;
    IntVec lane;
    for (int l = 0; l < kWidth; ++l) lane[l] = v * kWidth + l;
    return (row - least) * kLanes + lane;
  }

  // In place where the micro-kernels and `decode` can read it so, else a copy.
  static RelativeTable table_of(const Sizes& size, const Relative& relative, const Heads& heads,
                                const CpuRuntime& runtime) {
    if (!heads.data) return {};
    if (heads.dtype == DType::kFloat32 && is_compact(heads, size.dimension) &&
        size.dimension % kWidth == 0) {
      return {static_cast<const float*>(heads.data), heads.batch, heads.head, heads.row};
    }
    const int64_t pitch = pitch_of(size.dimension);
    const int64_t count = heads.head ? size.heads : 1;
    const int64_t batches = heads.batch ? size.batches : 1;
    float* const copy = allocate<float>(runtime, batches * count * relative.rows * pitch);
    const int64_t head = relative.rows * pitch;
    parallel(runtime, batches * relative.rows, 0, [&](int64_t index, char*) {
      const int64_t batch = index / relative.rows, row = index % relative.rows;
      for (int64_t h = 0; h < count; ++h) {  // as the rows of all heads follow each other in memory
        pack_rows(heads, batch, h, row, 1, size.dimension, pitch,
                  copy + (batch * count + h) * head + row * pitch);
      }
    });
    return {copy, heads.batch ? count * head : 0, heads.head ? head : 0, pitch};
  }

  // (rows, H, D) -> float32 (rows · H, width), zeros beyond the head dimension.
  const float* vectors_of(const Heads& vectors, int64_t rows, const CpuRuntime& runtime) const {
    if (!vectors.data) return nullptr;
    float* const copy = allocate<float>(runtime, rows * size_.heads * width_);
    fill(copy, rows * size_.heads * width_, 0);
    for (int64_t i = 0; i < rows * size_.heads; ++i)
      read_row(vectors.dtype, row_of(vectors, 0, i % size_.heads, i / size_.heads), size_.dimension,
               1, copy + i * width_);
    return copy;
  }

  const Sizes& size_;
  const Relative& relative_;
  const int64_t width_;
  const float* content_bias_;
  const float* position_bias_;
  const float* segment_bias_;
  const float* segment_key_;
};

// rows + bias, (count, stride) -> copy (count, pitch), whole panels of columns; `rows` themselves
// without a bias.
inline Rows<float> shifted_rows(const Rows<float>& rows, const float* bias, int64_t count,
                                int64_t columns, int64_t pitch, float* copy) {
  if (!bias) return rows;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t d = 0; d < columns; d += kWidth)
      store(copy + i * pitch + d, load(rows.row(i) + d) + load(bias + d));
  }
  return {copy, pitch};
}

}  // namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH
