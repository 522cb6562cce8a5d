// Skip-gram and CBOW over a stream of tokens (Mikolov et al. 2013), with the tiles of tile.h.
#pragma once

#include "common/scratch.h"
#include "word_vectors/cpu/bag.h"
#include "word_vectors/cpu/hot_rows.h"
#include "word_vectors/cpu/outputs.h"
#include "word_vectors/cpu/plan.h"
#include "word_vectors/cpu/rows.h"
#include "word_vectors/cpu/tile.h"

namespace ptmkernels::PTMKERNELS_CPU_ARCH {

constexpr int64_t kLossEvery = 64;  // the loss is taken from one window in so many

constexpr int32_t kLookAhead = 2;  // windows

// Rows of float32 and of whole cache lines are trained in place; others as padded copies, which
// live as long as a window (outputs) or a tile (inputs).
class Trainer {
 public:
  Trainer(const StepOptions& options, char* scratch, uint64_t rounding_seed)
      : options_(options),
        in_place_(!options.bfloat16 && options.width % kLine == 0),
        element_(options.bfloat16 ? 2 : 4),
        pitch_((options.width + kLine - 1) / kLine * kLine),
        outputs_(options) {
    for (int lane = 0; lane < kWidth; ++lane) {
      rounding_.state[lane] =
          static_cast<uint32_t>(rounding_seed * 2 + 1) * (2654435761u + 2 * lane);
    }
    tile_.width = pitch_;
    carve(scratch);
  }

  static size_t scratch_bytes(const StepOptions& options) {
    return Trainer(options, nullptr, 0).used_;
  }

  void run(StepWork& work) {
    if (has_hot_rows()) hot_rows_.start(options_, &work.chunks->busy);
    Planner planner(options_, *work.chunks);
    int current = 0;
    bool more = plan(planner, sentences_[0]);
    while (more) {
      const Sentence& sentence = sentences_[current];
      more = plan(planner, sentences_[1 - current]);
      following_ = more ? &sentences_[1 - current] : nullptr;
      train(sentence);
      current = 1 - current;
    }
    hot_rows_.finish();
    work.statistics = {loss_, static_cast<double>(loss_pairs_), static_cast<double>(pairs_),
                       static_cast<double>(words_)};
  }

 private:
  bool plan(Planner& planner, Sentence& sentence) {
    if (!planner.next(sentence)) return false;
    outputs_.locate(sentence, hot_rows_);
    for (int32_t i = 0; i < sentence.length && !options_.subword_offsets; ++i)
      sentence.input_rows[i] = input_row(sentence.word[i]);
    return true;
  }

  bool has_hot_rows() const { return options_.threads > 1 && in_place_; }

  void carve(char* block) {
    Scratch scratch(block);
    const int64_t negatives = options_.alias ? options_.negatives : 0;
    for (Sentence& sentence : sentences_) {
      sentence.word = scratch.take<int32_t>(kMaxSentence);
      sentence.reach = scratch.take<int32_t>(kMaxSentence);
      sentence.position = scratch.take<int64_t>(kMaxSentence);
      sentence.negatives = scratch.take<int32_t>(kMaxSentence * negatives);
      sentence.threshold = scratch.take<uint32_t>(kMaxSentence * negatives);
      sentence.input_rows = scratch.take<void*>(kMaxSentence);
      sentence.output_rows = scratch.take<void*>(kMaxSentence * (negatives + 1));
    }
    const int32_t most = outputs_.most();
    // Lane sums write up to 7 more than there are.
    tile_.pair_pitch = (most + 7 + kLine - 1) / kLine * kLine;
    outputs_.carve(scratch, tile_.pair_pitch, block);
    if (!in_place_) output_work_ = scratch.take<void*>(most);
    // Whole vectors of pairs are computed on, though a tile seldom fills the last ones.
    tile_.product = take_zeros(scratch, kTileRows * tile_.pair_pitch, block);
    tile_.gradient = scratch.take<float>(kTileRows * tile_.pair_pitch);
    rows_ = scratch.take<void*>((2 * options_.window + 1) * options_.max_subwords);
    tile_.change = take_zeros(scratch, pitch_, block);
    hidden_ = take_zeros(scratch, pitch_, block);
    // Copies keep zeros between the end of a row and that of its last line.
    if (!in_place_) {
      output_copies_ = take_zeros(scratch, most * pitch_, block);
      input_copies_ = take_zeros(scratch, kTileRows * pitch_, block);
    }
    if (options_.subword_offsets && !options_.cbow) {
      staged_ = take_zeros(scratch, ring() * pitch_, block);
      staged_from_ = take_zeros(scratch, ring() * pitch_, block);
    }
    if (has_hot_rows()) hot_rows_.carve(scratch, pitch_);
    used_ = scratch.used();
  }

  int32_t ring() const { return 2 * options_.window + 1; }

  PTMKERNELS_INLINE void* input_row(int64_t row) const {
    return static_cast<char*>(options_.input) + row * options_.input_stride * element_;
  }

  float learning_rate(int64_t position) const {
    const double left =
        1.0 - static_cast<double>(position) / (static_cast<double>(options_.total) + 1);
    const float rate = options_.learning_rate * static_cast<float>(left);
    return rate > options_.min_learning_rate ? rate : options_.min_learning_rate;
  }

  void train(const Sentence& sentence) {
    rate_ = learning_rate(sentence.position[0]);
    outputs_.set_rate(rate_);
    words_ += sentence.length;
    if (staged_) stage_first(sentence);
    for (int32_t i = 0; i < sentence.length; ++i) {
      find_contexts(sentence, i);
      if (contexts_ > 0) {
        with_loss_ = sentence.position[i] % kLossEvery == 0;
        pairs_ += contexts_;
        find_outputs(sentence, i);
        look_ahead(sentence, i);
        options_.cbow ? train_cbow(sentence) : train_skipgram(sentence);
        if (!in_place_) return_outputs();
        hot_rows_.exchange_one();
      }
      if (staged_) stage_next(sentence, i);
    }
  }

  void find_contexts(const Sentence& sentence, int32_t i) {
    const int32_t reach = sentence.reach[i];
    const int32_t high = i + reach < sentence.length ? i + reach : sentence.length - 1;
    centre_ = i;
    first_ = i > reach ? i - reach : 0;
    contexts_ = high - first_;
  }

  // The place of the k-th word within reach.
  PTMKERNELS_INLINE int32_t context(int32_t k) const {
    const int32_t j = first_ + k;
    return j < centre_ ? j : j + 1;
  }

  void find_outputs(const Sentence& sentence, int32_t i) {
    outputs_.find(sentence, i, hot_rows_);
    if (!in_place_) copy_outputs();
    tile_.outputs = in_place_ ? outputs_.rows : output_work_;
    tile_.labels = outputs_.labels;
    tile_.weights = outputs_.weights;
    tile_.output_count = outputs_.count;
  }

  void copy_outputs() {
    for (int32_t o = 0; o < outputs_.count; ++o) {
      float* copy = output_copies_ + int64_t{o} * pitch_;
      output_work_[o] = copy;
      widen_to(copy, outputs_.rows[o], options_.bfloat16, options_.width);
    }
  }

  void return_outputs() {
    for (int32_t o = 0; o < outputs_.count; ++o)
      write_row<false>(outputs_.rows[o], floats(output_work_[o]));
  }

  template <bool Add>
  void write_row(void* row, const float* x) {
    change_row<Add>(row, x, options_.bfloat16, options_.width, rounding_);
  }

  // The next word of the stream, and its place in which sentence.
  PTMKERNELS_INLINE const Sentence* at(const Sentence& sentence, int32_t* place) const {
    if (*place < sentence.length) return &sentence;
    *place -= sentence.length;
    return following_ && *place < following_->length ? following_ : nullptr;
  }

  // The output rows of a window to come, and the input row that enters it.
  void look_ahead(const Sentence& sentence, int32_t i) {
    ahead_.start(options_.cbow ? 1 : (contexts_ + kTileRows - 1) / kTileRows, element_);
    int32_t place = i + kLookAhead;
    if (const Sentence* next = at(sentence, &place)) {
      outputs_.look_ahead(*next, place, hot_rows_, ahead_);
    }
    place = i + options_.window + kLookAhead;
    const Sentence* next = options_.subword_offsets ? nullptr : at(sentence, &place);
    if (next) ahead_.add(next->input_rows[place]);
  }

  void train_skipgram(const Sentence& sentence) {
    for (int32_t c = 0; c < contexts_; c += kTileRows) {
      tile_.row_count = contexts_ - c < kTileRows ? contexts_ - c : kTileRows;
      for (int r = 0; r < tile_.row_count; ++r) tile_.rows[r] = borrow(sentence, context(c + r), r);
      if (train_tile() && tile_.row_count == 1) add_to_bag(tile_.rows, 1, tile_.change, pitch_);
      give_back_copies();
    }
    if (with_loss_) loss_pairs_ += contexts_;
  }

  // The r-th row of a tile as float32.
  PTMKERNELS_INLINE float* borrow(const Sentence& sentence, int32_t j, int r) {
    if (staged_) return staged_ + j % ring() * pitch_;
    void* row = sentence.input_rows[j];
    if (in_place_) return static_cast<float*>(row);
    borrowed_[r] = row;
    for (int k = 0; k < r; ++k) {
      if (borrowed_[k] != row) continue;
      borrowed_[r] = nullptr;  // a word that the tile has already
      return input_copies_ + k * pitch_;
    }
    widen_to(input_copies_ + r * pitch_, row, options_.bfloat16, options_.width);
    return input_copies_ + r * pitch_;
  }

  PTMKERNELS_INLINE void give_back_copies() {
    if (in_place_ || staged_) return;
    for (int r = 0; r < tile_.row_count; ++r) {
      if (borrowed_[r]) write_row<false>(borrowed_[r], input_copies_ + r * pitch_);
    }
  }

  // False: there is nothing to train against.
  PTMKERNELS_INLINE bool train_tile() {
    if (outputs_.count == 0) return false;
    run_tile(tile_, ahead_);
    if (with_loss_) add_loss();
    return true;
  }

  // -log sigmoid(x) for the word, -log sigmoid(-x) for noise, at the products before the update.
  PTMKERNELS_NOINLINE void add_loss() {
    for (int r = 0; r < tile_.row_count; ++r) {
      for (int o = 0; o < tile_.output_count; ++o) {
        const float x = tile_.product[r * tile_.pair_pitch + o];
        const float wrong = tile_.labels[o] > 0 ? -x : x;
        const float magnitude = __builtin_fabsf(x);
        const float loss = (wrong > 0 ? wrong : 0) + __builtin_log1pf(__builtin_expf(-magnitude));
        loss_ += loss * (tile_.weights[o] / rate_);
      }
    }
  }

  // One row, the mean of the context rows, against the outputs; its change goes to every one of
  // them.
  void train_cbow(const Sentence& sentence) {
    const int32_t rows = options_.subword_offsets ? gather_contexts(sentence) : near(sentence);
    if (in_place_) {
      mean_of_bag(hidden_, rows_, rows, pitch_);
    } else {
      mean_of(hidden_, rows_, rows, options_.bfloat16, options_.width);
    }
    tile_.row_count = 1;
    tile_.rows[0] = hidden_;
    if (with_loss_) loss_pairs_ += 1;
    if (!train_tile()) return;
    if (in_place_) return add_to_bag(rows_, rows, tile_.change, pitch_);
    for (int32_t r = 0; r < rows; ++r) write_row<true>(rows_[r], tile_.change);
  }

  // Copies the rows of all contexts: the row of the last one takes the place of the centre's.
  PTMKERNELS_INLINE int32_t near(const Sentence& sentence) {
    for (int32_t k = 0; k <= contexts_; ++k) rows_[k] = sentence.input_rows[first_ + k];
    rows_[centre_ - first_] = rows_[contexts_];
    return contexts_;
  }

  int32_t gather_contexts(const Sentence& sentence) {
    int32_t rows = 0;
    for (int32_t k = 0; k < contexts_; ++k) rows += gather(sentence.word[context(k)], rows_ + rows);
    return rows;
  }

  // The input rows of a word.
  PTMKERNELS_INLINE int32_t gather(int32_t word, void** rows) const {
    if (!options_.subword_offsets) {
      rows[0] = input_row(word);
      return 1;
    }
    const int64_t begin = options_.subword_offsets[word], end = options_.subword_offsets[word + 1];
    for (int64_t s = begin; s < end; ++s) rows[s - begin] = input_row(options_.subwords[s]);
    return static_cast<int32_t>(end - begin);
  }

  // With sub-words, a word's row is the mean of several. It is made when the word comes into reach,
  // trained as a row of its own, and its change given back to all of them when it has left.
  void stage_first(const Sentence& sentence) {
    for (int32_t j = 0; j <= options_.window && j < sentence.length; ++j) stage(sentence, j);
  }

  void stage_next(const Sentence& sentence, int32_t i) {
    const int32_t leaving = i - options_.window, entering = i + options_.window + 1;
    if (leaving >= 0) give_back(sentence, leaving);
    if (entering < sentence.length) stage(sentence, entering);
    if (i + 1 < sentence.length) return;
    for (int32_t j = leaving < 0 ? 0 : leaving + 1; j < sentence.length; ++j)
      give_back(sentence, j);
  }

  void stage(const Sentence& sentence, int32_t j) {
    float* row = staged_ + j % ring() * pitch_;
    const int32_t rows = gather(sentence.word[j], rows_);
    mean_of(row, rows_, rows, options_.bfloat16, options_.width);
    __builtin_memcpy(staged_from_ + j % ring() * pitch_, row, options_.width * sizeof(float));
  }

  void give_back(const Sentence& sentence, int32_t j) {
    float* row = staged_ + j % ring() * pitch_;
    const float* from = staged_from_ + j % ring() * pitch_;
    for (int32_t d = 0; d < options_.width; ++d) row[d] -= from[d];
    const int32_t rows = gather(sentence.word[j], rows_);
    for (int32_t r = 0; r < rows; ++r) write_row<true>(rows_[r], row);
  }

  const StepOptions& options_;
  const bool in_place_;
  const int32_t element_;  // bytes of one
  const int32_t pitch_;    // of rows in the scratch memory
  float rate_ = 0;
  bool with_loss_ = false;
  Rounding rounding_;
  double loss_ = 0;
  int64_t loss_pairs_ = 0, pairs_ = 0, words_ = 0;
  Sentence sentences_[2] = {};
  const Sentence* following_ = nullptr;
  Tile tile_ = {};
  Ahead ahead_;
  Outputs outputs_;
  HotRows hot_rows_;
  int32_t centre_ = 0, first_ = 0;  // places in the sentence: of the word, and of its first context
  int32_t contexts_ = 0;            // words within reach
  void** rows_ = nullptr;           // of the contexts
  void** output_work_ =
      nullptr;  // copies of the outputs' rows, where they are not trained in place
  void* borrowed_[kTileRows] = {};
  float* hidden_ = nullptr;
  float* output_copies_ = nullptr;
  float* input_copies_ = nullptr;
  float* staged_ = nullptr;
  float* staged_from_ = nullptr;
  size_t used_ = 0;
};

inline void run_step(StepWork& work) {
  const auto seed =
      work.options->seed + static_cast<uint64_t>(work.options->position + work.thread);
  Trainer(*work.options, work.scratch, seed).run(work);
}

inline size_t step_scratch_bytes(const StepOptions& options) {
  return Trainer::scratch_bytes(options);
}

}  // namespace ptmkernels::PTMKERNELS_CPU_ARCH
