// Which words of a sentence stay, how far each one's window reaches and which negatives it gets.
//
// Every random word is Philox4x32-10 (common/philox.h) with the key `seed` and the counter
// (t low, t high, call, 0), t the place of the token in the training stream; call 0 gives
//   word 0   the token stays where this is below keep[token]
//   word 1   the window reaches 1 + floor(word * window / 2^32) words to either side
// and words 2, 3 and those of the following calls, two by two, the negatives: cell and threshold
// word of the alias table. So the draws do not depend on threads, on the chunks of the stream, or
// on the backend.
#pragma once

#include "common/simd_philox.h"
#include "word_vectors/step.h"

namespace ptmkernels::PTMKERNELS_CPU_ARCH {

PTMKERNELS_INLINE uint32_t scaled(uint32_t word, uint64_t size) {
  return static_cast<uint32_t>(word * size >> 32);
}

PTMKERNELS_INLINE void philox_at(const int64_t* positions, uint32_t call, uint64_t seed,
                                 uint32_t words[4][kWidth]) {
  uint32_t low[kWidth], high[kWidth];
  for (int lane = 0; lane < kWidth; ++lane) {
    low[lane] = static_cast<uint32_t>(positions[lane]);
    high[lane] = static_cast<uint32_t>(positions[lane] >> 32);
  }
  UintVec counter[4] = {load_as<UintVec>(low), load_as<UintVec>(high), splat(call), UintVec{}};
  philox(counter, seed);
  for (int w = 0; w < 4; ++w) store_as(words[w], counter[w]);
}

// The kept words of one sentence.
struct Sentence {
  int32_t* word;
  int32_t* reach;
  int64_t* position;
  int32_t* negatives;   // (length, N)
  uint32_t* threshold;  // (length, N): until the alias table is read, `negatives` holds cells
  void** input_rows;    // (length): of the words; not set where they have sub-words
  void** output_rows;   // (length, 1 + N): of the words and their negatives; not set with a tree
  int32_t length;
};

class Planner {
 public:
  Planner(const StepOptions& options, ChunkQueue& chunks) : options_(options), chunks_(chunks) {}

  // Fills the next sentence of which any word stays; false at the end.
  bool next(Sentence& sentence) {
    sentence.length = 0;
    while (sentence.length == 0 && (next_ < end_ || take_chunk())) {
      for (int64_t run = 0; next_ < end_ && run < kMaxSentence; ++run) {
        const int64_t index = next_++;
        const int32_t word = options_.tokens[index];
        if (word < 0) break;
        consider(index, word, sentence);
      }
    }
    if (sentence.length > 0) options_.alias ? draw_negatives(sentence) : fetch_paths(sentence);
    return sentence.length > 0;
  }

 private:
  bool take_chunk() {
    const int64_t chunk = __atomic_fetch_add(&chunks_.next, 1, __ATOMIC_RELAXED);
    if (chunk >= chunks_.count) return false;
    next_ = chunk ? chunks_.ends[chunk - 1] : 0;
    end_ = chunks_.ends[chunk];
    drawn_from_ = next_ - kWidth;
    return true;
  }

  PTMKERNELS_INLINE void consider(int64_t index, int32_t word, Sentence& sentence) {
    if (index >= drawn_from_ + kWidth) draw(index);
    const int64_t lane = index - drawn_from_;
    if (options_.keep && words_[0][lane] >= options_.keep[word]) return;
    const int32_t i = sentence.length++;
    sentence.word[i] = word;
    sentence.reach[i] = 1 + static_cast<int32_t>(scaled(words_[1][lane], options_.window));
    sentence.position[i] = options_.position + index;
    if (!options_.alias) {
      __builtin_prefetch(options_.tree_offsets + word);
    } else if (options_.negatives > 0) {
      set_cell(sentence, i, 0, words_[2][lane], words_[3][lane]);
    }
  }

  PTMKERNELS_NOINLINE void draw(int64_t index) {
    int64_t positions[kWidth];
    for (int lane = 0; lane < kWidth; ++lane) positions[lane] = options_.position + index + lane;
    philox_at(positions, 0, options_.seed, words_);
    drawn_from_ = index;
  }

  PTMKERNELS_INLINE void set_cell(Sentence& sentence, int32_t i, int32_t n, uint32_t cell_word,
                                  uint32_t threshold) {
    const uint32_t cell = scaled(cell_word, static_cast<uint64_t>(options_.vocabulary));
    const int64_t at = static_cast<int64_t>(i) * options_.negatives + n;
    sentence.negatives[at] = static_cast<int32_t>(cell);
    sentence.threshold[at] = threshold;
    __builtin_prefetch(options_.alias + cell);
  }

  // Inlined because GCC drops calls of a function that does nothing but prefetch.
  PTMKERNELS_INLINE void fetch_paths(const Sentence& sentence) const {
    for (int32_t i = 0; i < sentence.length; ++i) {
      const int64_t* ends = options_.tree_offsets + sentence.word[i];
      __builtin_prefetch(options_.tree_path + ends[0]);
      __builtin_prefetch(options_.tree_path + ends[1] - 1);
    }
  }

  PTMKERNELS_NOINLINE void draw_negatives(Sentence& sentence) {
    const int32_t count = options_.negatives;
    uint32_t words[4][kWidth];
    int64_t positions[kWidth];
    for (int32_t i = 0; i < sentence.length; i += kWidth) {
      const int32_t lanes = sentence.length - i < kWidth ? sentence.length - i : kWidth;
      for (int lane = 0; lane < kWidth; ++lane) {
        positions[lane] = sentence.position[i + (lane < lanes ? lane : 0)];
      }
      for (int32_t n = 1; n < count; n += 2) {
        philox_at(positions, static_cast<uint32_t>(n + 1) / 2, options_.seed, words);
        for (int lane = 0; lane < lanes; ++lane) {
          set_cell(sentence, i + lane, n, words[0][lane], words[1][lane]);
          if (n + 1 < count) set_cell(sentence, i + lane, n + 1, words[2][lane], words[3][lane]);
        }
      }
    }
    const int64_t total = static_cast<int64_t>(sentence.length) * count;
    for (int64_t at = 0; at < total; ++at) {
      const auto entry = static_cast<uint64_t>(options_.alias[sentence.negatives[at]]);
      const bool keep = sentence.threshold[at] < static_cast<uint32_t>(entry >> 32);
      sentence.negatives[at] = keep ? sentence.negatives[at] : static_cast<int32_t>(entry);
    }
  }

  const StepOptions& options_;
  ChunkQueue& chunks_;
  int64_t next_ = 0, end_ = 0;  // of the chunk that is being read
  int64_t drawn_from_ = 0;
  uint32_t words_[4][kWidth];  // of the tokens from drawn_from_ on
};

}  // namespace ptmkernels::PTMKERNELS_CPU_ARCH
