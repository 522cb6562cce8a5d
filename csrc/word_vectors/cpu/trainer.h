// Skip-gram and CBOW over a stream of tokens (Mikolov et al. 2013), with the tiles of tile.h.
#pragma once

#include "word_vectors/cpu/plan.h"
#include "word_vectors/cpu/tile.h"

namespace ptmkernels::PTMKERNELS_CPU_ARCH {

constexpr int64_t kLossEvery = 16;  // the loss is taken from one window in so many

// What a centre word is scored against: itself and its negatives, or the nodes of its path.
template <class V>
struct Outputs {
  V** rows;
  float* labels;
  float* weights;
  int32_t count;
};

// Memory carved from one block; over a null block it measures.
class Carver {
 public:
  explicit Carver(char* block) : at_(reinterpret_cast<uintptr_t>(block)) {}
  template <class T>
  T* take(int64_t count) {
    T* result = reinterpret_cast<T*>(at_);
    at_ += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return result;
  }
  size_t used() const { return at_; }

 private:
  uintptr_t at_;
};

// T: the element type of both matrices.
template <class T>
class Trainer {
 public:
  Trainer(const StepOptions& options, char* scratch, uint64_t rounding_seed)
      : options_(options),
        input_(static_cast<T*>(options.input)),
        output_(static_cast<T*>(options.output)),
        pitch_((options.width + 15) / 16 * 16) {
    for (int lane = 0; lane < kWidth; ++lane) {
      rounding_.state[lane] =
          static_cast<uint32_t>(rounding_seed * 2 + 1) * (2654435761u + 2 * lane);
    }
    carve(scratch);
  }

  static size_t scratch_bytes(const StepOptions& options) {
    return Trainer(options, nullptr, 0).used_;
  }

  void run(StepWork& work) {
    statistics_ = &work.statistics;
    Planner planner(options_, work.begin, work.end);
    int current = 0;
    bool more = planner.next(sentences_[0]);
    while (more) {
      const Sentence& sentence = sentences_[current];
      more = planner.next(sentences_[1 - current]);
      following_ = more ? &sentences_[1 - current] : nullptr;
      train(sentence);
      current = 1 - current;
    }
  }

 private:
  void carve(char* scratch) {
    Carver carver(scratch);
    const int64_t negatives = options_.alias ? options_.negatives : 0;
    for (Sentence& sentence : sentences_) {
      sentence.word = carver.take<int32_t>(kMaxSentence);
      sentence.reach = carver.take<int32_t>(kMaxSentence);
      sentence.position = carver.take<int64_t>(kMaxSentence);
      sentence.negatives = carver.take<int32_t>(kMaxSentence * negatives);
      sentence.threshold = carver.take<uint32_t>(kMaxSentence * negatives);
    }
    const int64_t most = options_.alias ? negatives + 1 : kMaxPath;
    outputs_ = {carver.take<T*>(most), carver.take<float>(most), carver.take<float>(most), 0};
    errors_ = carver.take<float>(kTileRows * pitch_);
    hidden_ = carver.take<float>(pitch_);
    contexts_ = carver.take<int32_t>(2 * options_.window);
    rows_ = carver.take<T*>(2 * options_.window * options_.max_subwords);
    if (options_.subword_offsets && !options_.cbow) {
      staged_ = carver.take<float>(ring() * pitch_);
      staged_from_ = carver.take<float>(ring() * pitch_);
    }
    used_ = carver.used();
  }

  int32_t ring() const { return 2 * options_.window + 1; }

  PTMKERNELS_INLINE T* input_row(int64_t row) const { return input_ + row * options_.input_stride; }
  PTMKERNELS_INLINE T* output_row(int64_t row) const {
    return output_ + row * options_.output_stride;
  }

  float learning_rate(int64_t position) const {
    const double left =
        1.0 - static_cast<double>(position) / (static_cast<double>(options_.total) + 1);
    const float rate = options_.learning_rate * static_cast<float>(left);
    return rate > options_.min_learning_rate ? rate : options_.min_learning_rate;
  }

  void train(const Sentence& sentence) {
    rate_ = learning_rate(sentence.position[0]);
    statistics_->words += sentence.length;
    if (staged_) stage_first(sentence);
    for (int32_t i = 0; i < sentence.length; ++i) {
      const int32_t contexts = find_contexts(sentence, i);
      if (contexts) {
        find_outputs(sentence, i);
        fetch_inputs(sentence, i);
        statistics_->pairs += contexts;
        const bool with_loss = sentence.position[i] % kLossEvery == 0;
        if (options_.cbow) {
          train_cbow(sentence, i, contexts, with_loss);
        } else if (staged_) {
          train_skipgram<float>(sentence, i, contexts, with_loss,
                                [&](int32_t j) { return staged_ + j % ring() * pitch_; });
        } else {
          train_skipgram<T>(sentence, i, contexts, with_loss,
                            [&](int32_t j) { return input_row(sentence.word[j]); });
        }
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
    if (!options_.alias) return find_path(word);
    outputs_.rows[0] = output_row(word);
    outputs_.labels[0] = 1;
    outputs_.weights[0] = rate_;
    int32_t count = 1;
    const int32_t* negatives = sentence.negatives + static_cast<int64_t>(i) * options_.negatives;
    for (int32_t n = 0; n < options_.negatives; ++n) {
      if (negatives[n] == word) continue;
      T* row = output_row(negatives[n]);
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
    outputs_.count = static_cast<int32_t>(end - begin);
    for (int32_t n = 0; n < outputs_.count; ++n) {
      const int32_t entry = options_.tree_path[begin + n];
      outputs_.rows[n] = output_row(entry >> 1);
      outputs_.labels[n] = static_cast<float>(1 - (entry & 1));
      outputs_.weights[n] = rate_;
    }
  }

  // The input row that enters the window with the next centre word.
  PTMKERNELS_INLINE void fetch_inputs(const Sentence& sentence, int32_t i) const {
    int32_t place = i + options_.window + 1;
    const Sentence* from = &sentence;
    if (place >= sentence.length && following_) {
      from = following_;
      place -= sentence.length;
    }
    if (place >= from->length || options_.subword_offsets) return;
    const char* row = reinterpret_cast<const char*>(input_row(from->word[place]));
    for (size_t byte = 0; byte < options_.width * sizeof(T); byte += 64) {
      __builtin_prefetch(row + byte, 1);
    }
  }

  // The first output rows of the next window.
  PTMKERNELS_INLINE void look_ahead(const Sentence& sentence, int32_t i, Ahead<T>& ahead) const {
    const Sentence* from = &sentence;
    int32_t place = i + 1;
    if (place >= sentence.length) {
      from = following_;
      place = 0;
    }
    for (int r = 0; r < kTileOutputs; ++r) ahead.rows[r] = outputs_.rows[0];
    if (!from) return;
    const int32_t word = from->word[place];
    if (!options_.alias) {
      // The nodes near the root are in the cache; the last ones of the path are those to wait for.
      const int64_t begin = options_.tree_offsets[word], end = options_.tree_offsets[word + 1];
      for (int64_t r = 0; r < kTileOutputs && end - 1 - r >= begin; ++r) {
        ahead.rows[r] = output_row(options_.tree_path[end - 1 - r] >> 1);
      }
      return;
    }
    ahead.rows[0] = output_row(word);
    const int32_t* negatives = from->negatives + static_cast<int64_t>(place) * options_.negatives;
    for (int r = 1; r < kTileOutputs && r <= options_.negatives; ++r) {
      ahead.rows[r] = output_row(negatives[r - 1]);
    }
  }

  template <class H, class Row>
  PTMKERNELS_INLINE void train_skipgram(const Sentence& sentence, int32_t i, int32_t contexts,
                                        bool with_loss, const Row& row) {
    Ahead<T> ahead;
    look_ahead(sentence, i, ahead);
    Tile<H, T> tile;
    for (int32_t c = 0; c < contexts; c += kTileRows) {
      const int rows = contexts - c < kTileRows ? contexts - c : kTileRows;
      for (int r = 0; r < rows; ++r) tile.rows[r] = row(contexts_[c + r]);
      run_outputs(tile, rows, ahead, with_loss);
    }
    if (with_loss) statistics_->loss_pairs += contexts;
  }

  // The rows of a tile against all outputs.
  template <class H>
  void run_outputs(Tile<H, T>& tile, int rows, const Ahead<T>& ahead, bool with_loss) {
    tile.width = options_.width;
    if (outputs_.count == 0) return;
    if (outputs_.count <= kTileOutputs) {
      run_tile_at<true>(tile, rows, 0, outputs_.count, ahead, with_loss);
      return;
    }
    collect_errors(tile, rows, ahead, with_loss);
    for (int r = 0; r < rows; ++r) add_to_row(tile.rows[r], errors_ + r * pitch_);
  }

  // errors_ = the change of each row of the tile; the rows themselves stay as they are.
  template <class H>
  void collect_errors(Tile<H, T>& tile, int rows, const Ahead<T>& ahead, bool with_loss) {
    tile.errors = errors_;
    tile.error_stride = pitch_;
    for (int64_t k = 0; k < static_cast<int64_t>(rows) * pitch_; k += kWidth) {
      store(errors_ + k, Vec{});
    }
    const int32_t tiles = (outputs_.count + kTileOutputs - 1) / kTileOutputs;
    for (int32_t t = 0, first = 0; t < tiles; ++t) {
      const int32_t count = (outputs_.count - first + tiles - t - 1) / (tiles - t);
      run_tile_at<false>(tile, rows, first, count, ahead, with_loss);
      first += count;
    }
  }

  template <class H>
  PTMKERNELS_INLINE void fill_outputs(Tile<H, T>& tile, int32_t first, int32_t count) const {
    for (int32_t o = 0; o < count; ++o) {
      tile.outputs[o] = outputs_.rows[first + o];
      tile.label[o] = outputs_.labels[first + o];
      tile.weight[o] = outputs_.weights[first + o];
    }
  }

  template <bool Direct, class H>
  PTMKERNELS_INLINE void run_tile_at(Tile<H, T>& tile, int rows, int32_t first, int32_t count,
                                     const Ahead<T>& ahead, bool with_loss) {
    fill_outputs(tile, first, count);
    tile_function<Direct, H, T>(rows, count)(tile, ahead, rounding_);
    if (with_loss) add_loss(tile.product, tile, rows, count);
  }

  // -log sigmoid(x) for the word, -log sigmoid(-x) for noise, at the products before the update.
  template <class H>
  PTMKERNELS_NOINLINE void add_loss(const float* products, const Tile<H, T>& tile, int rows,
                                    int count) {
    for (int r = 0; r < rows; ++r) {
      for (int o = 0; o < count; ++o) {
        const float x = products[r * count + o];
        const float wrong = tile.label[o] > 0 ? -x : x;
        const float magnitude = __builtin_fabsf(x);
        const float loss = (wrong > 0 ? wrong : 0) + __builtin_log1pf(__builtin_expf(-magnitude));
        statistics_->loss += loss * (tile.weight[o] / rate_);
      }
    }
  }

  template <class H>
  PTMKERNELS_INLINE void add_to_row(H* row, const float* change) {
    for_columns(options_.width, [&](Columns at, auto whole) __attribute__((always_inline)) {
      const Vec sum = at.load<whole.value>(row) + load(change + at.d);
      at.store<whole.value>(row, sum, rounding_);
    });
  }

  // One row, the mean of the context rows, against the outputs; its change goes to every one of
  // them.
  void train_cbow(const Sentence& sentence, int32_t i, int32_t contexts, bool with_loss) {
    int32_t rows = 0;
    for (int32_t c = 0; c < contexts; ++c)
      rows += gather(sentence.word[contexts_[c]], rows_ + rows);
    Ahead<T> ahead;
    look_ahead(sentence, i, ahead);
    Tile<float, T> tile;
    tile.rows[0] = hidden_;
    tile.width = options_.width;
    if (outputs_.count > 0 && outputs_.count <= kTileOutputs) {
      fill_outputs(tile, 0, outputs_.count);
      run_mean_tile<T>(outputs_.count, tile, {rows_, rows, hidden_}, ahead, rounding_);
      if (with_loss) add_loss(tile.product, tile, 1, outputs_.count);
    } else {
      mean(rows_, rows, hidden_);
      collect_errors(tile, 1, ahead, with_loss);
      for (int32_t r = 0; r < rows; ++r) add_to_row(rows_[r], errors_);
    }
    if (with_loss) statistics_->loss_pairs += 1;
  }

  // The input rows of a word.
  PTMKERNELS_INLINE int32_t gather(int32_t word, T** rows) const {
    if (!options_.subword_offsets) {
      rows[0] = input_row(word);
      return 1;
    }
    const int64_t begin = options_.subword_offsets[word], end = options_.subword_offsets[word + 1];
    for (int64_t s = begin; s < end; ++s) rows[s - begin] = input_row(options_.subwords[s]);
    return static_cast<int32_t>(end - begin);
  }

  PTMKERNELS_INLINE void mean(T* const* rows, int32_t count, float* out) const {
    const Vec factor = splat(1.0f / static_cast<float>(count));
    for_columns(options_.width, [&](Columns at, auto whole) __attribute__((always_inline)) {
      Vec sum = Vec{};
      for (int32_t r = 0; r < count; ++r) sum += at.load<whole.value>(rows[r]);
      store(out + at.d, sum * factor);
    });
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
    mean(rows_, gather(sentence.word[j], rows_), row);
    __builtin_memcpy(staged_from_ + j % ring() * pitch_, row, options_.width * sizeof(float));
  }

  void give_back(const Sentence& sentence, int32_t j) {
    float* row = staged_ + j % ring() * pitch_;
    const float* from = staged_from_ + j % ring() * pitch_;
    for (int32_t d = 0; d < options_.width; ++d) row[d] -= from[d];
    const int32_t rows = gather(sentence.word[j], rows_);
    for (int32_t r = 0; r < rows; ++r) add_to_row(rows_[r], row);
  }

  static constexpr int32_t kMaxPath = 96;  // a Huffman code over 63-bit counts has at most 91 bits

  const StepOptions& options_;
  T* input_;
  T* output_;
  int32_t pitch_;
  float rate_ = 0;
  Rounding rounding_;
  StepStatistics* statistics_ = nullptr;
  Sentence sentences_[2] = {};
  const Sentence* following_ = nullptr;
  Outputs<T> outputs_ = {};
  float* errors_ = nullptr;
  float* hidden_ = nullptr;
  int32_t* contexts_ = nullptr;
  T** rows_ = nullptr;
  float* staged_ = nullptr;
  float* staged_from_ = nullptr;
  size_t used_ = 0;
};

template <class T>
void run_as(StepWork& work) {
  const auto seed = work.options->seed + static_cast<uint64_t>(work.options->position + work.begin);
  Trainer<T>(*work.options, work.scratch, seed).run(work);
}

inline void run_step(StepWork& work) {
  work.options->bfloat16 ? run_as<BFloat16>(work) : run_as<float>(work);
}

inline size_t step_scratch_bytes(const StepOptions& options) {
  return options.bfloat16 ? Trainer<BFloat16>::scratch_bytes(options)
                          : Trainer<float>::scratch_bytes(options);
}

}  // namespace ptmkernels::PTMKERNELS_CPU_ARCH
