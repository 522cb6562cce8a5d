// What a centre word is scored against: itself and its negatives, or the nodes of its path.
#pragma once

#include "common/scratch.h"
#include "word_vectors/cpu/hot_rows.h"
#include "word_vectors/cpu/plan.h"
#include "word_vectors/cpu/tile.h"

namespace ptmkernels::PTMKERNELS_CPU_ARCH {

class Outputs {
 public:
  explicit Outputs(const StepOptions& options) : options_(options) {}

  // Most that a word has.
  int32_t most() const { return options_.alias ? options_.negatives + 1 : kMaxPath; }

  // pitch: of the tile's arrays of pairs, of which whole vectors are computed on.
  void carve(Scratch& scratch, int32_t pitch, bool real) {
    merged_ = scratch.take<void*>(most());
    merged_labels_ = take_zeros(scratch, pitch, real);
    merged_weights_ = take_zeros(scratch, pitch, real);
    first_is_true_ = take_zeros(scratch, pitch, real);
    rates_ = take_zeros(scratch, pitch, real);
    pitch_ = pitch;
    if (real) first_is_true_[0] = 1;
  }

  void set_rate(float rate) {
    for (int32_t o = 0; o < pitch_; ++o) rates_[o] = rate;
  }

  // The rows of all words of a sentence and of their negatives.
  void locate(Sentence& sentence, const HotRows& hot) const {
    if (!options_.alias) return;
    void** row = sentence.output_rows;
    const int32_t* negative = sentence.negatives;
    for (int32_t i = 0; i < sentence.length; ++i) {
      *row++ = row_of(sentence.word[i], hot);
      for (int32_t n = 0; n < options_.negatives; ++n) *row++ = row_of(*negative++, hot);
    }
  }

  // Sets the outputs of word i: rows, labels, weights (learning rate * multiplicity) and count.
  PTMKERNELS_INLINE void find(const Sentence& sentence, int32_t i, const HotRows& hot) {
    if (!options_.alias) return find_path(sentence.word[i], hot);
    rows = sentence.output_rows + int64_t{i} * most();
    labels = first_is_true_;
    weights = rates_;
    count = most();
    if (some_equal()) merge();
  }

  // Notes what find would give for word i.
  PTMKERNELS_INLINE void look_ahead(const Sentence& sentence, int32_t i, const HotRows& hot,
                                    Ahead& ahead) const {
    if (options_.alias) return ahead.add(sentence.output_rows + int64_t{i} * most(), most());
    // The nodes near the root are in the cache, the last ones of the path may not be.
    const int32_t word = sentence.word[i];
    const int64_t begin = options_.tree_offsets[word], end = options_.tree_offsets[word + 1];
    for (int64_t p = end - 1; p >= begin && p > end - 7; --p) {
      ahead.add(row_of(options_.tree_path[p] >> 1, hot));
    }
  }

  void* const* rows = nullptr;
  const float* labels = nullptr;
  const float* weights = nullptr;
  int32_t count = 0;

 private:
  PTMKERNELS_INLINE void* row_of(int64_t row, const HotRows& hot) const {
    if (__builtin_expect(hot.has(row), false)) return hot.copy_of(row);
    return static_cast<char*>(options_.output) +
           row * options_.output_stride * (options_.bfloat16 ? 2 : 4);
  }

  PTMKERNELS_INLINE bool some_equal() const {
    bool equal = false;
    for (int32_t a = 1; a < count; ++a) {
      for (int32_t b = 0; b < a; ++b) equal |= rows[a] == rows[b];
    }
    return equal;
  }

  // A row that was drawn several times becomes one of that weight; those equal to the word go.
  PTMKERNELS_NOINLINE void merge() {
    merged_[0] = rows[0];
    int32_t merged = 1;
    for (int32_t n = 1; n < count; ++n) {
      int32_t same = 0;
      while (same < merged && merged_[same] != rows[n]) ++same;
      if (same == 0) continue;
      merged_weights_[same] = (same < merged ? merged_weights_[same] : 0) + rates_[0];
      merged_[same] = rows[n];
      merged += same == merged;
    }
    merged_weights_[0] = rates_[0];
    rows = merged_;
    weights = merged_weights_;
    count = merged;
  }

  PTMKERNELS_INLINE void find_path(int32_t word, const HotRows& hot) {
    const int64_t begin = options_.tree_offsets[word], end = options_.tree_offsets[word + 1];
    const int32_t* path = options_.tree_path + begin;
    count = static_cast<int32_t>(end - begin);
    for (int32_t n = 0; n < count; ++n) merged_[n] = row_of(path[n] >> 1, hot);
    for (int32_t n = 0; n < count; ++n) {
      merged_labels_[n] = static_cast<float>(1 - (path[n] & 1));
    }
    rows = merged_;
    labels = merged_labels_;
    weights = rates_;
  }

  static constexpr int32_t kMaxPath = 96;  // a Huffman code over 63-bit counts has at most 91 bits

  const StepOptions& options_;
  int32_t pitch_ = 0;
  void** merged_ = nullptr;
  float* merged_labels_ = nullptr;
  float* merged_weights_ = nullptr;
  float* first_is_true_ = nullptr;  // 1, 0, 0, ...
  float* rates_ = nullptr;
};

}  // namespace ptmkernels::PTMKERNELS_CPU_ARCH
