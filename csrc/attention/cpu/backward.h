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

#include "attention/cpu/bias_gradient.h"
#include "attention/cpu/softmax.h"

namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH {

constexpr int kBlockPanels = kLanes < 32 ? 64 / kLanes : 2;
constexpr int kBlockQueries = kBlockPanels * kLanes;
constexpr int64_t kTilePitch = kBlockQueries + 16;  // see pitch_of

// How the work is cut. A group is the heads that add to the same dK and dV, and to the same
// gradient of the bias.
struct BackwardPlan {
  BackwardPlan(const BackwardParams& params, int64_t threads) {
    constexpr int64_t kChunkFloats = 16 << 10;
    constexpr int64_t kFewTasks = 16;
    const Sizes& size = params.size;
    const Scores& bias = params.grad_bias;
    const int64_t tiles = divide_up(size.keys, kKeyTile);
    chunk_tiles = larger(1, kChunkFloats / (kKeyTile * larger(1, size.dimension)));
    if (size.batches * size.key_heads * divide_up(tiles, chunk_tiles) < kFewTasks) chunk_tiles = 1;
    chunk_tiles = smaller(chunk_tiles, larger(1, tiles));
    chunks = divide_up(tiles, chunk_tiles);
    group_batches = bias.data && bias.batch == 0 ? size.batches : 1;
    group_heads = bias.data && bias.head == 0 ? size.key_heads : 1;
    groups = size.batches / group_batches * (size.key_heads / group_heads);
    parallel_chunks = chunks > 1 && groups < 4 * threads;
    copies = parallel_chunks ? chunks : 1;
  }

  int64_t chunk_tiles;
  int64_t chunks;
  int64_t group_batches;
  int64_t group_heads;  // key heads
  int64_t groups;
  bool parallel_chunks;  // chunks of a group are tasks of their own
  int64_t copies;        // of dQ, until they are summed
};

struct BackwardScratch {
  BackwardScratch(Scratch& scratch, const Sizes& size, int64_t chunk_tiles)
      : start(scratch), diagonals(scratch, size, kBlockQueries) {
    const int64_t pitch = pitch_of(size.dimension);
    const int64_t width = round_up(size.dimension, kWidth);
    const int64_t keys = chunk_tiles * kKeyTile;
    key = scratch.take<float>(keys * pitch);
    value = scratch.take<float>(keys * pitch);
    grad_key = scratch.take<float>(keys * pitch);
    grad_value = scratch.take<float>(keys * pitch);
    query_rows = scratch.take<float>(kBlockQueries * pitch);
    grad_output_rows = scratch.take<float>(kBlockQueries * pitch);
    query = scratch.take<float>(kBlockQueries * width);
    grad_output = scratch.take<float>(kBlockQueries * width);
    grad_query = scratch.take<float>(kBlockQueries * width);
    base = scratch.take<float>(kBlockQueries);
    delta = scratch.take<float>(kBlockQueries);
    weights = scratch.take<float>(kKeyTile * kTilePitch);
    grad_scores = scratch.take<float>(kKeyTile * kTilePitch);
    factors = scratch.take<float>(kKeyTile * kLanes);
    square = scratch.take<float>(kLanes * width);
  }

  StartScratch start;
  TableGradient::Diagonals diagonals;
  float* key;               // (chunk, pitch)
  float* value;             // (chunk, pitch)
  float* grad_key;          // (chunk, pitch)
  float* grad_value;        // (chunk, pitch)
  float* query_rows;        // (kBlockQueries, pitch)
  float* grad_output_rows;  // (kBlockQueries, pitch)
  float* query;             // (kBlockPanels, width, kLanes), scaled
  float* grad_output;       // (kBlockPanels, width, kLanes)
  float* grad_query;        // (kBlockPanels, width, kLanes)
  float* base;   // (kBlockQueries): -lse in units of log2(e); -infinity for a row that sees nothing
  float* delta;  // (kBlockQueries): -δ
  float* weights;      // (kKeyTile, kTilePitch)
  float* grad_scores;  // (kKeyTile, kTilePitch)
  float* factors;      // (kKeyTile, kLanes)
  float* square;       // (kLanes, width)
};

// Of one head: a block of queries; `seen[p]`: panel p has seen a key of the chunk, so its dQ is
// set.
struct Block {
  int64_t batch;
  int64_t head;
  int64_t index;
  int64_t query;    // first
  int64_t queries;  // <= kBlockQueries
  int64_t panels;
  bool loaded = false;
  bool seen[kBlockPanels] = {};
  Rows query_rows = {};
  Rows grad_rows = {};
};

// The keys of a tile that each panel of a block sees.
struct KeyRanges {
  int64_t first[kBlockPanels] = {};
  int64_t last[kBlockPanels] = {};
};

// A chunk of keys of one head: its number, its first key and where its rows lie.
struct Chunk {
  int64_t index;
  int64_t key;
  int64_t keys;
  Rows key_rows;
  Rows value_rows;
};

// weights: scores less lse -> P ∘ Z; grads: dP less δ (with kDropout: dP) -> dS
template <bool kDropout>
PTMKERNELS_NOINLINE void differentiate(float* weights, float* grads, int64_t keys,
                                       const float* factors, const float* delta) {
  constexpr int kAtOnce = 2 * kVectors;  // two keys, the last time one of them twice
  const auto at = [](int64_t key, int i) { return key * kTilePitch + i % kVectors * kWidth; };
  for (int64_t key = 0; key < keys; key += 2) {
    const int64_t next = key + 1 < keys ? key + 1 : key;
    Vec p[kAtOnce], grad[kAtOnce];
    PTMKERNELS_UNROLL
    for (int i = 0; i < kAtOnce; ++i)
      p[i] = min(Vec{}, load(weights + at(i < kVectors ? key : next, i)));
    exp2<kAtOnce>(p);
    PTMKERNELS_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      grad[i] = load(grads + at(i < kVectors ? key : next, i));
      if (kDropout) {
        const Vec z = load(factors + (i < kVectors ? key : next) * kLanes + i % kVectors * kWidth);
        grad[i] = p[i] * (z * grad[i] + load(delta + i % kVectors * kWidth));
        p[i] *= z;
      } else {
        grad[i] *= p[i];
      }
    }
    PTMKERNELS_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      store(weights + at(i < kVectors ? key : next, i), p[i]);
      store(grads + at(i < kVectors ? key : next, i), grad[i]);
    }
  }
}

class Backward {
 public:
  Backward(const BackwardParams& params, const CpuRuntime& runtime)
      : params_(params),
        size_(params.size),
        runtime_(runtime),
        options_(params.size, params.options, runtime),
        dropout_(params.options),
        plan_(params, runtime.threads),
        dense_(params.size, params.grad_bias, plan_.chunks, runtime),
        table_(params, plan_.chunks, runtime),
        pitch_(pitch_of(size_.dimension)),
        width_(round_up(size_.dimension, kWidth)),
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
    BackwardScratch(measure, size_, plan_.chunk_tiles);
    for (int64_t i = 0; i < plan_.copies * size_.batches * size_.heads * blocks_; ++i)
      written_[i] = false;
    const int64_t tasks = plan_.groups * plan_.copies;
    parallel(runtime_, tasks, measure.used(), [&](int64_t index, char* block) {
      Scratch memory(block);
      const BackwardScratch scratch(memory, size_, plan_.chunk_tiles);
      const int64_t group = index / plan_.copies;
      if (plan_.parallel_chunks) return run_group(group, index % plan_.copies, scratch);
      for (int64_t chunk = 0; chunk < plan_.chunks; ++chunk) run_group(group, chunk, scratch);
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
  }

 private:
  void run_group(int64_t group, int64_t chunk, const BackwardScratch& scratch) const {
    const int64_t head_groups = size_.key_heads / plan_.group_heads;
    const int64_t first_batch = group / head_groups * plan_.group_batches;
    const int64_t first_head = group % head_groups * plan_.group_heads;
    for (int64_t batch = first_batch; batch < first_batch + plan_.group_batches; ++batch) {
      for (int64_t head = first_head; head < first_head + plan_.group_heads; ++head)
        run_chunk(batch, head, chunk, scratch);
    }
  }

  void run_chunk(int64_t batch, int64_t key_head, int64_t index,
                 const BackwardScratch& scratch) const {
    const int64_t first_key = index * plan_.chunk_tiles * kKeyTile;
    const int64_t keys = smaller(plan_.chunk_tiles * kKeyTile, size_.keys - first_key);
    const Rows key_rows = rows_of(params_.key, batch, key_head, first_key, keys, size_.dimension,
                                  pitch_, scratch.key);
    const Rows values = rows_of(params_.value, batch, key_head, first_key, keys, size_.dimension,
                                pitch_, scratch.value);
    const Chunk chunk = {index, first_key, keys, key_rows, values};
    fill(scratch.grad_key, keys * pitch_, 0);
    fill(scratch.grad_value, keys * pitch_, 0);
    for (int64_t head = key_head * heads_per_key_; head < (key_head + 1) * heads_per_key_; ++head) {
      if (table_.active()) table_.start(scratch.diagonals);
      for (int64_t i = 0; i < blocks_; ++i) {
        const int64_t query = i * kBlockQueries;
        const int64_t queries = smaller(kBlockQueries, size_.queries - query);
        Block block = {batch, head, i, query, queries, divide_up(queries, kLanes)};
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

  void run_block(Block& block, const Chunk& chunk, const BackwardScratch& scratch) const {
    const int64_t first_panel = block.query / kLanes;
    const QueryBounds bounds =
        options_.bounds.queries(block.batch, first_panel, first_panel + block.panels);
    const int64_t first_tile = chunk.index * plan_.chunk_tiles;
    const int64_t last_tile = smaller(first_tile + plan_.chunk_tiles, options_.bounds.tiles());
    for (int64_t tile = first_tile; tile < last_tile; ++tile) {
      if (options_.bounds.visible(bounds, block.batch, tile) == Visible::kNone) continue;
      run_tile(block, chunk, tile, scratch);
    }
    if (block.loaded) add_grad_query(block, plan_.parallel_chunks ? chunk.index : 0, scratch);
  }

  void run_tile(Block& block, const Chunk& chunk, int64_t index,
                const BackwardScratch& scratch) const {
    const int64_t key = index * kKeyTile;
    const int64_t row = key - chunk.key;
    Tile tile = {block.batch, block.head, 0, 0, key, smaller(kKeyTile, size_.keys - key)};
    KeyRanges ranges;
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
          start_tile(options_, tile, bounds, visible, scratch.base + p * kLanes, scratch.start);
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
  }

  void prefetch_next(const Block& block, int64_t query) const {
    const int64_t rows = smaller(kLanes, size_.queries - query);
    prefetch_rows(params_.query, block.batch, block.head, query, rows, size_.dimension);
    prefetch_rows(params_.grad_output, block.batch, block.head, query, rows, size_.dimension);
    prefetch_rows(params_.output, block.batch, block.head, query, rows, size_.dimension);
  }

  // P, dS and dQ of a panel.
  void run_panel(Block& block, const Chunk& chunk, const Tile& tile, const StartTile& start,
                 int64_t p, const BackwardScratch& scratch) const {
    const int64_t row = tile.key - chunk.key;
    if (row == 0) prefetch_next(block, tile.query + kBlockQueries);
    const int64_t keys = start.last - start.first;
    float* const weights = scratch.weights + p * kLanes;
    float* const grads = scratch.grad_scores + p * kLanes;
    Product product;
    product.c = weights;
    product.c_stride = kTilePitch;
    product.start = start.start;
    product.start_stride = start.stride;
    product.a = chunk.key_rows.row(row);
    product.a_stride = chunk.key_rows.stride;
    product.b = scratch.query + p * width_ * kLanes;
    product.depth = size_.dimension;
    multiply<Start::kLoad, Layout::kRowMajor>(product, start.first, start.last);

    const float* const delta = scratch.delta + p * kLanes;
    product.c = grads;
    product.start = delta;
    product.start_stride = 0;
    product.a = chunk.value_rows.row(row);
    product.a_stride = chunk.value_rows.stride;
    product.b = scratch.grad_output + p * width_ * kLanes;
    float* const first_weights = weights + start.first * kTilePitch;
    float* const first_grads = grads + start.first * kTilePitch;
    if (dropout_.active) {
      multiply<Start::kZero, Layout::kRowMajor>(product, start.first, start.last);
      dropout_.factors(tile, start.first, start.last, scratch.factors);
      differentiate<true>(first_weights, first_grads, keys, scratch.factors + start.first * kLanes,
                          delta);
    } else {
      multiply<Start::kLoad, Layout::kRowMajor>(product, start.first, start.last);
      differentiate<false>(first_weights, first_grads, keys, nullptr, nullptr);
    }

    product.c = scratch.grad_query + p * width_ * kLanes;
    product.c_stride = kLanes;
    product.start = product.c;
    product.start_stride = kLanes;
    product.a = chunk.key_rows.row(row + start.first);
    product.a_stride = chunk.key_rows.stride;
    product.b = first_grads;
    product.b_stride = kTilePitch;
    product.depth = keys;
    if (block.seen[p]) {
      multiply<Start::kLoad, Layout::kColumnMajor>(product, 0, size_.dimension);
    } else {
      multiply<Start::kZero, Layout::kColumnMajor>(product, 0, size_.dimension);
    }
    block.seen[p] = true;
  }

  // dV += (P ∘ Z)ᵀ·dO and dK += dSᵀ·Q, for runs of keys that the same panels see.
  void add_grad_keys(const Block& block, const KeyRanges& ranges, int64_t keys, int64_t row,
                     const BackwardScratch& scratch) const {
    constexpr int64_t kRun = 16;
    int64_t run = 0, run_first = 0, run_last = 0;
    for (int64_t key = 0; key < keys; key += kRun) {
      const int64_t end = smaller(key + kRun, keys);
      const auto sees = [&](int64_t p) {
        return ranges.first[p] < end && ranges.last[p] > key && ranges.first[p] < ranges.last[p];
      };
      int64_t first = 0, last = block.panels;
      while (first < last && !sees(first)) ++first;
      while (first < last && !sees(last - 1)) --last;
      for (int64_t p = first; p < last; ++p) clear_hidden(ranges, p, key, end, scratch);
      if (first != run_first || last != run_last) {
        add_run(block, run, key, run_first, run_last, row, scratch);
        run = key;
        run_first = first;
        run_last = last;
      }
    }
    add_run(block, run, keys, run_first, run_last, row, scratch);
  }

  // Zeros where a panel does not see keys of [key, end).
  static void clear_hidden(const KeyRanges& ranges, int64_t p, int64_t key, int64_t end,
                           const BackwardScratch& scratch) {
    if (ranges.first[p] <= key && ranges.last[p] >= end) return;
    for (int64_t j = key; j < end; ++j) {
      if (j >= ranges.first[p] && j < ranges.last[p]) continue;
      fill(scratch.weights + j * kTilePitch + p * kLanes, kLanes, 0);
      fill(scratch.grad_scores + j * kTilePitch + p * kLanes, kLanes, 0);
    }
  }

  void add_run(const Block& block, int64_t key, int64_t end, int64_t first, int64_t last,
               int64_t row, const BackwardScratch& scratch) const {
    if (first >= last) return;
    for (int64_t d = 0; d < size_.dimension; d += kLanes) {
      Product product;
      product.c = scratch.grad_value + row * pitch_ + d;
      product.c_stride = pitch_;
      product.start = product.c;
      product.start_stride = pitch_;
      product.a = scratch.weights + first * kLanes;
      product.a_stride = kTilePitch;
      product.b = block.grad_rows.row(first * kLanes) + d;
      product.b_stride = block.grad_rows.stride;
      product.depth = (last - first) * kLanes;
      multiply<Start::kLoad, Layout::kRowMajor>(product, key, end);
      product.c = scratch.grad_key + row * pitch_ + d;
      product.start = product.c;
      product.a = scratch.grad_scores + first * kLanes;
      product.b = block.query_rows.row(first * kLanes) + d;
      product.b_stride = block.query_rows.stride;
      multiply<Start::kLoad, Layout::kRowMajor>(product, key, end);
    }
  }

  void load_block(Block& block, const BackwardScratch& scratch) const {
    const int64_t padded = block.panels * kLanes;
    block.query_rows = block_rows(params_.query, block, scratch.query_rows);
    block.grad_rows = block_rows(params_.grad_output, block, scratch.grad_output_rows);
    for (int64_t p = 0; p < block.panels; ++p) {
      const int64_t panel = p * width_ * kLanes;
      const float scale = params_.options.scale * kLog2e;
      pack_panel(block.query_rows.row(p * kLanes), block.query_rows.stride, size_.dimension, scale,
                 scratch.query + panel);
      pack_panel(block.grad_rows.row(p * kLanes), block.grad_rows.stride, size_.dimension, 1,
                 scratch.grad_output + panel);
    }
    const int64_t first_row =
        (block.batch * size_.heads + block.head) * size_.queries + block.query;
    for (int64_t i = 0; i < padded; ++i) {
      const bool exists = i < block.queries;
      const float lse = exists ? params_.lse[first_row + i] : -kInfinity;
      scratch.base[i] = lse == -kInfinity ? -kInfinity : -lse * kLog2e;
      scratch.delta[i] = exists ? negative_delta(block, i, first_row + i, scratch) : 0;
    }
    block.loaded = true;
  }

  // The rows of a block, with zeros beyond the last query and beyond the head dimension up to whole
  // panels.
  Rows block_rows(const Heads& heads, const Block& block, float* copy) const {
    const bool whole = block.queries == block.panels * kLanes && size_.dimension % kLanes == 0;
    if (whole)
      return rows_of(heads, block.batch, block.head, block.query, block.queries, size_.dimension,
                     pitch_, copy);
    pack_rows(heads, block.batch, block.head, block.query, block.queries, size_.dimension, pitch_,
              copy);
    const int64_t width = round_up(size_.dimension, kLanes);
    for (int64_t i = 0; i < block.queries; ++i) fill(copy + i * pitch_ + width_, width - width_, 0);
    for (int64_t i = block.queries; i < block.panels * kLanes; ++i)
      fill(copy + i * pitch_, width, 0);
    return {copy, pitch_};
  }

  float negative_delta(const Block& block, int64_t i, int64_t row,
                       const BackwardScratch& scratch) const {
    const Heads& output = params_.output;
    read_row(output.dtype, row_of(output, block.batch, block.head, block.query + i),
             size_.dimension, 1, scratch.square);
    const float* const gradient = block.grad_rows.row(i);
    Vec total = {};
    for (int64_t d = 0; d < width_; d += kWidth)
      total += load(scratch.square + d) * load(gradient + d);
    return (params_.grad_lse ? params_.grad_lse[row] : 0) - sum(total);
  }

  // Adds the block's dQ of this chunk to a copy.
  void add_grad_query(const Block& block, int64_t copy, const BackwardScratch& scratch) const {
    bool* const written =
        written_ + ((copy * size_.batches + block.batch) * size_.heads + block.head) * blocks_ +
        block.index;
    for (int64_t p = 0; p < block.panels; ++p) {
      float* const panel = scratch.grad_query + p * width_ * kLanes;
      if (!block.seen[p]) fill(panel, size_.dimension * kLanes, 0);
      for (int64_t i = 0; i < size_.dimension * kLanes; i += kWidth)
        store(panel + i, load(panel + i) * params_.options.scale);
      fill(panel + size_.dimension * kLanes, (width_ - size_.dimension) * kLanes, 0);
      unpack_panel(panel, size_.dimension, scratch.square);
      const int64_t queries = smaller(kLanes, block.queries - p * kLanes);
      for (int64_t i = 0; i < queries; ++i) {
        float* const to = sum_row(copy, block.batch, block.head, block.query + p * kLanes + i);
        add_row(scratch.square + i * width_, !*written, to);
      }
    }
    *written = true;
  }

  // to += from, or to = from: D elements.
  void add_row(const float* from, bool first, float* to) const {
    int64_t d = 0;
    if (first) {
      for (; d + kWidth <= size_.dimension; d += kWidth) store(to + d, load(from + d));
      for (; d < size_.dimension; ++d) to[d] = from[d];
    } else {
      for (; d + kWidth <= size_.dimension; d += kWidth)
        store(to + d, load(to + d) + load(from + d));
      for (; d < size_.dimension; ++d) to[d] += from[d];
    }
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
        add_row(sum_row(copy, batch, head, query), none, total);
        none = false;
      }
      if (none) fill(total, width_, 0);
      write_row(params_.grad_query.dtype, total, size_.dimension, 1,
                row_of(params_.grad_query, batch, head, query));
    }
  }

  // Chunks of a group that follow each other can add to the result itself.
  bool in_place() const {
    return !plan_.parallel_chunks && params_.grad_query.dtype == DType::kFloat32;
  }

  const BackwardParams& params_;
  const Sizes& size_;
  const CpuRuntime& runtime_;
  const ScoreOptions options_;
  const Dropout dropout_;
  const BackwardPlan plan_;
  const DenseGradient dense_;
  const TableGradient table_;
  const int64_t pitch_;
  const int64_t width_;
  const int64_t blocks_;
  const int64_t heads_per_key_;
  Heads sums_;     // (copies · B, H, L, D), float32: sums of dQ
  bool* written_;  // (copies, B, H, blocks)
};

}  // namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH
