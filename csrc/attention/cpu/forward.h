// Forward of masked attention:
//
//     O_i = sum_j softmax_j(s_ij) v_j        lse_i = log sum_j exp s_ij        s_ij = scale · q_i·k_j + bias_ij where visible
//
// A. Vaswani et al., "Attention Is All You Need", 2017, eq. 1, by the tiled evaluation of T. Dao, "FlashAttention-2", 2023, algorithm 1.
// Deviations: scores are kept transposed, a query in each lane, so that all reductions are vertical and only the queries are transposed;
// the keys lie in the outer loop within a chunk of queries, so that a tile of keys and values is packed once for the whole chunk.
#pragma once

#include "attention/cpu/softmax.h"

namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH {

// How the work is cut. Chunks of queries are a matter of speed alone: what a query sees is summed in the same order in any chunk. Splits
// of the keys change the order, so they follow from the shape alone, never from the number of threads.
struct ForwardPlan {
  ForwardPlan(const Sizes& size, const MaskBounds& bounds, int64_t threads) {
    constexpr int64_t kChunkBytes = 160 << 10;
    constexpr int64_t kFewPanels = 16;
    constexpr int64_t kSplitTiles = 4;
    const int64_t heads = size.batches * size.heads;
    const int64_t all_panels = heads * bounds.panels();
    if (all_panels < kFewPanels) splits = smaller(divide_up(bounds.tiles(), kSplitTiles), divide_up(2 * kFewPanels, all_panels));
    split_tiles = divide_up(bounds.tiles(), larger(1, splits));
    splits = larger(1, divide_up(bounds.tiles(), larger(1, split_tiles)));

    const int64_t panel_bytes = 2 * size.dimension * kLanes * static_cast<int64_t>(sizeof(float));
    const int64_t most = larger(1, kChunkBytes / panel_bytes);
    const int64_t wanted = divide_up(4 * threads, heads * splits);
    chunks = smaller(bounds.panels(), larger(wanted, divide_up(bounds.panels(), most)));
    chunk_panels = divide_up(bounds.panels(), chunks);
    chunks = divide_up(bounds.panels(), chunk_panels);
  }

  int64_t chunks = 1;
  int64_t chunk_panels = 1;
  int64_t splits = 1;
  int64_t split_tiles = 1;
};

// Normalised outputs and base-2 logs of the sums of each split of the keys, (splits, B, H, L, D) and (splits, B, H, L).
struct Partial {
  float* output = nullptr;
  float* lse = nullptr;
};

struct ForwardScratch {
  ForwardScratch(Scratch& scratch, int64_t dimension, int64_t panels) : start(scratch) {
    const int64_t pitch = pitch_of(dimension);
    const int64_t width = round_up(dimension, kWidth);
    query = scratch.take<float>(panels * width * kLanes);
    output = scratch.take<float>(panels * width * kLanes);
    softmax = scratch.take<RunningSoftmax>(panels);
    seen = scratch.take<bool>(panels);
    key = scratch.take<float>(kKeyTile * pitch);
    value = scratch.take<float>(kKeyTile * pitch);
    scores = scratch.take<float>(kKeyTile * kLanes);
    factors = scratch.take<float>(kKeyTile * kLanes);
    square = scratch.take<float>(kLanes * width);
  }

  StartScratch start;
  float* query;             // (panels, width, kLanes)
  float* output;            // (panels, width, kLanes)
  RunningSoftmax* softmax;  // (panels)
  bool* seen;               // (panels): the panel has seen a key
  float* key;               // (kKeyTile, pitch)
  float* value;             // (kKeyTile, pitch)
  float* scores;            // (kKeyTile, kLanes)
  float* factors;           // (kKeyTile, kLanes)
  float* square;            // (kLanes, width)
};

class Forward {
 public:
  Forward(const ForwardParams& params, const CpuRuntime& runtime)
      : params_(params),
        size_(params.size),
        runtime_(runtime),
        options_(params.size, params.options, runtime),
        dropout_(params.options),
        plan_(params.size, options_.bounds, runtime.threads),
        pitch_(pitch_of(size_.dimension)),
        width_(round_up(size_.dimension, kWidth)) {
    if (plan_.splits == 1) return;
    const int64_t rows = plan_.splits * size_.batches * size_.heads * size_.queries;
    partial_.output = allocate<float>(runtime, rows * width_);
    partial_.lse = allocate<float>(runtime, rows);
  }

  void run() const {
    Scratch measure(nullptr);
    ForwardScratch(measure, size_.dimension, plan_.chunk_panels);
    const int64_t tasks = size_.batches * size_.heads * plan_.splits * plan_.chunks;
    parallel(runtime_, tasks, measure.used(), [&](int64_t index, char* block) {
      Scratch scratch(block);
      const int64_t chunk = plan_.chunks - 1 - index % plan_.chunks;  // a causal mask leaves most for the last chunk
      const int64_t split = index / plan_.chunks % plan_.splits;
      const int64_t head = index / plan_.chunks / plan_.splits;
      run_chunk(head / size_.heads, head % size_.heads, chunk, split, ForwardScratch(scratch, size_.dimension, plan_.chunk_panels));
    });
    if (plan_.splits > 1) join();
  }

 private:
  void run_chunk(int64_t batch, int64_t head, int64_t chunk, int64_t split, const ForwardScratch& scratch) const {
    const int64_t first_panel = chunk * plan_.chunk_panels;
    const int64_t last_panel = smaller(first_panel + plan_.chunk_panels, options_.bounds.panels());
    const int64_t key_head = head / (size_.heads / size_.key_heads);
    const float scale = params_.options.scale * kLog2e;
    for (int64_t panel = first_panel; panel < last_panel; ++panel) {
      const int64_t p = panel - first_panel;
      pack_panel(params_.query, batch, head, panel * kLanes, queries_of(panel), size_.dimension, scale, scratch.square,
                 scratch.query + p * width_ * kLanes);
      scratch.softmax[p].reset();
      scratch.seen[p] = false;
    }

    const QueryBounds chunk_bounds = options_.bounds.queries(batch, first_panel, last_panel);
    const int64_t last_tile = smaller(options_.bounds.tiles(), (split + 1) * plan_.split_tiles);
    for (int64_t index = split * plan_.split_tiles; index < last_tile; ++index) {
      if (options_.bounds.visible(chunk_bounds, batch, index) == Visible::kNone) continue;
      const int64_t key = index * kKeyTile;
      Tile tile = {batch, head, 0, 0, key, smaller(kKeyTile, size_.keys - key)};
      bool packed = false;
      for (int64_t panel = first_panel; panel < last_panel; ++panel) {
        const QueryBounds bounds = options_.bounds.queries(batch, panel, panel + 1);
        const Visible visible = options_.bounds.visible(bounds, batch, index);
        if (visible == Visible::kNone) continue;
        const int64_t p = panel - first_panel;
        float base[kLanes];
        scratch.softmax[p].base(base);
        tile.query = panel * kLanes;
        tile.queries = queries_of(panel);
        const StartTile start = start_tile(options_, tile, bounds, visible, base, scratch.start);
        if (start.first >= start.last) continue;
        if (!packed) {
          pack_rows(params_.key, batch, key_head, key, tile.keys, tile.keys, size_.dimension, pitch_, scratch.key);
          pack_rows(params_.value, batch, key_head, key, tile.keys, tile.keys, size_.dimension, pitch_, scratch.value);
          packed = true;
        }
        attend(tile, start, p, scratch);
      }
    }

    for (int64_t panel = first_panel; panel < last_panel; ++panel) finish(batch, head, split, panel, panel - first_panel, scratch);
  }

  // One tile of keys for one panel of queries.
  void attend(const Tile& tile, const StartTile& start, int64_t p, const ForwardScratch& scratch) const {
    float top[kLanes], shift[kLanes], factor[kLanes];
    fill(top, kLanes, -kInfinity);
    Product scores;
    scores.c = scratch.scores;
    scores.start = start.start;
    scores.start_stride = start.stride;
    scores.a = scratch.key;
    scores.a_stride = pitch_;
    scores.b = scratch.query + p * width_ * kLanes;
    scores.depth = size_.dimension;
    scores.maximum = top;
    multiply<Start::kLoad, Layout::kRowMajor, true>(scores, start.first, start.last);

    RunningSoftmax& softmax = scratch.softmax[p];
    float* const weights = scratch.scores + start.first * kLanes;
    const int64_t keys = start.last - start.first;
    const bool moved = softmax.follow(top, shift, factor);
    if (moved) {
      exponentiate<true>(weights, keys, shift, softmax.sum);
    } else {
      exponentiate<false>(weights, keys, shift, softmax.sum);
    }
    if (dropout_.active) {
      dropout_.factors(tile, start.first, start.last, scratch.factors);
      multiply_elements(weights, scratch.factors + start.first * kLanes, keys * kLanes);
    }

    Product output;
    output.c = scratch.output + p * width_ * kLanes;
    output.start = output.c;
    output.scale = factor;
    output.a = scratch.value + start.first * pitch_;
    output.a_stride = pitch_;
    output.b = weights;
    output.depth = keys;
    if (!scratch.seen[p]) {
      multiply<Start::kZero, Layout::kColumnMajor>(output, 0, size_.dimension);
    } else if (moved) {
      multiply<Start::kScale, Layout::kColumnMajor>(output, 0, size_.dimension);
    } else {
      multiply<Start::kLoad, Layout::kColumnMajor>(output, 0, size_.dimension);
    }
    scratch.seen[p] = true;
  }

  // Normalises a panel and writes its rows.
  void finish(int64_t batch, int64_t head, int64_t split, int64_t panel, int64_t p, const ForwardScratch& scratch) const {
    const RunningSoftmax& softmax = scratch.softmax[p];
    float* const output = scratch.output + p * width_ * kLanes;
    float inverse[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) inverse[lane] = softmax.sum[lane] == 0 ? 0 : 1 / softmax.sum[lane];
    if (!scratch.seen[p]) fill(output, size_.dimension * kLanes, 0);
    fill(output + size_.dimension * kLanes, (width_ - size_.dimension) * kLanes, 0);
    for (int64_t d = 0; d < size_.dimension; ++d) multiply_elements(output + d * kLanes, inverse, kLanes);
    unpack_panel(output, size_.dimension, scratch.square);

    const int64_t head_row = ((split * size_.batches + batch) * size_.heads + head) * size_.queries;
    for (int64_t lane = 0; lane < queries_of(panel); ++lane) {
      const int64_t query = panel * kLanes + lane;
      const float lse = softmax.sum[lane] == 0 ? -kInfinity : softmax.reference[lane] + __builtin_log2f(softmax.sum[lane]);
      const float* from = scratch.square + lane * width_;
      if (plan_.splits > 1) {
        write_row(DType::kFloat32, from, width_, 1, partial_.output + (head_row + query) * width_);
        partial_.lse[head_row + query] = lse;
      } else {
        write_row(params_.output.dtype, from, size_.dimension, 1, row_of(params_.output, batch, head, query));
        params_.lse[head_row + query] = lse * kLn2;
      }
    }
  }

  // The splits of every row, weighted by their sums.
  void join() const {
    const int64_t heads = size_.batches * size_.heads;
    parallel(runtime_, heads, static_cast<size_t>(width_) * sizeof(float), [&](int64_t head, char* block) {
      float* const total = reinterpret_cast<float*>(block);
      for (int64_t query = 0; query < size_.queries; ++query) join_row(head, query, heads * size_.queries, total);
    });
  }

  void join_row(int64_t head, int64_t query, int64_t split_rows, float* total) const {
    const int64_t row = head * size_.queries + query;
    float top = -kInfinity;
    for (int64_t split = 0; split < plan_.splits; ++split) {
      const float lse = partial_.lse[split * split_rows + row];
      if (!(lse <= top)) top = lse;
    }
    fill(total, width_, 0);
    float sum = 0;
    for (int64_t split = 0; split < plan_.splits && top != -kInfinity; ++split) {
      const float weight = __builtin_exp2f(partial_.lse[split * split_rows + row] - top);
      const float* from = partial_.output + (split * split_rows + row) * width_;
      for (int64_t d = 0; d < width_; d += kWidth) store(total + d, load(total + d) + weight * load(from + d));
      sum += weight;
    }
    void* const to = row_of(params_.output, head / size_.heads, head % size_.heads, query);
    write_row(params_.output.dtype, total, size_.dimension, sum == 0 ? 0 : 1 / sum, to);
    params_.lse[row] = sum == 0 ? -kInfinity : (top + __builtin_log2f(sum)) * kLn2;
  }

  int64_t queries_of(int64_t panel) const { return smaller(kLanes, size_.queries - panel * kLanes); }

  const ForwardParams& params_;
  const Sizes& size_;
  const CpuRuntime& runtime_;
  const ScoreOptions options_;
  const Dropout dropout_;
  const ForwardPlan plan_;
  const int64_t pitch_;
  const int64_t width_;
  Partial partial_;
};

}  // namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH
