// What the relative and segment terms of a block of queries owe to its scores: dS and P ∘ Z by rows
// of the relative key and value, multiplied with these and with the queries (relative_gradient.h).
//
// Where the positions of the block's queries rise by at most one from each to the next, its panels
// add to a window and the rows of that are multiplied together; else each panel has a band of its
// own.
#pragma once

#include "attention/cpu/backward_block.h"

namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH {

class BlockTerms {
 public:
  BlockTerms(const Sizes& size, const RelativeTerms& terms, const RelativeGradient& gradient)
      : size_(size), terms_(terms), gradient_(gradient), width_(round_up(size.dimension, kWidth)) {}

  // Before the first tile of a block.
  void start(Block<float>& block, const BackwardScratch<float>& scratch) const {
    if (terms_.key) fill(scratch.grad_position, kBlockQueries * width_, 0);
    if (terms_.segments()) fill(scratch.grad_segment, 2 * kBlockQueries, 0);
    block.windows = terms_.rising(block.batch, block.query, block.query + block.queries);
    *scratch.key_window = {scratch.key_window_rows, {}, -1, 0};
    *scratch.value_window = {scratch.value_window_rows, {}, -1, 0};
  }

  // After dS and P ∘ Z of a panel.
  void add(const Block<float>& block, const Tile& tile, const StartTile& start, int64_t p,
           const BackwardScratch<float>& scratch) const {
    const int64_t at = p * kLanes + start.first * kTilePitch;
    const float* const grads = scratch.grad_scores + at;
    if (terms_.key) add_scores(key_side(block, scratch), block, tile, start, p, grads, scratch);
    if (gradient_.value.active()) {
      add_scores(value_side(block, scratch), block, tile, start, p, scratch.weights + at, scratch);
    }
    if (terms_.segments()) {
      terms_.sum_segments(tile, grads, kTilePitch, start.first, start.last,
                          scratch.grad_segment + p * 2 * kLanes);
    }
  }

  // After all panels of a tile.
  void finish_tile(const Block<float>& block, const BackwardScratch<float>& scratch) const {
    if (!block.windows) return;
    for_each_side(block, scratch, [&](const Side& side) {
      multiply_window(side, block, kKeyTile, scratch);
      side.window->advance();
    });
  }

  // After the last tile of a block.
  void finish(const Block<float>& block, const BackwardScratch<float>& scratch) const {
    if (!block.windows) return;
    for_each_side(block, scratch,
                  [&](const Side& side) { multiply_window(side, block, kBlockQueries, scratch); });
  }

 private:
  // The relative key with dS and q + v, or the relative value with P ∘ Z and dO.
  struct Side {
    BandWindow* window;
    const TableRowsGradient& gradient;
    float* sums;
    Rows<float> vectors;
    bool of_key;
  };

  Side key_side(const Block<float>& block, const BackwardScratch<float>& scratch) const {
    return {scratch.key_window, gradient_.key, scratch.grad_relative_key, block.position, true};
  }

  Side value_side(const Block<float>& block, const BackwardScratch<float>& scratch) const {
    return {scratch.value_window, gradient_.value, scratch.grad_relative_value, block.grad_units,
            false};
  }

  template <class Call>
  void for_each_side(const Block<float>& block, const BackwardScratch<float>& scratch,
                     const Call& call) const {
    if (terms_.key) call(key_side(block, scratch));
    if (gradient_.value.active()) call(value_side(block, scratch));
  }

  void add_scores(const Side& side, const Block<float>& block, const Tile& tile,
                  const StartTile& start, int64_t p, const float* scores,
                  const BackwardScratch<float>& scratch) const {
    if (!block.windows) {
      const BandShape shape = terms_.shape(tile, start.first, start.last);
      const Band band = terms_.collect(tile, shape, scores, kTilePitch, scratch.start.band);
      if (side.of_key) add_grad_position(block, band, p, scratch);
      add_grad_rows(side, block, band, p);
      return;
    }
    BandWindow& window = *side.window;
    const int64_t position = terms_.position(block.batch, block.query);
    if (window.key != tile.key) {  // the block's first tile, or not the next one
      if (window.key >= 0) multiply_window(side, block, kBlockQueries, scratch);
      window.open(tile.key, terms_.endless_row(tile.key, position));
    }
    const int64_t ahead = terms_.position(tile.batch, tile.query) - position;
    window.add(p, ahead, terms_.shifts(tile), scores, start.first, start.last);
  }

  void multiply_window(const Side& side, const Block<float>& block, int64_t count,
                       const BackwardScratch<float>& scratch) const {
    const BandWindow::Ready ready = side.window->ready(count, terms_.rows());
    for (int64_t p = 0; side.of_key && p < block.panels; ++p) {
      if (!ready.ranges.any(p)) continue;
      const Band band = ready.band(ready.ranges.first[p], ready.ranges.last[p], p, p + 1);
      add_grad_position(block, band, p, scratch);
    }
    for_each_run(ready.ranges, block.panels, ready.first, ready.last,
                 [&](int64_t row, int64_t end, int64_t first, int64_t last) {
                   for (int64_t p = first; p < last; ++p) side.window->complete(ready, p, row, end);
                   add_grad_rows(side, block, ready.band(row, end, first, last), first);
                 });
  }

  // The share of a band in the gradient of q + v of a panel.
  void add_grad_position(const Block<float>& block, const Band& band, int64_t p,
                         const BackwardScratch<float>& scratch) const {
    Product<float> product;
    product.start = product.c = scratch.grad_position + p * width_ * kLanes;
    product.a = terms_.key.row(block.batch, block.head, band.table_row);
    product.a_stride = terms_.key.stride;
    product.b = band.data;
    product.b_stride = band.stride;
    product.depth = band.rows;
    multiply<Start::kLoad, Layout::kColumnMajor>(product, 0, size_.dimension);
  }

  // The share of a band, whose queries begin with panel p, in the gradient of the table.
  void add_grad_rows(const Side& side, const Block<float>& block, const Band& band,
                     int64_t p) const {
    if (!side.gradient.active()) return;
    side.gradient.add(side.sums, block.batch, block.head, band, side.vectors.from(p * kLanes));
  }

  const Sizes& size_;
  const RelativeTerms& terms_;
  const RelativeGradient& gradient_;
  const int64_t width_;
};

}  // namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH
