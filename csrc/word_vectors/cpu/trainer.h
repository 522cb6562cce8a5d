// Skip-gram and CBOW over a stream of tokens (Mikolov et al. 2013), with the tiles of tile.h.
#pragma once

#include "common/scratch.h"
#include "word_vectors/cpu/hot_rows.h"
#include "word_vectors/cpu/plan.h"
#include "word_vectors/cpu/rows.h"
#include "word_vectors/cpu/tile.h"

namespace ptmkernels::PTMKERNELS_CPU_ARCH {

constexpr int64_t kLossEvery = 64;  // the loss is taken from one window in so many

constexpr int32_t kLookAhead = 2;  // windows

// What a centre word is scored against: itself and its negatives, or the nodes of its path.
struct Outputs {
  void** rows;
  void** work;  // the rows as the tiles take them: `rows` themselves, or copies
  float* labels;
  float* weights;
  int32_t count;
};

// Rows of float32 and of whole cache lines are trained in place; others as padded copies, which
// live as long as a window (outputs) or a tile (inputs).
class Trainer {
 public:
  Trainer(const StepOptions& options, char* scratch, uint64_t rounding_seed)
      : options_(options),
        in_place_(!options.bfloat16 && options.width % kLine == 0),
        element_(options.bfloat16 ? 2 : 4),
        pitch_((options.width + kLine - 1) / kLine * kLine) {
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
    statistics_ = &work.statistics;
    if (has_hot_rows()) hot_rows_.start(options_, &work.chunks->busy);
    Planner planner(options_, *work.chunks);
    int current = 0;
    bool more = planner.next(sentences_[0]);
    while (more) {
      const Sentence& sentence = sentences_[current];
      more = planner.next(sentences_[1 - current]);
      following_ = more ? &sentences_[1 - current] : nullptr;
      train(sentence);
      current = 1 - current;
    }
    hot_rows_.finish();
  }

 private:
  bool has_hot_rows() const { return options_.threads > 1 && in_place_; }

  // Copies keep zeros between the end of a row and that of its last line.
  float* take_rows(Scratch& scratch, int64_t count, bool zero) {
    float* rows = scratch.take<float>(count * pitch_);
    if (zero) __builtin_memset(rows, 0, static_cast<size_t>(count * pitch_) * sizeof(float));
    return rows;
  }

  void carve(char* block) {
    Scratch scratch(block);
    const int64_t negatives = options_.alias ? options_.negatives : 0;
    for (Sentence& sentence : sentences_) {
      sentence.word = scratch.take<int32_t>(kMaxSentence);
      sentence.reach = scratch.take<int32_t>(kMaxSentence);
      sentence.position = scratch.take<int64_t>(kMaxSentence);
      sentence.negatives = scratch.take<int32_t>(kMaxSentence * negatives);
      sentence.threshold = scratch.take<uint32_t>(kMaxSentence * negatives);
    }
    const int64_t most = options_.alias ? negatives + 1 : kMaxPath;
    tile_.pair_pitch = static_cast<int32_t>((most + 3 + kLine - 1) / kLine * kLine);
    outputs_ = {scratch.take<void*>(most), nullptr, scratch.take<float>(tile_.pair_pitch),
                scratch.take<float>(tile_.pair_pitch), 0};
    outputs_.work = in_place_ ? outputs_.rows : scratch.take<void*>(most);
    tile_.outputs = outputs_.work;
    tile_.labels = outputs_.labels;
    tile_.weights = outputs_.weights;
    tile_.product = scratch.take<float>(kTileRows * tile_.pair_pitch);
    tile_.gradient = scratch.take<float>(kTileRows * tile_.pair_pitch);
    contexts_ = scratch.take<int32_t>(2 * options_.window);
    rows_ = scratch.take<void*>(2 * options_.window * options_.max_subwords);
    error_ = take_rows(scratch, 1, block);
    hidden_ = take_rows(scratch, 1, block);
    if (!in_place_) {
      output_copies_ = take_rows(scratch, most, block);
      input_copies_ = take_rows(scratch, kTileRows, block);
    }
    if (options_.subword_offsets && !options_.cbow) {
      staged_ = take_rows(scratch, ring(), block);
      staged_from_ = take_rows(scratch, ring(), block);
    }
    if (has_hot_rows()) hot_rows_.carve(scratch, pitch_);
    used_ = scratch.used();
  }

  int32_t ring() const { return 2 * options_.window + 1; }

  PTMKERNELS_INLINE void* input_row(int64_t row) const {
    return static_cast<char*>(options_.input) + row * options_.input_stride * element_;
  }
  PTMKERNELS_INLINE void* output_row(int64_t row) const {
    if (__builtin_expect(hot_rows_.has(row), false)) return hot_rows_.copy_of(row);
    return static_cast<char*>(options_.output) + row * options_.output_stride * element_;
  }

  float learning_rate(int64_t position) const {
    const double left =
        1.0 - static_cast<double>(position) / (static_cast<double>(options_.total) + 1);
    const float rate = options_.learning_rate * static_cast<float>(left);
    return rate > options_.min_learning_rate ? rate : options_.min_learning_rate;
  }

  void train(const Sentence& sentence) {
    rate_ = learning_rate(sentence.position[0]);
    if (!options_.alias) {
      for (int32_t n = 0; n < kMaxPath; ++n) outputs_.weights[n] = rate_;
    }
    statistics_->words += sentence.length;
    if (staged_) stage_first(sentence);
    for (int32_t i = 0; i < sentence.length; ++i) {
      const int32_t contexts = find_contexts(sentence, i);
      if (contexts) {
        with_loss_ = sentence.position[i] % kLossEvery == 0;
        statistics_->pairs += contexts;
        find_outputs(sentence, i);
        look_ahead(sentence, i, contexts);
        if (!in_place_) copy_outputs();
        options_.cbow ? train_cbow(sentence, contexts) : train_skipgram(sentence, contexts);
        if (!in_place_) return_outputs();
        hot_rows_.exchange_one();
      }
      if (staged_) stage_next(sentence, i);
    }
  }

  // The places of the words within reach of word i.
  int32_t find_contexts(const Sentence& sentence, int32_t i) {
    const int32_t reach = sentence.reach[i];
    const int32_t low = i > reach ? i - reach : 0;
    const int32_t high = i + reach < sentence.length ? i + reach : sentence.length - 1;
    int32_t count = 0;
    for (int32_t j = low; j <= high; ++j) {
      contexts_[count] = j;
      count += j != i;
    }
    return count;
  }

  void find_outputs(const Sentence& sentence, int32_t i) {
    const int32_t word = sentence.word[i];
    if (options_.alias) {
      find_word_and_negatives(word, sentence.negatives + int64_t{i} * options_.negatives);
    } else {
      find_path(word);
    }
    tile_.output_count = outputs_.count;
  }

  void find_word_and_negatives(int32_t word, const int32_t* negatives) {
    outputs_.rows[0] = output_row(word);
    outputs_.labels[0] = 1;
    outputs_.weights[0] = rate_;
    int32_t count = 1;
    for (int32_t n = 0; n < options_.negatives; ++n) {
      if (negatives[n] == word) continue;
      void* row = output_row(negatives[n]);
      int32_t same = 1;
      while (same < count && outputs_.rows[same] != row) ++same;
      if (same < count) {
        outputs_.weights[same] += rate_;
        continue;
      }
      outputs_.rows[count] = row;
      outputs_.labels[count] = 0;
      outputs_.weights[count++] = rate_;
    }
    outputs_.count = count;
  }

  void find_path(int32_t word) {
    const int64_t begin = options_.tree_offsets[word], end = options_.tree_offsets[word + 1];
    const int32_t* path = options_.tree_path + begin;
    outputs_.count = static_cast<int32_t>(end - begin);
    for (int32_t n = 0; n < outputs_.count; ++n) outputs_.rows[n] = output_row(path[n] >> 1);
    for (int32_t n = 0; n < outputs_.count; ++n) {
      outputs_.labels[n] = static_cast<float>(1 - (path[n] & 1));
    }
  }

  void copy_outputs() {
    for (int32_t o = 0; o < outputs_.count; ++o) {
      float* copy = output_copies_ + int64_t{o} * pitch_;
      outputs_.work[o] = copy;
      widen_to(copy, outputs_.rows[o], options_.bfloat16, options_.width);
    }
  }

  void return_outputs() {
    for (int32_t o = 0; o < outputs_.count; ++o)
      write_row<false>(outputs_.rows[o], floats(outputs_.work[o]));
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

  // The output rows of the next window, and the input row that enters it.
  void look_ahead(const Sentence& sentence, int32_t i, int32_t contexts) {
    ahead_.start(options_.cbow ? 1 : (contexts + kTileRows - 1) / kTileRows, element_);
    int32_t place = i + kLookAhead;
    if (const Sentence* next = at(sentence, &place)) {
      const int32_t word = next->word[place];
      if (options_.alias) {
        ahead_.add(output_row(word));
        const int32_t* negatives = next->negatives + int64_t{place} * options_.negatives;
        for (int32_t n = 0; n < options_.negatives; ++n) ahead_.add(output_row(negatives[n]));
      } else {
        // The nodes near the root are in the cache, the last ones of the path may not be.
        const int64_t begin = options_.tree_offsets[word], end = options_.tree_offsets[word + 1];
        for (int64_t p = end - 1; p >= begin && p > end - 7; --p) {
          ahead_.add(output_row(options_.tree_path[p] >> 1));
        }
      }
    }
    place = i + options_.window + kLookAhead;
    const Sentence* next = options_.subword_offsets ? nullptr : at(sentence, &place);
    if (next) ahead_.add(input_row(next->word[place]));
  }

  void train_skipgram(const Sentence& sentence, int32_t contexts) {
    for (int32_t c = 0; c < contexts; c += kTileRows) {
      tile_.row_count = contexts - c < kTileRows ? contexts - c : kTileRows;
      for (int r = 0; r < tile_.row_count; ++r)
        tile_.rows[r] = borrow(sentence, contexts_[c + r], r);
      tile_.receivers = tile_.rows;
      tile_.receiver_count = 1;
      train_tile();
      give_back_copies();
    }
    if (with_loss_) statistics_->loss_pairs += contexts;
  }

  // The r-th row of a tile as float32.
  PTMKERNELS_INLINE float* borrow(const Sentence& sentence, int32_t j, int r) {
    if (staged_) return staged_ + j % ring() * pitch_;
    void* row = input_row(sentence.word[j]);
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

  PTMKERNELS_INLINE void train_tile() {
    if (outputs_.count == 0) return;
    run_tile(tile_, ahead_);
    if (with_loss_) add_loss();
  }

  // -log sigmoid(x) for the word, -log sigmoid(-x) for noise, at the products before the update.
  PTMKERNELS_NOINLINE void add_loss() {
    for (int r = 0; r < tile_.row_count; ++r) {
      for (int o = 0; o < tile_.output_count; ++o) {
        const float x = tile_.product[r * tile_.pair_pitch + o];
        const float wrong = tile_.labels[o] > 0 ? -x : x;
        const float magnitude = __builtin_fabsf(x);
        const float loss = (wrong > 0 ? wrong : 0) + __builtin_log1pf(__builtin_expf(-magnitude));
        statistics_->loss += loss * (tile_.weights[o] / rate_);
      }
    }
  }

  // One row, the mean of the context rows, against the outputs; its change goes to every one of
  // them.
  void train_cbow(const Sentence& sentence, int32_t contexts) {
    int32_t rows = 0;
    for (int32_t c = 0; c < contexts; ++c)
      rows += gather(sentence.word[contexts_[c]], rows_ + rows);
    mean_of(hidden_, rows_, rows, options_.bfloat16, options_.width);
    tile_.row_count = 1;
    tile_.rows[0] = hidden_;
    if (in_place_) {
      tile_.receivers = rows_;
      tile_.receiver_count = rows;
      train_tile();
    } else {
      void* error = error_;
      tile_.receivers = &error;
      tile_.receiver_count = 1;
      __builtin_memset(error_, 0, static_cast<size_t>(pitch_) * sizeof(float));
      train_tile();
      for (int32_t r = 0; r < rows; ++r) write_row<true>(rows_[r], error_);
    }
    if (with_loss_) statistics_->loss_pairs += 1;
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

  static constexpr int32_t kMaxPath = 96;  // a Huffman code over 63-bit counts has at most 91 bits

  const StepOptions& options_;
  const bool in_place_;
  const int32_t element_;  // bytes of one
  const int32_t pitch_;    // of rows in the scratch memory
  float rate_ = 0;
  bool with_loss_ = false;
  Rounding rounding_;
  StepStatistics* statistics_ = nullptr;
  Sentence sentences_[2] = {};
  const Sentence* following_ = nullptr;
  Tile tile_ = {};
  Ahead ahead_;
  Outputs outputs_ = {};
  HotRows hot_rows_;
  int32_t* contexts_ = nullptr;
  void** rows_ = nullptr;
  void* borrowed_[kTileRows] = {};
  float* error_ = nullptr;
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
