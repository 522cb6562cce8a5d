// Backward of masked attention, from the log-sum-exp of the forward. With P_ij = exp(s_ij - lse_i),
// Z the dropout factors and ∘ the product by elements:
//
//     dP = dO·Vᵀ    δ_i = dO_i·O_i - dlse_i    dS = P ∘ (Z ∘ dP - δ)
//     dV = (P ∘ Z)ᵀ·dO    dQ = scale · dS·K    dK = scale · dSᵀ·Q    dbias = dS
//
// T. Dao, "FlashAttention-2", 2023, algorithm 2. Deviations: scores are kept transposed as in the
// forward; -lse and -δ are the initial accumulators of the two products that they are subtracted
// from; the gradient of lse joins δ.
//
// A chunk of keys keeps its dK and dV in scratch; dQ is the sum over chunks. The chunks follow from
// the shape alone and are summed in their order, so the result does not depend on the number of
// threads.
#pragma once

#include "attention/cpu/band_gradient.h"

namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH {

template <class Unit>
class Backward {
 public:
  // `rests`: of each row, see ForwardParams::lse_rest; null where every one is far below 1.
  Backward(const BackwardParams& params, const float* rests, const CpuRuntime& runtime)
      : params_(params),
        rests_(rests),
        size_(params.size),
        runtime_(runtime),
        options_(params.size, params.options, runtime),
        dropout_(params.options),
        plan_(params, runtime.threads),
        dense_(params.size, params.grad_bias, plan_.chunks, runtime),
        table_(params, plan_.chunks, runtime),
        relative_(params, options_.relative, plan_.chunks, plan_.head_groups(params.size), runtime),
        terms_(size_, options_.relative, relative_),
        pitch_(pitch_of(size_.dimension)),
        width_(round_up(size_.dimension, kWidth)),
        depth_(divide_up(size_.dimension, kElements<Unit>)),
        blocks_(divide_up(size_.queries, kBlockQueries)),
        heads_per_key_(size_.heads / size_.key_heads) {
    const int64_t rows = size_.heads * size_.queries;
    const int64_t heads = plan_.copies * size_.batches * size_.heads;
    written_ = allocate<bool>(runtime, heads * blocks_);
    if (in_place()) {
      sums_ = params.grad_query;
    } else {
      float* const buffer = allocate<float>(runtime, heads * size_.queries * width_);
      sums_ = {buffer, DType::kFloat32, rows * width_, size_.queries * width_, width_};
    }
  }

  void run() const {
    Scratch measure(nullptr);
    BackwardScratch<Unit>(measure, size_, plan_.chunk_tiles, options_.relative, relative_);
    for (int64_t i = 0; i < plan_.copies * size_.batches * size_.heads * blocks_; ++i)
      written_[i] = false;
    const int64_t tasks = plan_.groups * plan_.copies;
    parallel(runtime_, tasks, measure.used(), [&](int64_t index, char* block) {
      Scratch memory(block);
      BackwardScratch<Unit> scratch(memory, size_, plan_.chunk_tiles, options_.relative, relative_);
      run_task(index / plan_.copies, index % plan_.copies, scratch);
    });
    const size_t row_bytes = static_cast<size_t>(width_) * sizeof(float);
    parallel(runtime_, size_.batches * size_.heads, row_bytes, [&](int64_t head, char* scratch) {
      for (int64_t block = 0; block < blocks_; ++block) {
        finish_grad_query(head / size_.heads, head % size_.heads, block,
                          reinterpret_cast<float*>(scratch));
      }
    });
    dense_.finish();
    table_.finish();
    relative_.finish(params_.options.scale, runtime_);
  }

 private:
  void run_task(int64_t group, int64_t copy, BackwardScratch<Unit>& scratch) const {
    scratch.grad_relative_key = relative_.key.start(group, copy, scratch.grad_relative_key);
    scratch.grad_relative_value = relative_.value.start(group, copy, scratch.grad_relative_value);
    const int64_t first = plan_.parallel_chunks ? copy : 0;
    const int64_t last = plan_.parallel_chunks ? copy + 1 : plan_.chunks;
    for (int64_t chunk = first; chunk < last; ++chunk) run_group(group, chunk, scratch);
    relative_.key.finish_task(group, scratch.grad_relative_key);
    relative_.value.finish_task(group, scratch.grad_relative_value);
  }

  void run_group(int64_t group, int64_t chunk, const BackwardScratch<Unit>& scratch) const {
    const int64_t head_groups = size_.key_heads / plan_.group_heads;
    const int64_t first_batch = group / head_groups * plan_.group_batches;
    const int64_t first_head = group % head_groups * plan_.group_heads;
    for (int64_t batch = first_batch; batch < first_batch + plan_.group_batches; ++batch) {
      for (int64_t head = first_head; head < first_head + plan_.group_heads; ++head)
        run_chunk(batch, head, chunk, scratch);
    }
  }

  void run_chunk(int64_t batch, int64_t key_head, int64_t index,
                 const BackwardScratch<Unit>& scratch) const {
    const int64_t first_key = index * plan_.chunk_tiles * kKeyTile;
    const int64_t keys = smaller(plan_.chunk_tiles * kKeyTile, size_.keys - first_key);
    const Chunk<Unit> chunk = load_chunk(batch, key_head, index, first_key, keys, scratch);
    fill(scratch.grad_key, keys * pitch_, 0);
    fill(scratch.grad_value, keys * pitch_, 0);
    for (int64_t head = key_head * heads_per_key_; head < (key_head + 1) * heads_per_key_; ++head) {
      if (table_.active()) table_.start(scratch.diagonals);
      for (int64_t i = 0; i < blocks_; ++i) {
        const int64_t query = i * kBlockQueries;
        const int64_t queries = smaller(kBlockQueries, size_.queries - query);
        Block<Unit> block = {batch, head, i, query, queries, divide_up(queries, kLanes)};
        run_block(block, chunk, scratch);
      }
      if (table_.active()) table_.finish_chunk(index, batch, head, scratch.diagonals);
    }
    for (int64_t key = 0; key < keys; ++key) {
      write_row(params_.grad_key.dtype, scratch.grad_key + key * pitch_, size_.dimension,
                params_.options.scale, row_of(params_.grad_key, batch, key_head, first_key + key));
      write_row(params_.grad_value.dtype, scratch.grad_value + key * pitch_, size_.dimension, 1,
                row_of(params_.grad_value, batch, key_head, first_key + key));
    }
  }

  Chunk<Unit> load_chunk(int64_t batch, int64_t head, int64_t index, int64_t key, int64_t keys,
                         const BackwardScratch<Unit>& scratch) const {
    const Rows<Unit> rows =
        dimension_units(params_.key, batch, head, key, keys, size_.dimension, pitch_, scratch.key);
    const Rows<Unit> values = dimension_units(params_.value, batch, head, key, keys,
                                              size_.dimension, pitch_, scratch.value);
    if constexpr (kElements<Unit> == 1) return {index, key, keys, rows, rows, values};
    const Rows<Unit> units =
        row_units(params_.key, batch, head, key, keys, size_.dimension, pitch_, scratch.key_pairs);
    return {index, key, keys, rows, units, values};
  }

  void run_block(Block<Unit>& block, const Chunk<Unit>& chunk,
                 const BackwardScratch<Unit>& scratch) const {
    const int64_t first_panel = block.query / kLanes;
    const QueryBounds bounds =
        options_.bounds.queries(block.batch, first_panel, first_panel + block.panels);
    const int64_t first_tile = chunk.index * plan_.chunk_tiles;
    const int64_t last_tile = smaller(first_tile + plan_.chunk_tiles, options_.bounds.tiles());
    for (int64_t tile = first_tile; tile < last_tile; ++tile) {
      if (options_.bounds.visible(bounds, block.batch, tile) == Visible::kNone) continue;
      run_tile(block, chunk, tile, scratch);
    }
    if (!block.loaded) return;
    if constexpr (kElements<Unit> == 1) terms_.finish(block, scratch);
    add_grad_query(block, chunk.index, scratch);
  }

  void run_tile(Block<Unit>& block, const Chunk<Unit>& chunk, int64_t index,
                const BackwardScratch<Unit>& scratch) const {
    const int64_t key = index * kKeyTile;
    const int64_t row = key - chunk.key;
    Tile tile = {block.batch, block.head, 0, 0, key, smaller(kKeyTile, size_.keys - key)};
    PanelRanges ranges;
    bool any = false;
    for (int64_t p = 0; p < block.panels; ++p) {
      tile.query = block.query + p * kLanes;
      tile.queries = smaller(kLanes, size_.queries - tile.query);
      const int64_t panel = tile.query / kLanes;
      const QueryBounds bounds = options_.bounds.queries(block.batch, panel, panel + 1);
      const Visible visible = options_.bounds.visible(bounds, block.batch, index);
      if (visible == Visible::kNone) continue;
      if (!block.loaded) load_block(block, scratch);
      const StartTile start =
          start_tile(options_, tile, bounds, visible, scratch.base + p * kLanes,
                     terms_of(p, scratch), scratch.start, rests_ ? Apart::kAlways : Apart::kNever);
      if (start.first >= start.last) continue;
      ranges.first[p] = start.first;
      ranges.last[p] = start.last;
      any = true;
      run_panel(block, chunk, tile, start, p, scratch);
      const GradPanel gradient = {scratch.grad_scores + p * kLanes, kTilePitch, start.first,
                                  start.last};
      if (dense_.active()) dense_.add(tile, chunk.index, gradient, scratch.start.square);
      if (table_.active()) table_.add(gradient, p * kLanes, scratch.diagonals);
    }
    if (!any) return;
    if (table_.active()) table_.collect(block.query, key, scratch.diagonals);
    add_grad_keys(block, ranges, tile.keys, row, scratch);
    if constexpr (kElements<Unit> == 1) terms_.finish_tile(block, scratch);
  }

  void prefetch_next(const Block<Unit>& block, int64_t query) const {
    const int64_t rows = smaller(kLanes, size_.queries - query);
    prefetch_rows(params_.query, block.batch, block.head, query, rows, size_.dimension);
    prefetch_rows(params_.grad_output, block.batch, block.head, query, rows, size_.dimension);
    prefetch_rows(params_.output, block.batch, block.head, query, rows, size_.dimension);
  }

  // P, dS and dQ of a panel.
  void run_panel(Block<Unit>& block, const Chunk<Unit>& chunk, const Tile& tile,
                 const StartTile& start, int64_t p, const BackwardScratch<Unit>& scratch) const {
    const int64_t row = tile.key - chunk.key;
    if (row == 0) prefetch_next(block, tile.query + kBlockQueries);
    const int64_t keys = start.last - start.first;
    float* const weights = scratch.weights + p * kLanes;
    float* const grads = scratch.grad_scores + p * kLanes;
    Product<Unit> product;
    product.c = weights;
    product.c_stride = kTilePitch;
    product.start = start.start;
    product.start_stride = start.stride;
    product.a = chunk.key_rows.row(row);
    product.a_stride = chunk.key_rows.stride;
    product.b = scratch.query + p * width_ * kLanes;
    product.depth = depth_;
    product.factor = scale();
    multiply<Start::kLoad, Layout::kRowMajor>(product, start.first, start.last);
    if (start.apart) finish_apart(start, p, scratch);

    const float* const delta = scratch.delta + p * kLanes;
    const StartTile from = start_value_scores(tile, start, delta, p, scratch);
    product.c = grads;
    product.start = from.start;
    product.start_stride = from.stride;
    product.a = chunk.value_rows.row(row);
    product.a_stride = chunk.value_rows.stride;
    product.b = scratch.grad_output + p * width_ * kLanes;
    product.factor = 1;
    float* const first_weights = weights + start.first * kTilePitch;
    float* const first_grads = grads + start.first * kTilePitch;
    multiply<Start::kLoad, Layout::kRowMajor>(product, start.first, start.last);
    if (dropout_.active) {
      dropout_.factors(tile, start.first, start.last, scratch.factors);
      differentiate<true>(first_weights, first_grads, keys, scratch.factors + start.first * kLanes,
                          delta);
    } else {
      differentiate<false>(first_weights, first_grads, keys, nullptr, nullptr);
    }
    round_panel(scratch.weights, p, start.first, start.last, scratch.weight_rows);
    round_panel(scratch.grad_scores, p, start.first, start.last, scratch.grad_score_rows);

    product.c = scratch.grad_query + p * width_ * kLanes;
    product.c_stride = kLanes;
    product.start = product.c;
    product.start_stride = kLanes;
    product.a = chunk.key_units.row((row + start.first) / kElements<Unit>);
    product.a_stride = chunk.key_units.stride;
    product.b = weight_units(first_grads, kTilePitch, keys, scratch.grad_score_pairs);
    product.b_stride = kElements<Unit> == 1 ? kTilePitch : kLanes;
    product.depth = divide_up(keys, kElements<Unit>);
    if (block.seen[p]) {
      multiply<Start::kLoad, Layout::kColumnMajor>(product, 0, size_.dimension);
    } else {
      multiply<Start::kZero, Layout::kColumnMajor>(product, 0, size_.dimension);
    }
    if constexpr (kElements<Unit> == 1) terms_.add(block, tile, start, p, scratch);
    block.seen[p] = true;
  }

  // Scores less the log-sum-exp, with a bias that stayed apart.
  void finish_apart(const StartTile& start, int64_t p, const BackwardScratch<Unit>& scratch) const {
    float top[kLanes];
    float* const scores = scratch.weights + p * kLanes + start.first * kTilePitch;
    const int64_t keys = start.last - start.first;
    add_apart(start.apart + start.first * kLanes, keys, kTilePitch, scores, top);
    subtract_natural(scratch.base + p * kLanes, scratch.rest + p * kLanes, keys, kTilePitch,
                     scores);
  }

  // What dP starts from: -δ, which dropout asks for later, and dO·rv.
  StartTile start_value_scores(const Tile& tile, const StartTile& start, const float* delta,
                               int64_t p, const BackwardScratch<Unit>& scratch) const {
    static constexpr float kZeros[kLanes] = {};
    StartTile from = {dropout_.active ? kZeros : delta, 0, start.first, start.last};
    const RelativeTerms& relative = options_.relative;
    if constexpr (kElements<Unit> == 1) {
      if (!relative.value) return from;
      const BandShape shape = relative.shape(tile, start.first, start.last);
      float* const band = scratch.start.band;
      relative.multiply_band(relative.value, tile, shape, scratch.grad_output + p * width_ * kLanes,
                             nullptr, band);
      float* const to = scratch.start.tile;
      relative.add_band(tile, shape, band, from.start, from.stride, to + start.first * kLanes);
      from.start = to;
      from.stride = kLanes;
    }
    return from;
  }

  PanelTerms terms_of(int64_t p, const BackwardScratch<Unit>& scratch) const {
    const RelativeTerms& relative = options_.relative;
    return {relative.key ? scratch.position + p * width_ * kLanes : nullptr,
            relative.key ? scratch.carry + p : nullptr,
            relative.segments() ? scratch.segment + p * 2 * kLanes : nullptr};
  }

  // dV += (P ∘ Z)ᵀ·dO and dK += dSᵀ·Q, for runs of keys that the same panels see.
  void add_grad_keys(const Block<Unit>& block, const PanelRanges& ranges, int64_t keys, int64_t row,
                     const BackwardScratch<Unit>& scratch) const {
    for_each_run(ranges, block.panels, 0, keys,
                 [&](int64_t key, int64_t end, int64_t first, int64_t last) {
                   for (int64_t p = first; p < last; ++p)
                     clear_hidden(ranges, p, key, end, scratch);
                   add_run(block, key, end, first, last, row, scratch);
                 });
  }

  void add_run(const Block<Unit>& block, int64_t key, int64_t end, int64_t first, int64_t last,
               int64_t row, const BackwardScratch<Unit>& scratch) const {
    const Rows<Unit> weights = tile_rows(scratch.weights, scratch.weight_rows);
    const Rows<Unit> grads = tile_rows(scratch.grad_scores, scratch.grad_score_rows);
    const int64_t unit = first * kLanes / kElements<Unit>;
    Product<Unit> product;
    product.c_stride = product.start_stride = pitch_;
    product.depth = (last - first) * kLanes / kElements<Unit>;
    for (int64_t d = 0; d < size_.dimension; d += kLanes) {
      product.start = product.c = scratch.grad_value + row * pitch_ + d;
      product.a = weights.data + unit;
      product.a_stride = weights.stride;
      product.b = block.grad_units.row(unit) + d;
      product.b_stride = block.grad_units.stride;
      multiply<Start::kLoad, Layout::kRowMajor>(product, key, end);
      product.start = product.c = scratch.grad_key + row * pitch_ + d;
      product.a = grads.data + unit;
      product.a_stride = grads.stride;
      product.b = block.query_units.row(unit) + d;
      product.b_stride = block.query_units.stride;
      multiply<Start::kLoad, Layout::kRowMajor>(product, key, end);
    }
  }

  void load_block(Block<Unit>& block, const BackwardScratch<Unit>& scratch) const {
    block.rows = block_rows(params_.query, block, size_.dimension, pitch_, scratch.query_rows);
    const Rows<Unit> queries = content_rows(block, scratch);
    const Rows<Unit> grads =
        block_rows(params_.grad_output, block, size_.dimension, pitch_, scratch.grad_output_rows);
    for (int64_t p = 0; p < block.panels; ++p) {
      pack_panel(queries.row(p * kLanes), queries.stride, depth_,
                 scratch.query + p * width_ * kLanes);
      pack_panel(grads.row(p * kLanes), grads.stride, depth_,
                 scratch.grad_output + p * width_ * kLanes);
      if constexpr (kElements<Unit> == 1) {
        scale_elements(scratch.query + p * width_ * kLanes, depth_ * kLanes, scale());
        load_relative(block, p, scratch);
      }
    }
    block.query_units =
        block_units(params_.query, block, queries, size_.dimension, pitch_, scratch.query_pairs);
    block.grad_units = block_units(params_.grad_output, block, grads, size_.dimension, pitch_,
                                   scratch.grad_output_pairs);
    const int64_t first_row =
        (block.batch * size_.heads + block.head) * size_.queries + block.query;
    for (int64_t i = 0; i < block.panels * kLanes; ++i) {
      const bool exists = i < block.queries;
      const float lse = exists ? params_.lse[first_row + i] : -kInfinity;
      scratch.base[i] = rests_ || lse == -kInfinity ? lse : -lse * kLog2e;
      scratch.rest[i] = !exists ? kInfinity : rests_ ? rests_[first_row + i] : 0;
      scratch.delta[i] = exists ? negative_delta(block, i, grads.row(i)) : 0;
    }
    if constexpr (kElements<Unit> == 1) terms_.start(block, scratch);
    block.loaded = true;
  }

  // q + u; as a side effect the block's q + v.
  Rows<Unit> content_rows(Block<Unit>& block, const BackwardScratch<Unit>& scratch) const {
    if constexpr (kElements<Unit> == 1) {
      const RelativeTerms& relative = options_.relative;
      const auto shifted = [&](const float* bias, float* copy) {
        return shifted_rows(block.rows, bias, block.panels * kLanes,
                            round_up(size_.dimension, kLanes), pitch_, copy);
      };
      if (relative.key)
        block.position = shifted(relative.position_bias(block.head), scratch.position_rows);
      return shifted(relative.content_bias(block.head), scratch.content_rows);
    }
    return block.rows;
  }

  void load_relative(const Block<float>& block, int64_t p,
                     const BackwardScratch<float>& scratch) const {
    const RelativeTerms& relative = options_.relative;
    if (relative.key) {
      float* const panel = scratch.position + p * width_ * kLanes;
      pack_panel(block.position.row(p * kLanes), block.position.stride, depth_, panel);
      scale_elements(panel, depth_ * kLanes, scale());
      scratch.carry[p] = {scratch.carried + p * kLanes * kLanes, -1};
    }
    if (relative.segments())
      relative.segment_scores(block.head, block.rows.from(p * kLanes), scale(),
                              scratch.segment + p * 2 * kLanes);
  }

  // Of query i of the block, `gradient` being the row of dO.
  float negative_delta(const Block<Unit>& block, int64_t i, const Unit* gradient) const {
    const int64_t query = block.query + i;
    const float* const of_lse = params_.grad_lse;
    const int64_t row = (block.batch * size_.heads + block.head) * size_.queries + query;
    return (of_lse ? of_lse[row] : 0) -
           dot_row(params_.output.dtype, row_of(params_.output, block.batch, block.head, query),
                   gradient, size_.dimension);
  }

  // Adds the block's dQ of a chunk to a copy.
  void add_grad_query(const Block<Unit>& block, int64_t chunk,
                      const BackwardScratch<Unit>& scratch) const {
    const int64_t copy = plan_.parallel_chunks ? chunk : 0;
    bool* const written =
        written_ + ((copy * size_.batches + block.batch) * size_.heads + block.head) * blocks_ +
        block.index;
    for (int64_t p = 0; p < block.panels; ++p) {
      float* const panel = scratch.grad_query + p * width_ * kLanes;
      if (!block.seen[p]) fill(panel, size_.dimension * kLanes, 0);
      if constexpr (kElements<Unit> == 1) {
        if (block.seen[p] && relative_.active()) add_panel_gradients(block, chunk, p, scratch);
      }
      for (int64_t i = 0; i < size_.dimension * kLanes; i += kWidth)
        store(panel + i, load(panel + i) * params_.options.scale);
      fill(panel + size_.dimension * kLanes, (width_ - size_.dimension) * kLanes, 0);
      unpack_panel(panel, size_.dimension, scratch.square);
      const int64_t queries = smaller(kLanes, block.queries - p * kLanes);
      for (int64_t i = 0; i < queries; ++i) {
        float* const to = sum_row(copy, block.batch, block.head, block.query + p * kLanes + i);
        add_elements(scratch.square + i * width_, size_.dimension, !*written, to);
      }
    }
    *written = true;
  }

  void add_panel_gradients(const Block<float>& block, int64_t chunk, int64_t p,
                           const BackwardScratch<float>& scratch) const {
    const PanelGradients panel = {
        scratch.grad_query + p * width_ * kLanes, scratch.grad_position + p * width_ * kLanes,
        scratch.grad_segment + p * 2 * kLanes, block.rows.from(p * kLanes)};
    relative_.add_panel(chunk, block.batch, block.head, panel);
  }

  // A row of a copy of dQ.
  float* sum_row(int64_t copy, int64_t batch, int64_t head, int64_t query) const {
    return reinterpret_cast<float*>(row_of(sums_, copy * size_.batches + batch, head, query));
  }

  // The sum of the copies of a block's dQ.
  void finish_grad_query(int64_t batch, int64_t head, int64_t block, float* total) const {
    const int64_t first = block * kBlockQueries,
                  last = smaller(first + kBlockQueries, size_.queries);
    const bool* const written = written_ + (batch * size_.heads + head) * blocks_ + block;
    if (in_place() && *written) return;
    for (int64_t query = first; query < last; ++query) {
      bool none = true;
      for (int64_t copy = 0; copy < plan_.copies; ++copy) {
        if (!written[copy * size_.batches * size_.heads * blocks_]) continue;
        add_elements(sum_row(copy, batch, head, query), size_.dimension, none, total);
        none = false;
      }
      if (none) fill(total, width_, 0);
      write_row(params_.grad_query.dtype, total, size_.dimension, 1,
                row_of(params_.grad_query, batch, head, query));
    }
  }

  // Of the scores, in units of log2(e).
  float scale() const { return params_.options.scale * kLog2e; }

  // Chunks of a group that follow each other can add to the result itself.
  bool in_place() const {
    return !plan_.parallel_chunks && params_.grad_query.dtype == DType::kFloat32;
  }

  const BackwardParams& params_;
  const float* const rests_;
  const Sizes& size_;
  const CpuRuntime& runtime_;
  const ScoreOptions options_;
  const Dropout dropout_;
  const BackwardPlan plan_;
  const DenseGradient dense_;
  const TableGradient table_;
  const RelativeGradient relative_;
  const BlockTerms terms_;
  const int64_t pitch_;
  const int64_t width_;
  const int64_t depth_;  // of the products over the head dimension, in units
  const int64_t blocks_;
  const int64_t heads_per_key_;
  Heads sums_;     // (copies · B, H, L, D), float32: sums of dQ
  bool* written_;  // (copies, B, H, blocks)
};

}  // namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH
