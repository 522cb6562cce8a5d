// Gradients of what is added to the scores: dbias is dS, summed over every dimension that the bias
// is broadcast along. All sums run in an order that the shape alone decides, without atomics.
#pragma once

#include "attention/cpu/score.h"

namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH {

// A panel of dS: (keys, kLanes) of which rows [first, last) are set, row stride `stride`; 0 in
// lanes beyond the last query.
struct GradPanel {
  const float* data;
  int64_t stride;
  int64_t first;
  int64_t last;

  PTMKERNELS_INLINE const float* row(int64_t key) const { return data + key * stride; }
};

// The gradient of a dense bias, float32. Tasks own columns of it, so they write it directly unless
// it has but one column; then each chunk of keys has a copy of its own, and `finish` sums the
// copies.
class DenseGradient {
 public:
  DenseGradient(const Sizes& size, const Scores& gradient, int64_t chunks,
                const CpuRuntime& runtime)
      : size_(size), gradient_(gradient), chunks_(chunks) {
    if (!active() || gradient.column != 0) return;
    elements_ = (gradient.batch ? size.batches : 1) * (gradient.head ? size.heads : 1) *
                (gradient.row ? size.queries : 1);
    copies_ = allocate<float>(runtime, elements_ * chunks);
    fill(copies_, elements_ * chunks, 0);
  }

  bool active() const { return gradient_.data != nullptr; }

  // `square` (kLanes, kKeyTile) is scratch.
  void add(const Tile& tile, int64_t chunk, const GradPanel& panel, float* square) const {
    const int64_t offset =
        tile.batch * gradient_.batch + tile.head * gradient_.head + tile.query * gradient_.row;
    float* const to = static_cast<float*>(gradient_.data) + offset;
    if (gradient_.column == 0) {
      add_column(tile, panel, copies_ + chunk * elements_ + offset);
    } else if (gradient_.row == 0) {
      for (int64_t j = panel.first; j < panel.last; ++j)
        to[(tile.key + j) * gradient_.column] += sum_lanes(panel.row(j));
    } else {
      const int64_t keys = panel.last - panel.first;
      transpose_panel(panel, square);
      for (int64_t lane = 0; lane < tile.queries; ++lane) {
        float* const row = to + lane * gradient_.row + (tile.key + panel.first) * gradient_.column;
        for (int64_t j = 0; j < keys; ++j) row[j * gradient_.column] += square[lane * kKeyTile + j];
      }
    }
  }

  void finish() const {
    if (!active() || gradient_.column != 0) return;
    for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
      float* const to = static_cast<float*>(gradient_.data);
      for (int64_t i = 0; i < elements_; ++i) to[i] += copies_[chunk * elements_ + i];
    }
  }

 private:
  static float sum_lanes(const float* row) { return sum(load(row) + load(row + kWidth)); }

  // Whole vectors of keys; beyond the panel's last row come zeros.
  static void transpose_panel(const GradPanel& panel, float* square) {
    const int64_t keys = panel.last - panel.first;
    const int64_t whole = keys / kWidth * kWidth;
    transpose(panel.row(panel.first), panel.stride, whole, kLanes, square, kKeyTile);
    for (int64_t j = whole; j < keys; ++j) {
      for (int64_t lane = 0; lane < kLanes; ++lane)
        square[lane * kKeyTile + j] = panel.row(panel.first + j)[lane];
    }
  }

  void add_column(const Tile& tile, const GradPanel& panel, float* to) const {
    Vec total[kVectors] = {};
    for (int64_t j = panel.first; j < panel.last; ++j) {
      for (int v = 0; v < kVectors; ++v) total[v] += load(panel.row(j) + v * kWidth);
    }
    float lanes[kLanes];
    for (int v = 0; v < kVectors; ++v) store(lanes + v * kWidth, total[v]);
    for (int64_t lane = 0; lane < tile.queries; ++lane) to[lane * gradient_.row] += lanes[lane];
  }

  const Sizes& size_;
  const Scores& gradient_;
  int64_t chunks_;
  int64_t elements_ = 0;
  float* copies_ = nullptr;  // (chunks, elements)
};

// The gradient of a bucketed bias: the sum of dS along each diagonal, then over the diagonals of
// each bucket.
//
// A row of dS adds to neighbouring diagonals, one step lower than the row before. Added in place,
// every addition would wait for the one before it (a load from two stores that it overlaps in
// part), so there are kWidth arrays, one for each row modulo kWidth, in which rows move by whole
// vectors.
class TableGradient {
 public:
  TableGradient(const BackwardParams& params, int64_t chunks, const CpuRuntime& runtime)
      : size_(params.size),
        options_(params.options),
        gradient_(params.grad_table),
        chunks_(chunks) {
    if (active())
      sums_ = allocate<double>(runtime, chunks * size_.batches * size_.heads * options_.table_rows);
  }

  bool active() const { return gradient_ != nullptr; }

  struct Diagonals {
    Diagonals(Scratch& scratch, const Sizes& size, int64_t block)
        : step(kKeyTile + block + 2 * kWidth),
          length(kKeyTile + size.queries + size.keys + block + 2 * kWidth),
          rows(scratch.take<float>(kWidth * step)),
          total(scratch.take<float>(length)) {}

    int64_t step;
    int64_t length;
    float* rows;   // (kWidth, step): of one tile
    float* total;  // (length): of a chunk, distance i - j + S - 1 at kKeyTile + i - j + S - 1
  };

  void start(const Diagonals& diagonals) const {
    fill(diagonals.rows, kWidth * diagonals.step, 0);
    fill(diagonals.total, diagonals.length, 0);
  }

  // `offset` is the panel's first query within its block.
  void add(const GradPanel& panel, int64_t offset, const Diagonals& diagonals) const {
    for (int64_t j = panel.first; j < panel.last; ++j) {
      const int64_t within = j % kWidth;
      float* const to = diagonals.rows + within * diagonals.step + kKeyTile + offset - (j - within);
      for (int v = 0; v < kVectors; ++v)
        store(to + v * kWidth, load(to + v * kWidth) + load(panel.row(j) + v * kWidth));
    }
  }

  // Moves the sums of a tile, whose first query is `query` and first key `key`, into the chunk's.
  void collect(int64_t query, int64_t key, const Diagonals& diagonals) const {
    float* const total = diagonals.total + query - key + size_.keys - 1;
    for (int64_t i = 0; i + 2 * kWidth <= diagonals.step; i += kWidth) {
      Vec sum = load(total + i);
      for (int row = 0; row < kWidth; ++row)
        sum += load(diagonals.rows + row * diagonals.step + i + row);
      store(total + i, sum);
    }
    fill(diagonals.rows, kWidth * diagonals.step, 0);
  }

  void finish_chunk(int64_t chunk, int64_t batch, int64_t head, const Diagonals& diagonals) const {
    double* const to =
        sums_ + ((chunk * size_.batches + batch) * size_.heads + head) * options_.table_rows;
    for (int64_t row = 0; row < options_.table_rows; ++row) to[row] = 0;
    const int64_t distances = size_.queries + size_.keys - 1;
    for (int64_t i = 0; i < distances; ++i)
      to[options_.bucket[distances - 1 - i]] += diagonals.total[kKeyTile + i];
  }

  void finish() const {
    if (!active()) return;
    const int64_t copies = chunks_ * size_.batches;
    for (int64_t head = 0; head < size_.heads; ++head) {
      for (int64_t row = 0; row < options_.table_rows; ++row) {
        double total = 0;
        for (int64_t copy = 0; copy < copies; ++copy)
          total += sums_[(copy * size_.heads + head) * options_.table_rows + row];
        gradient_[row * size_.heads + head] = static_cast<float>(total);
      }
    }
  }

 private:
  const Sizes& size_;
  const Options& options_;
  float* gradient_;
  int64_t chunks_;
  double* sums_ = nullptr;  // (chunks, B, H, N)
};

}  // namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH
