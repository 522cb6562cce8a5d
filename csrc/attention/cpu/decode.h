// Forward for very few queries, as in generation with a cache: the time is that of reading the keys
// and values once. Here the head dimension lies in the lanes, so no lane is spent on a query that
// does not exist; a task is one key head and a split of its keys, and serves all query heads that
// share it.
#pragma once

#include "attention/cpu/key_split.h"
#include "attention/cpu/softmax.h"

namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH {

// With more, one lane for each query is the faster form.
constexpr int64_t kDecodeQueries = 8;

// Rows of whole vectors in memory, of any element type.
template <class T>
struct ElementRows {
  const T* data;
  int64_t stride;

  PTMKERNELS_INLINE const T* row(int64_t index) const { return data + index * stride; }
};

// scores[j] = query · keys_j, for `count` keys; writes whole vectors.
template <class T>
PTMKERNELS_NOINLINE void dot_rows(const float* query, const ElementRows<T>& keys, int64_t count,
                                  int64_t width, float* scores) {
  for (int64_t j = 0; j < count; j += kWidth) {
    const T* rows[kWidth];
    Vec sums[kWidth] = {};
    PTMKERNELS_UNROLL
    for (int64_t r = 0; r < kWidth; ++r) rows[r] = keys.row(smaller(j + r, count - 1));
    for (int64_t d = 0; d < width; d += kWidth) {
      const Vec q = load(query + d);
      PTMKERNELS_UNROLL
      for (int r = 0; r < kWidth; ++r) sums[r] += q * load_elements(rows[r] + d);
    }
    transpose_from<kWidth / 2>(sums);
    Vec total = sums[0];
    PTMKERNELS_UNROLL
    for (int r = 1; r < kWidth; ++r) total += sums[r];
    store(scores + j, total);
  }
}

// N vectors of output, from dimension `d` on: output = factor · output + sum_j weights_j · values_j
template <int N, class T>
PTMKERNELS_NOINLINE void add_vectors(const float* weights, const ElementRows<T>& values,
                                     int64_t count, int64_t d, float factor, float* output) {
  Vec sums[N];
  PTMKERNELS_UNROLL
  for (int v = 0; v < N; ++v) sums[v] = load(output + d + v * kWidth) * factor;
  const T* row = values.data + d;
  for (int64_t j = 0; j < count; ++j, row += values.stride) {
    const Vec w = splat(weights[j]);
    PTMKERNELS_UNROLL
    for (int v = 0; v < N; ++v) sums[v] += w * load_elements(row + v * kWidth);
  }
  PTMKERNELS_UNROLL
  for (int v = 0; v < N; ++v) store(output + d + v * kWidth, sums[v]);
}

// output = factor · output + sum_j weights_j · values_j
template <class T>
void add_values(const float* weights, const ElementRows<T>& values, int64_t count, int64_t width,
                float factor, float* output) {
  int64_t d = 0;
  for (; d + 8 * kWidth <= width; d += 8 * kWidth)
    add_vectors<8>(weights, values, count, d, factor, output);
  for (; d + 2 * kWidth <= width; d += 2 * kWidth)
    add_vectors<2>(weights, values, count, d, factor, output);
  for (; d < width; d += kWidth) add_vectors<1>(weights, values, count, d, factor, output);
}

// Adds the mask and the biases to the scores of one query; keys [0, keys) of the tile.
inline void add_start(const ScoreOptions& options, const Tile& tile, Visible visible, float* row,
                      float* scores) {
  const Mask& mask = options.mask;
  if (options.bias.data || mask.allowed.data) {
    const Scores bias = at_head(options.bias, tile.batch, tile.head),
                 allowed = at_head(mask.allowed, tile.batch, tile.head);
    dense_row(bias, allowed, tile.query, tile.key, tile.keys, row);
    for (int64_t j = 0; j < tile.keys; ++j)
      scores[j] = row[j] == -kInfinity ? -kInfinity : scores[j] + row[j];
  }
  if (const float* const diagonal = options.diagonal_of(tile.head)) {
    const float* const distance = diagonal + tile.query - tile.key + options.size.keys - 1;
    for (int64_t j = 0; j < tile.keys; ++j) scores[j] += distance[-j];
  }
  if (visible == Visible::kAll) return;
  if (mask.rank) {
    const int32_t* const ranks = mask.rank + tile.batch * mask.rank_batch + tile.key;
    const int32_t low = mask.low[tile.batch * mask.low_batch + tile.query];
    const int32_t high = mask.high[tile.batch * mask.high_batch + tile.query];
    for (int64_t j = 0; j < tile.keys; ++j)
      scores[j] = low <= ranks[j] && ranks[j] <= high ? scores[j] : -kInfinity;
  }
  if (mask.tree) {
    const int32_t* const tree = mask.tree + tile.batch * mask.tree_batch;
    const int64_t tokens = options.size.keys;
    const Branch query = branch_of(tree, tokens, tile.query + tokens - options.size.queries);
    for (int64_t j = 0; j < tile.keys; ++j) {
      const Branch key = branch_of(tree, tokens, tile.key + j);
      const bool see =
          (query.trunk && key.trunk) || (query.low <= key.high && key.low <= query.high);
      if (!see) scores[j] = -kInfinity;
    }
  }
}

// scores[j] += of the row of key j among `rows` (see BandShape), for one query.
inline void add_by_row(const RelativeTerms& relative, const Tile& tile, int64_t position,
                       const float* rows, float* scores) {
  const int64_t first = relative.row(tile.key, position);
  for (int64_t j = 0; j < tile.keys; ++j)
    scores[j] += rows[relative.row(tile.key + j, position) - first];
}

// The transpose: weights summed by row. Returns the number of rows.
inline int64_t sum_by_row(const RelativeTerms& relative, const Tile& tile, int64_t position,
                          const float* weights, float* rows) {
  const int64_t first = relative.row(tile.key, position);
  const int64_t count = relative.row(tile.key + tile.keys - 1, position) - first + 1;
  fill(rows, count, 0);
  for (int64_t j = 0; j < tile.keys; ++j)
    rows[relative.row(tile.key + j, position) - first] += weights[j];
  return count;
}

struct DecodeScratch {
  DecodeScratch(Scratch& scratch, int64_t rows, int64_t pitch, int64_t width) {
    query = scratch.take<float>(rows * width);
    position = scratch.take<float>(rows * width);
    segment = scratch.take<float>(rows * 2);
    output = scratch.take<float>(rows * width);
    reference = scratch.take<float>(rows);
    sum = scratch.take<float>(rows);
    key = scratch.take<float>(kKeyTile * pitch);
    value = scratch.take<float>(kKeyTile * pitch);
    scores = scratch.take<float>(kKeyTile);
    dense = scratch.take<float>(kKeyTile);
  }

  float* query;      // (rows, width): scale · (q + u)
  float* position;   // (rows, width): scale · (q + v)
  float* segment;    // (rows, 2): scale · (q + w)·g for the same segment and for another
  float* output;     // (rows, width)
  float* reference;  // (rows): what is subtracted from the scores
  float* sum;        // (rows)
  float* key;        // (kKeyTile, pitch)
  float* value;      // (kKeyTile, pitch)
  float* scores;     // (kKeyTile)
  float* dense;      // (kKeyTile)
};

class Decode {
 public:
  Decode(const ForwardParams& params, const CpuRuntime& runtime)
      : params_(params),
        size_(params.size),
        runtime_(runtime),
        options_(params.size, params.options, runtime),
        dropout_(params.options),
        split_(params, size_.batches * size_.key_heads, runtime),
        pitch_(pitch_of(size_.dimension)),
        width_(round_up(size_.dimension, kWidth)),
        heads_per_key_(size_.heads / size_.key_heads) {}

  void run() const {
    Scratch measure(nullptr);
    DecodeScratch(measure, rows(), pitch_, width_);
    const int64_t tasks = size_.batches * size_.key_heads * split_.count();
    parallel(runtime_, tasks, measure.used(), [&](int64_t index, char* block) {
      Scratch scratch(block);
      const int64_t head = index / split_.count();
      run_split(head / size_.key_heads, head % size_.key_heads, index % split_.count(),
                DecodeScratch(scratch, rows(), pitch_, width_));
    });
    split_.join(runtime_);
  }

 private:
  // The rows of a task: every query of every head that shares the keys.
  int64_t rows() const { return heads_per_key_ * size_.queries; }

  void run_split(int64_t batch, int64_t key_head, int64_t split,
                 const DecodeScratch& scratch) const {
    for (int64_t row = 0; row < rows(); ++row) {
      const int64_t head = key_head * heads_per_key_ + row / size_.queries;
      load_query(batch, head, row % size_.queries, row, scratch);
    }
    fill(scratch.output, rows() * width_, 0);
    fill(scratch.reference, rows(), -kInfinity);
    fill(scratch.sum, rows(), 0);
    for (int64_t index = split_.first_tile(split); index < split_.last_tile(split); ++index)
      run_tile(batch, key_head, index, scratch);
    for (int64_t row = 0; row < rows(); ++row) {
      split_.write(split, batch, key_head * heads_per_key_ + row / size_.queries,
                   row % size_.queries, scratch.output + row * width_, scratch.sum[row],
                   scratch.reference[row]);
    }
  }

  void load_query(int64_t batch, int64_t head, int64_t index, int64_t row,
                  const DecodeScratch& scratch) const {
    const RelativeTerms& relative = options_.relative;
    float* const query = scratch.query + row * width_;
    float* const position = scratch.position + row * width_;
    read_row(params_.query.dtype, row_of(params_.query, batch, head, index), size_.dimension, 1,
             query);
    const float scale = params_.options.scale * unit();
    const auto shift = [&](const float* bias, float* to) {
      for (int64_t d = 0; d < width_; d += kWidth) {
        const Vec x = load(query + d);
        store(to + d, scale * (bias ? x + load(bias + d) : x));
      }
    };
    for (int differ = 0; relative.segments() && differ < 2; ++differ) {
      shift(relative.segment_bias(head), position);
      Vec total = {};
      for (int64_t d = 0; d < width_; d += kWidth)
        total += load(position + d) * load(relative.segment_key(differ, head) + d);
      scratch.segment[row * 2 + differ] = sum(total);
    }
    if (relative.key) shift(relative.position_bias(head), position);
    shift(relative.content_bias(head), query);
  }

  void run_tile(int64_t batch, int64_t key_head, int64_t index,
                const DecodeScratch& scratch) const {
    const QueryBounds bounds = options_.bounds.queries(batch, 0, options_.bounds.panels());
    const Visible visible = options_.bounds.visible(bounds, batch, index);
    if (visible == Visible::kNone) return;
    const int64_t key = index * kKeyTile;
    Tile tile = {batch, 0, 0, 1, key, smaller(kKeyTile, size_.keys - key)};
    if (width_ != size_.dimension) {
      pack_rows(params_.key, batch, key_head, key, tile.keys, size_.dimension, pitch_, scratch.key);
      pack_rows(params_.value, batch, key_head, key, tile.keys, size_.dimension, pitch_,
                scratch.value);
      const ElementRows<float> keys = {scratch.key, pitch_}, values = {scratch.value, pitch_};
      return attend(tile, visible, key_head, keys, values, scratch);
    }
    switch (params_.key.dtype) {
      case DType::kBFloat16:
        return attend(tile, visible, key_head, rows_of<BFloat16>(params_.key, tile, key_head),
                      rows_of<BFloat16>(params_.value, tile, key_head), scratch);
      case DType::kFloat16:
        return attend(tile, visible, key_head, rows_of<Float16>(params_.key, tile, key_head),
                      rows_of<Float16>(params_.value, tile, key_head), scratch);
      default:
        return attend(tile, visible, key_head, rows_of<float>(params_.key, tile, key_head),
                      rows_of<float>(params_.value, tile, key_head), scratch);
    }
  }

  template <class T>
  static ElementRows<T> rows_of(const Heads& heads, const Tile& tile, int64_t key_head) {
    return {reinterpret_cast<const T*>(row_of(heads, tile.batch, key_head, tile.key)), heads.row};
  }

  template <class T>
  void attend(Tile tile, Visible visible, int64_t key_head, const ElementRows<T>& keys,
              const ElementRows<T>& values, const DecodeScratch& scratch) const {
    for (int64_t row = 0; row < rows(); ++row) {
      tile.head = key_head * heads_per_key_ + row / size_.queries;
      tile.query = row % size_.queries;
      dot_rows(scratch.query + row * width_, keys, tile.keys, width_, scratch.scores);
      add_relative(tile, row, scratch);
      add_start(options_, tile, visible, scratch.dense, scratch.scores);
      const float factor = weigh(tile, row, scratch);
      float* const output = scratch.output + row * width_;
      add_values(scratch.scores, values, tile.keys, width_, factor, output);
      if (options_.relative.value) add_relative_values(tile, scratch, output);
    }
  }

  void add_relative(const Tile& tile, int64_t row, const DecodeScratch& scratch) const {
    const RelativeTerms& relative = options_.relative;
    if (relative.key) {
      const int64_t position = relative.position(tile.batch, tile.query);
      const int64_t first = relative.row(tile.key, position);
      const int64_t last = relative.row(tile.key + tile.keys - 1, position);
      const ElementRows<float> rows = {relative.key.row(tile.batch, tile.head, first),
                                       relative.key.stride};
      dot_rows(scratch.position + row * width_, rows, last - first + 1, width_, scratch.dense);
      add_by_row(relative, tile, position, scratch.dense, scratch.scores);
    }
    if (relative.segments()) {
      const int32_t query = relative.query_segment(tile.batch, tile.query);
      const int32_t* const keys = relative.key_segments(tile.batch) + tile.key;
      for (int64_t j = 0; j < tile.keys; ++j)
        scratch.scores[j] += scratch.segment[row * 2 + (keys[j] != query)];
    }
  }

  void add_relative_values(const Tile& tile, const DecodeScratch& scratch, float* output) const {
    const RelativeTerms& relative = options_.relative;
    const int64_t position = relative.position(tile.batch, tile.query);
    const int64_t count = sum_by_row(relative, tile, position, scratch.scores, scratch.dense);
    const ElementRows<float> rows = {
        relative.value.row(tile.batch, tile.head, relative.row(tile.key, position)),
        relative.value.stride};
    add_values(scratch.dense, rows, count, width_, 1, output);
  }

  // Scores to weights, one step of the running softmax; returns the factor of the earlier output.
  float weigh(const Tile& tile, int64_t row, const DecodeScratch& scratch) const {
    float* const scores = scratch.scores;
    const int64_t whole = round_up(tile.keys, kWidth);
    fill(scores + tile.keys, whole - tile.keys, -kInfinity);
    Vec tops = splat(-kInfinity);
    for (int64_t j = 0; j < whole; j += kWidth) tops = max(load(scores + j), tops);
    float top = scratch.reference[row];
    for (int lane = 0; lane < kWidth; ++lane) top = tops[lane] > top ? tops[lane] : top;
    const float reference = top == -kInfinity ? 0 : top;
    const float exponent = kLog2e / unit();
    const float factor = __builtin_exp2f((scratch.reference[row] - reference) * exponent);
    Vec total = {};
    for (int64_t j = 0; j < whole; j += kWidth) {
      const Vec weight = exp2((load(scores + j) - reference) * exponent);
      store(scores + j, weight);
      total += weight;
    }
    scratch.reference[row] = top;
    scratch.sum[row] = scratch.sum[row] * factor + sum(total);
    for (int64_t j = 0; dropout_.active && j < tile.keys; ++j)
      scores[j] *= dropout_.factor(tile.batch, tile.head, tile.query, tile.key + j);
    return factor;
  }

  // Of the scores: natural ones where a bias is added to them.
  float unit() const { return split_.natural() ? 1 : kLog2e; }

  const ForwardParams& params_;
  const Sizes& size_;
  const CpuRuntime& runtime_;
  const ScoreOptions options_;
  const Dropout dropout_;
  const KeySplit split_;
  const int64_t pitch_;
  const int64_t width_;
  const int64_t heads_per_key_;
};

}  // namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH
