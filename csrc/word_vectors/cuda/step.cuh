// The training step of word2vec and fastText: a warp for each stretch of kept words, one window
// after the other.
//
// With skip-gram the rows of the words within reach lie in a ring: each is read (as the mean of its
// sub-words) when it comes into reach, trained as a row of its own, and its change added to the
// matrix when it has left; those of the most frequent words are read and changed for each window.
// With CBOW the mean of a window's rows is made for it alone. The output rows of a window are
// copied, up to kGroup of them at once, trained with all contexts, and their changes added. The
// order of updates is that of ../cpu/tile.h: tiles of 4 contexts take all their products first;
// other warps' changes come in at any time (hogwild.cuh).
#pragma once

#include "word_vectors/cuda/hogwild.cuh"
#include "word_vectors/cuda/outputs.cuh"
#include "word_vectors/cuda/scratch.cuh"
#include "word_vectors/cuda/step_params.cuh"

namespace ptmkernels::word_vectors::cuda {

template <typename T, int kWide, bool kShared>
class Trainer {
 public:
  SIMT_FN explicit Trainer(const StepParams& p)
      : p_(p),
        o_(p.options),
        count_(load_global(p.count)),
        seed_(static_cast<uint64_t>(load_global(p.seed))) {
    const int64_t rows = block_index() * p.layout.rows();
    scratch_ = {kShared ? nullptr : p.workspace + rows * o_.width, o_.width};
    uint32_t words[4];
    philox_at(o_.position, static_cast<uint32_t>(block_index()), ~seed_, words);
    noise_ = {words[0] * (2 * static_cast<uint32_t>(lane_index()) + 1) | 1};
  }

  SIMT_FN void run() {
    for (int64_t s = block_index(); s * kStretch < count_; s += p_.blocks) stretch(s * kStretch);
    const float loss = sum_of_lanes(static_cast<float>(loss_));
    if (lane_index() > 0) return;
    atomic_add(p_.statistics, static_cast<double>(loss));
    atomic_add(p_.statistics + 1, static_cast<double>(loss_pairs_));
    atomic_add(p_.statistics + 2, static_cast<double>(pairs_));
    if (block_index() == 0) atomic_add(p_.statistics + 3, static_cast<double>(count_));
  }

 private:
  // A window: its contexts are the kept words [low, high] but for the centre.
  struct Window {
    int64_t low, high, centre;
    int contexts;
    bool with_loss;

    SIMT_FN int64_t context(int c) const { return low + c + (low + c >= centre); }
  };

  // Words [low, high) are within reach of word i; all of them leave where its sentence is another.
  SIMT_FN void stretch(int64_t begin) {
    const int64_t end = begin + kStretch < count_ ? begin + kStretch : count_;
    int64_t sentence = -1, low = begin, high = begin;
    origin_ = begin - o_.window;
    SIMT_ROLL
    for (int64_t i = begin;; ++i) {
      const int64_t first = i < end ? load_global(p_.first + i) : -1;
      const int64_t least = i - o_.window > first ? i - o_.window : first;
      const bool changes = first != sentence;
      give_back(low, changes ? high : least);
      if (i == end) return;
      low = least;
      if (changes) {
        sentence = first;
        high = least;
        rate_ = learning_rate(o_.position + load_global(p_.place + first));
      }
      SIMT_ROLL
      for (; high < count_ && high <= i + o_.window; ++high) {
        if (load_global(p_.first + high) != sentence) break;
        if (in_ring(high)) stage(high);
      }
      train(i, low, high);
    }
  }

  SIMT_FN float learning_rate(int64_t position) const {
    const double left = 1.0 - static_cast<double>(position) / (static_cast<double>(o_.total) + 1);
    const float rate = o_.learning_rate * static_cast<float>(left);
    return rate > o_.min_learning_rate ? rate : o_.min_learning_rate;
  }

  SIMT_FN void train(int64_t i, int64_t least, int64_t end) {
    const Draws draws = {o_.position + load_global(p_.place + i), seed_};
    const int reach = 1 + static_cast<int>(scaled(draws.reach_word(), o_.window));
    Window w;
    w.low = i - reach > least ? i - reach : least;
    w.high = i + reach < end ? i + reach : end - 1;
    w.centre = i;
    w.contexts = static_cast<int>(w.high - w.low);
    w.with_loss = draws.place % kLossEvery == 0;
    if (w.contexts == 0) return;
    pairs_ += w.contexts;
    if (w.with_loss) loss_pairs_ += o_.cbow ? 1 : w.contexts;
    first_slot_ = slot(w.low);
    before_centre_ = static_cast<int>(w.centre - w.low);
    if (o_.cbow) {
      make_mean(w);
      train_outputs(w, draws);
    } else {
      for_each_frequent(w, [this](int64_t j) { stage(j); });
      train_outputs(w, draws);
      for_each_frequent(w, [this](int64_t j) { give(j); });
    }
  }

  // Whether the row of a kept word stays while it is within reach. Of the most frequent words,
  // which have the lowest numbers, some row or other is always under way: theirs is read anew for
  // each window. Sub-words are read once.
  SIMT_FN bool in_ring(int64_t j) const {
    if (o_.cbow) return false;
    return o_.subwords != nullptr || load_global(p_.word + j) >= kFrequentWords;
  }

  template <typename Visit>
  SIMT_FN void for_each_frequent(const Window& w, const Visit& visit) const {
    for (int c = 0; c < w.contexts; ++c) {
      if (!in_ring(w.context(c))) visit(w.context(c));
    }
  }

  SIMT_FN void train_outputs(const Window& w, const Draws& draws) {
    const int32_t word = load_global(p_.word + w.centre);
    const int count = output_count(o_, word);
    bool first = true;
    for (int begin = 0; begin < count; begin += kWarpSize) {
      const int number = begin + lane_index();
      const Output mine = o_.alias != nullptr ? word_or_negative(o_, word, draws, number, rate_)
                                              : path_node(o_, word, number, count, rate_);
      uint32_t left = ballot(mine.used);
      while (left != 0) {
        const Group group(mine, left);
        // CBOW's mean is not trained: its change goes to the contexts.
        const bool only = first && left == 0 && begin + kWarpSize >= count && !o_.cbow;
        train_group(w, group, only, first);
        first = false;
        if (only) return;
      }
    }
    if (!first) give_errors(w);
  }

  // Up to kGroup outputs; lane l knows output l % kGroup, all lanes know the rows.
  struct Group {
    int count = 0;
    float label, weight;
    int64_t row;

    // Takes them from the lanes `left`.
    SIMT_FN Group(const Output& mine, uint32_t& left) {
      int source = 0;
      SIMT_UNROLL
      for (int g = 0; g < kGroup; ++g) {
        if (left == 0) break;
        if (lane_index() % kGroup == g) source = lowest_bit(left);
        left &= left - 1;
        ++count;
      }
      label = shuffle(mine.label, source);
      weight = shuffle(mine.weight, source);
      row = shuffle(mine.row, source);
    }
  };

  SIMT_FN T* output_row(const Group& group, int g) const {
    return static_cast<T*>(o_.output) + shuffle(group.row, g) * o_.output_stride;
  }

  // only: these are all outputs, and the contexts change at once; else their changes are collected.
  SIMT_FN void train_group(const Window& w, const Group& group, bool only, bool first) {
    copy_outputs(group);
    const int contexts = o_.cbow ? 1 : w.contexts;
    SIMT_ROLL
    for (int c = 0; c < contexts; c += kTileRows) {
      const Tile tile = {c, contexts - c < kTileRows ? contexts - c : kTileRows, group.count};
      update(tile, gradient(tile, group, w.with_loss), only, first);
    }
    for (int g = 0; g < group.count; ++g) give_output(output_row(group, g), g);
  }

  struct Tile {
    int first_row;  // the first context's number in the window
    int contexts, outputs;
  };

  // The scratch row of the c-th context of the window.
  SIMT_FN int context_row(int c) const {
    if (o_.cbow) return 0;
    const int row = first_slot_ + c + (c >= before_centre_);
    return row < p_.layout.contexts ? row : row - p_.layout.contexts;
  }

  // Of the pair of context l / kGroup and output l % kGroup, in lane l.
  SIMT_FN float gradient(const Tile& tile, const Group& group, bool with_loss) {
    float sums[kWarpSize] = {};
    SIMT_ROLL
    for (int d = lane_index() * kWide; d < o_.width; d += kWarpSize * kWide) {
      Columns<kWide> h[kTileRows];
      SIMT_UNROLL
      for (int c = 0; c < kTileRows; ++c) {
        h[c] = scratch_.load(context_row(tile.first_row + (c < tile.contexts ? c : 0)), d);
      }
      SIMT_UNROLL
      for (int g = 0; g < kGroup; ++g) {
        if (g < tile.outputs) {
          const Columns<kWide> v = scratch_.load(p_.layout.output() + g, d);
          SIMT_UNROLL
          for (int c = 0; c < kTileRows; ++c) {
            sums[c * kGroup + g] = product(h[c], v, sums[c * kGroup + g]);
          }
        }
      }
    }
    const float x = sums_of_lanes(sums);
    if (lane_index() / kGroup >= tile.contexts || lane_index() % kGroup >= tile.outputs) return 0;
    if (with_loss) loss_ += softplus(group.label > 0 ? -x : x) * (group.weight / rate_);
    return group.weight * (group.label - sigmoid(x));
  }

  // For each context in order, for each output: e += g v; v += g h; then h += e. The lanes stay
  // together, for g comes from the lane that has it.
  SIMT_FN void update(const Tile& tile, float mine, bool only, bool first) {
    SIMT_ROLL
    for (int begin = 0; begin < o_.width; begin += kWarpSize * kWide) {
      const int d = begin + lane_index() * kWide;
      const bool inside = d < o_.width;
      Columns<kWide> v[kGroup] = {};
      SIMT_UNROLL
      for (int g = 0; g < kGroup; ++g) {
        if (inside && g < tile.outputs) v[g] = scratch_.load(p_.layout.output() + g, d);
      }
      SIMT_ROLL
      for (int c = 0; c < tile.contexts; ++c) {
        const int row = tile.first_row + c;
        Columns<kWide> h = {}, e = {};
        if (inside) h = scratch_.load(context_row(row), d);
        if (only) e = h;
        if (inside && !only && !first) e = scratch_.load(p_.layout.error() + row, d);
        SIMT_UNROLL
        for (int g = 0; g < kGroup; ++g) {
          const float factor = shuffle(mine, c * kGroup + g);  // 0 where there is no such output
          add(e, factor, v[g]);
          add(v[g], factor, h);
        }
        if (inside) scratch_.store(only ? context_row(row) : p_.layout.error() + row, d, e);
      }
      SIMT_UNROLL
      for (int g = 0; g < kGroup; ++g) {
        if (inside && g < tile.outputs) scratch_.store(p_.layout.output() + g, d, v[g]);
      }
    }
  }

  // All of them are under way before the first is stored.
  SIMT_FN void copy_outputs(const Group& group) {
    const T* rows[kGroup];
    SIMT_UNROLL
    for (int g = 0; g < kGroup; ++g) rows[g] = output_row(group, g);
    SIMT_ROLL
    for (int d = lane_index() * kWide; d < o_.width; d += kWarpSize * kWide) {
      Columns<kWide> v[kGroup];
      SIMT_UNROLL
      for (int g = 0; g < kGroup; ++g) {
        if (g < group.count) v[g] = load_current_columns<kWide>(rows[g] + d);
      }
      SIMT_UNROLL
      for (int g = 0; g < kGroup; ++g) {
        if (g < group.count) {
          scratch_.store(p_.layout.output() + g, d, v[g]);
          scratch_.store(p_.layout.output_before() + g, d, v[g]);
        }
      }
    }
  }

  SIMT_FN void give_output(T* row, int g) {
    SIMT_ROLL
    for (int d = lane_index() * kWide; d < o_.width; d += kWarpSize * kWide) {
      add_together(row + d, change(p_.layout.output() + g, p_.layout.output_before() + g, d),
                   noise_);
    }
  }

  SIMT_FN Columns<kWide> change(int now, int before, int d) const {
    Columns<kWide> x = scratch_.load(now, d);
    add(x, -1.0f, scratch_.load(before, d));
    return x;
  }

  // The collected changes of the contexts.
  SIMT_FN void give_errors(const Window& w) {
    for (int c = 0; c < w.contexts; ++c) {
      const InputRows rows = input_rows(w.context(c));
      SIMT_ROLL
      for (int d = lane_index() * kWide; d < o_.width; d += kWarpSize * kWide) {
        Columns<kWide> e = scratch_.load(p_.layout.error() + (o_.cbow ? 0 : c), d);
        if (o_.cbow) {
          SIMT_ROLL
          for (int r = 0; r < rows.count; ++r) add_together(rows.row(r) + d, e, noise_);
        } else {
          add(e, 1.0f, scratch_.load(context_row(c), d));
          scratch_.store(context_row(c), d, e);
        }
      }
    }
  }

  // Those of one word.
  struct InputRows {
    T* matrix;
    int64_t stride, word;
    const int32_t* subwords;  // null: its own
    int count;

    SIMT_FN T* row(int r) const {
      return matrix + (subwords == nullptr ? word : load_global(subwords + r)) * stride;
    }
  };

  SIMT_FN InputRows input_rows(int64_t j) const {
    const int32_t word = load_global(p_.word + j);
    T* matrix = static_cast<T*>(o_.input);
    if (o_.subword_offsets == nullptr) return {matrix, o_.input_stride, word, nullptr, 1};
    const int64_t begin = load_global(o_.subword_offsets + word);
    const int64_t end = load_global(o_.subword_offsets + word + 1);
    return {matrix, o_.input_stride, word, o_.subwords + begin, static_cast<int>(end - begin)};
  }

  static SIMT_FN void add_current(Columns<kWide>& sum, const InputRows& rows, int d) {
    for (int r = 0; r < rows.count; ++r) {
      add(sum, 1.0f, load_current_columns<kWide>(rows.row(r) + d));
    }
  }

  static SIMT_FN void divide(Columns<kWide>& sum, int count) {
    SIMT_UNROLL
    for (int i = 0; i < kWide; ++i) sum.x[i] /= static_cast<float>(count);
  }

  SIMT_FN int slot(int64_t j) const { return static_cast<int>(j - origin_) % p_.layout.contexts; }

  SIMT_FN void stage(int64_t j) {
    const InputRows rows = input_rows(j);
    SIMT_ROLL
    for (int d = lane_index() * kWide; d < o_.width; d += kWarpSize * kWide) {
      Columns<kWide> mean = {};
      add_current(mean, rows, d);
      divide(mean, rows.count);
      scratch_.store(slot(j), d, mean);
      scratch_.store(p_.layout.before() + slot(j), d, mean);
    }
  }

  // The words [begin, end) leave the ring.
  SIMT_FN void give_back(int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      if (in_ring(j)) give(j);
    }
  }

  // What has been added to the copy of a word is added to its rows.
  SIMT_FN void give(int64_t j) {
    const InputRows rows = input_rows(j);
    SIMT_ROLL
    for (int d = lane_index() * kWide; d < o_.width; d += kWarpSize * kWide) {
      const Columns<kWide> x = change(slot(j), p_.layout.before() + slot(j), d);
      SIMT_ROLL
      for (int r = 0; r < rows.count; ++r) add_together(rows.row(r) + d, x, noise_);
    }
  }

  // Row 0 = the mean of all rows of all contexts.
  SIMT_FN void make_mean(const Window& w) {
    SIMT_ROLL
    for (int d = lane_index() * kWide; d < o_.width; d += kWarpSize * kWide) {
      Columns<kWide> mean = {};
      int count = 0;
      for (int c = 0; c < w.contexts; ++c) {
        const InputRows rows = input_rows(w.context(c));
        add_current(mean, rows, d);
        count += rows.count;
      }
      divide(mean, count);
      scratch_.store(0, d, mean);
    }
  }

  const StepParams& p_;
  const StepOptions& o_;
  const int64_t count_;
  const uint64_t seed_;
  Scratch<kWide, kShared> scratch_;
  Noise noise_;
  int64_t origin_ = 0;     // no word that the stretch trains lies before it
  int first_slot_ = 0;     // of the window: the ring's place of its first word, and
  int before_centre_ = 0;  // how many of its contexts come before the centre
  float rate_ = 0.0f;
  float loss_ = 0.0f;
  int64_t loss_pairs_ = 0, pairs_ = 0;
};

template <typename T, int kWide, bool kShared>
struct StepKernel {
  using Params = StepParams;
  static constexpr int kThreads = kWarpSize, kMinBlocks = 8;

  static int shared_bytes(const Params& p) {
    return kShared ? p.layout.rows() * p.options.width * 4 : 0;
  }

  static SIMT_FN void run(const Params& p) { Trainer<T, kWide, kShared>(p).run(); }
};

}  // namespace ptmkernels::word_vectors::cuda
