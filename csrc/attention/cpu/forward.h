// Forward of masked attention:
//
//     O_i = sum_j softmax_j(s_ij) v_j        lse_i = log sum_j exp s_ij        s_ij = scale ·
//     q_i·k_j + bias_ij where visible
//
// A. Vaswani et al., "Attention Is All You Need", 2017, eq. 1, by the tiled evaluation of T. Dao,
// "FlashAttention-2", 2023, algorithm 1. Deviations: scores are kept transposed, a query in each
// lane, so that all reductions are vertical and only the queries are transposed; the keys lie in
// the outer loop within a chunk of queries, so that a tile of keys and values is packed once for
// the whole chunk.
#pragma once

#include "attention/cpu/key_split.h"
#include "attention/cpu/softmax.h"

namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH {

// Chunks of queries share a packed tile of keys. How many there are is a matter of speed alone:
// whatever the chunk, what a query sees is summed in the same order.
struct QueryChunks {
  QueryChunks(int64_t heads, int64_t dimension, int64_t all_panels, int64_t threads) {
    constexpr int64_t kChunkBytes = 256 << 10;
    const int64_t panel_bytes = 2 * dimension * kLanes * static_cast<int64_t>(sizeof(float));
    const int64_t most = larger(1, kChunkBytes / panel_bytes);
    const int64_t wanted = divide_up(4 * threads, heads);
    count = smaller(all_panels, larger(wanted, divide_up(all_panels, most)));
    panels = divide_up(all_panels, count);
    count = divide_up(all_panels, panels);
  }

  int64_t count;
  int64_t panels;  // of each
};

template <class Unit>
struct ForwardScratch {
  ForwardScratch(Scratch& scratch, int64_t dimension, int64_t panels, const RelativeTerms& relative)
      : start(scratch, relative) {
    const int64_t pitch = pitch_of(dimension);
    const int64_t bands = relative.key ? 1 : 0;
    const int64_t width = round_up(dimension, kWidth);
    query = scratch.take<Unit>(panels * width * kLanes);
    output = scratch.take<float>(panels * width * kLanes);
    softmax = scratch.take<RunningSoftmax>(panels);
    seen = scratch.take<bool>(panels);
    key = scratch.take<Unit>(kKeyTile * pitch);
    value = scratch.take<Unit>(kKeyTile * pitch);
    scores = scratch.take<float>(kKeyTile * kLanes);
    weights = scratch.take<Unit>(kKeyTile * kLanes);
    factors = scratch.take<float>(kKeyTile * kLanes);
    square = scratch.take<float>(kLanes * width);
    rows = scratch.take<Unit>(kLanes * pitch);
    shifted = scratch.take<Unit>(kLanes * pitch);
    position = scratch.take<float>(bands * panels * width * kLanes);
    segment = scratch.take<float>(panels * 2 * kLanes);
    carry = scratch.take<BandCarry>(bands * panels);
    carried = scratch.take<float>(bands * panels * kLanes * kLanes);
  }

  StartScratch start;
  Unit* query;              // (panels, width, kLanes)
  float* output;            // (panels, width, kLanes)
  RunningSoftmax* softmax;  // (panels)
  bool* seen;               // (panels): the panel has seen a key
  Unit* key;                // (kKeyTile, pitch)
  Unit* value;              // (kKeyTile, pitch)
  float* scores;            // (kKeyTile, kLanes)
  Unit* weights;            // (kKeyTile, kLanes)
  float* factors;           // (kKeyTile, kLanes)
  float* square;            // (kLanes, width)
  Unit* rows;               // (kLanes, pitch)
  Unit* shifted;            // (kLanes, pitch)
  float* position;          // (panels, width, kLanes): see PanelTerms
  float* segment;           // (panels, 2, kLanes)
  BandCarry* carry;         // (panels)
  float* carried;           // (panels, kLanes, kLanes)
};

template <class Unit>
class Forward {
 public:
  Forward(const ForwardParams& params, const CpuRuntime& runtime)
      : params_(params),
        size_(params.size),
        runtime_(runtime),
        options_(params.size, params.options, runtime),
        dropout_(params.options),
        split_(params, size_.batches * size_.heads * options_.bounds.panels(), runtime),
        chunks_(size_.batches * size_.heads * split_.count(), size_.dimension,
                options_.bounds.panels(), runtime.threads),
        pitch_(pitch_of(size_.dimension)),
        width_(round_up(size_.dimension, kWidth)),
        depth_(divide_up(size_.dimension, kElements<Unit>)) {}

  void run() const {
    Scratch measure(nullptr);
    ForwardScratch<Unit>(measure, size_.dimension, chunks_.panels, options_.relative);
    const int64_t tasks = size_.batches * size_.heads * split_.count() * chunks_.count;
    parallel(runtime_, tasks, measure.used(), [&](int64_t index, char* block) {
      Scratch scratch(block);
      const int64_t chunk = chunks_.count - 1 -
                            index % chunks_.count;  // a causal mask leaves most for the last chunk
      const int64_t split = index / chunks_.count % split_.count();
      const int64_t head = index / chunks_.count / split_.count();
      run_chunk(head / size_.heads, head % size_.heads, chunk, split,
                ForwardScratch<Unit>(scratch, size_.dimension, chunks_.panels, options_.relative));
    });
    split_.join(runtime_);
  }

 private:
  void run_chunk(int64_t batch, int64_t head, int64_t chunk, int64_t split,
                 const ForwardScratch<Unit>& scratch) const {
    const int64_t first_panel = chunk * chunks_.panels;
    const int64_t last_panel = smaller(first_panel + chunks_.panels, options_.bounds.panels());
    const int64_t key_head = head / (size_.heads / size_.key_heads);
    for (int64_t panel = first_panel; panel < last_panel; ++panel) {
      const int64_t p = panel - first_panel;
      load_queries(batch, head, panel, p, scratch);
      scratch.softmax[p].reset();
      scratch.seen[p] = false;
    }

    const QueryBounds chunk_bounds = options_.bounds.queries(batch, first_panel, last_panel);
    const int64_t last_tile = split_.last_tile(split);
    for (int64_t index = split_.first_tile(split); index < last_tile; ++index) {
      if (options_.bounds.visible(chunk_bounds, batch, index) == Visible::kNone) continue;
      const int64_t key = index * kKeyTile;
      Tile tile = {batch, head, 0, 0, key, smaller(kKeyTile, size_.keys - key)};
      bool packed = false;
      Rows<Unit> keys = {}, values = {};
      int64_t ahead = key + kKeyTile;
      const int64_t ahead_last =
          index + 1 < last_tile ? smaller(ahead + kKeyTile, size_.keys) : ahead;
      const int64_t ahead_rows = divide_up(kKeyTile, last_panel - first_panel);
      for (int64_t panel = first_panel; panel < last_panel; ++panel) {
        const QueryBounds bounds = options_.bounds.queries(batch, panel, panel + 1);
        const Visible visible = options_.bounds.visible(bounds, batch, index);
        if (visible == Visible::kNone) continue;
        const int64_t p = panel - first_panel;
        float base[kLanes];
        scratch.softmax[p].base(base);
        tile.query = panel * kLanes;
        tile.queries = queries_of(panel);
        const StartTile start =
            start_tile(options_, tile, bounds, visible, base, terms_of(p, scratch), scratch.start,
                       scratch.softmax[p].natural ? Apart::kAlways : Apart::kIfLarge);
        if (start.first >= start.last) continue;
        if (!packed) {
          keys = dimension_units(params_.key, batch, key_head, key, tile.keys, size_.dimension,
                                 pitch_, scratch.key);
          values = row_units(params_.value, batch, key_head, key, tile.keys, size_.dimension,
                             pitch_, scratch.value);
          packed = true;
        }
        if (ahead < ahead_last) {
          const int64_t rows = smaller(ahead_rows, ahead_last - ahead);
          prefetch_rows(params_.key, batch, key_head, ahead, rows, size_.dimension);
          prefetch_rows(params_.value, batch, key_head, ahead, rows, size_.dimension);
          ahead += rows;
        }
        attend(tile, start, keys, values, p, scratch);
      }
    }

    for (int64_t panel = first_panel; panel < last_panel; ++panel)
      finish(batch, head, split, panel, panel - first_panel, scratch);
  }

  void load_queries(int64_t batch, int64_t head, int64_t panel, int64_t p,
                    const ForwardScratch<Unit>& scratch) const {
    const Rows<Unit> rows =
        padded_units(params_.query, batch, head, panel * kLanes, queries_of(panel), kLanes,
                     size_.dimension, pitch_, scratch.rows);
    Unit* const query = scratch.query + p * width_ * kLanes;
    if constexpr (kElements<Unit> == 1) {
      const RelativeTerms& relative = options_.relative;
      pack_shifted(rows, relative.content_bias(head), query, scratch);
      if (relative.key) {
        pack_shifted(rows, relative.position_bias(head), scratch.position + p * width_ * kLanes,
                     scratch);
        scratch.carry[p] = {scratch.carried + p * kLanes * kLanes, -1};
      }
      if (relative.segments())
        relative.segment_scores(head, rows, scale(), scratch.segment + p * 2 * kLanes);
    } else {
      pack_panel(rows.data, rows.stride, depth_, query);
    }
  }

  // scale · (rows + bias), a query in each lane.
  void pack_shifted(const Rows<float>& rows, const float* bias, float* to,
                    const ForwardScratch<float>& scratch) const {
    const Rows<float> shifted = shifted_rows(rows, bias, kLanes, width_, pitch_, scratch.shifted);
    pack_panel(shifted.data, shifted.stride, depth_, to);
    scale_elements(to, depth_ * kLanes, scale());
  }

  PanelTerms terms_of(int64_t p, const ForwardScratch<Unit>& scratch) const {
    const RelativeTerms& relative = options_.relative;
    return {relative.key ? scratch.position + p * width_ * kLanes : nullptr,
            relative.key ? scratch.carry + p : nullptr,
            relative.segments() ? scratch.segment + p * 2 * kLanes : nullptr};
  }

  // One tile of keys for one panel of queries.
  void attend(const Tile& tile, const StartTile& start, const Rows<Unit>& keys,
              const Rows<Unit>& values, int64_t p, const ForwardScratch<Unit>& scratch) const {
    float top[kLanes], shift[kLanes], factor[kLanes];
    fill(top, kLanes, -kInfinity);
    Product<Unit> scores;
    scores.c = scratch.scores;
    scores.start = start.start;
    scores.start_stride = start.stride;
    scores.a = keys.data;
    scores.a_stride = keys.stride;
    scores.b = scratch.query + p * width_ * kLanes;
    scores.depth = depth_;
    scores.factor = scale();
    scores.maximum = top;
    multiply<Start::kLoad, Layout::kRowMajor, true>(scores, start.first, start.last);

    RunningSoftmax& softmax = scratch.softmax[p];
    float* const weights = scratch.scores + start.first * kLanes;
    const int64_t count = start.last - start.first;
    bool moved;
    if (start.apart) {
      add_apart(start.apart + start.first * kLanes, count, kLanes, weights, top);
      moved = softmax.follow_natural(top, factor);
      subtract_natural(softmax.reference, nullptr, count, kLanes, weights);
      exponentiate<false>(weights, count, nullptr, softmax.sum);
    } else {
      moved = softmax.follow(top, shift, factor);
      if (moved) {
        exponentiate<true>(weights, count, shift, softmax.sum);
      } else {
        exponentiate<false>(weights, count, nullptr, softmax.sum);
      }
    }
    if (dropout_.active) {
      dropout_.factors(tile, start.first, start.last, scratch.factors);
      multiply_elements(weights, scratch.factors + start.first * kLanes, count * kLanes);
    }

    Product<Unit> output;
    output.c = scratch.output + p * width_ * kLanes;
    output.start = output.c;
    output.scale = factor;
    output.a = values.row(start.first / kElements<Unit>);
    output.a_stride = values.stride;
    output.b = weight_units(weights, kLanes, count, scratch.weights);
    output.depth = divide_up(count, kElements<Unit>);
    if (!scratch.seen[p]) {
      multiply<Start::kZero, Layout::kColumnMajor>(output, 0, size_.dimension);
    } else if (moved) {
      multiply<Start::kScale, Layout::kColumnMajor>(output, 0, size_.dimension);
    } else {
      multiply<Start::kLoad, Layout::kColumnMajor>(output, 0, size_.dimension);
    }
    scratch.seen[p] = true;
    if (options_.relative.value) add_relative_values(tile, start, weights, p, scratch);
  }

  // Oᵀ += rvᵀ·W, W the weights of the panel summed by row of the relative value.
  void add_relative_values(const Tile& tile, const StartTile& start, const float* weights,
                           int64_t p, const ForwardScratch<Unit>& scratch) const {
    const RelativeTerms& relative = options_.relative;
    const BandShape shape = relative.shape(tile, start.first, start.last);
    const Band band = relative.collect(tile, shape, weights, kLanes, scratch.start.band);
    Product<float> output;
    output.c = scratch.output + p * width_ * kLanes;
    output.start = output.c;
    output.a = relative.value.row(tile.batch, tile.head, band.table_row);
    output.a_stride = relative.value.stride;
    output.b = band.data;
    output.depth = band.rows;
    multiply<Start::kLoad, Layout::kColumnMajor>(output, 0, size_.dimension);
  }

  // Normalises a panel and writes its rows.
  void finish(int64_t batch, int64_t head, int64_t split, int64_t panel, int64_t p,
              const ForwardScratch<Unit>& scratch) const {
    RunningSoftmax& softmax = scratch.softmax[p];
    if (split_.natural()) softmax.become_natural();
    float* const output = scratch.output + p * width_ * kLanes;
    if (!scratch.seen[p]) fill(output, size_.dimension * kLanes, 0);
    fill(output + size_.dimension * kLanes, (width_ - size_.dimension) * kLanes, 0);
    unpack_panel(output, size_.dimension, scratch.square);

    for (int64_t lane = 0; lane < queries_of(panel); ++lane) {
      split_.write(split, batch, head, panel * kLanes + lane, scratch.square + lane * width_,
                   softmax.sum[lane], softmax.reference[lane]);
    }
  }

  // Of the scores, in units of log2(e).
  float scale() const { return params_.options.scale * kLog2e; }

  int64_t queries_of(int64_t panel) const {
    return smaller(kLanes, size_.queries - panel * kLanes);
  }

  const ForwardParams& params_;
  const Sizes& size_;
  const CpuRuntime& runtime_;
  const ScoreOptions options_;
  const Dropout dropout_;
  const KeySplit split_;
  const QueryChunks chunks_;
  const int64_t pitch_;
  const int64_t width_;
  const int64_t depth_;  // of the product of query and key, in units
};

}  // namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH
