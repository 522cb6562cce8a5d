// What a centre word is scored against, 32 at a time, one a lane: itself and its negatives, or the
// nodes of its path.
#pragma once

#include "word_vectors/cuda/draw.cuh"
#include "word_vectors/step.h"

namespace ptmkernels::word_vectors::cuda {

struct Output {
  bool used;
  int64_t row;
  float label;   // 1 for the word, 0 for noise
  float weight;  // learning rate x how often a negative was drawn
};

// The centre word's draws, of the place of its token in the training stream.
struct Draws {
  int64_t place;
  uint64_t seed;

  SIMT_FN uint32_t reach_word() const {
    uint32_t words[4];
    philox_at(place, 0, seed, words);
    return words[1];
  }

  SIMT_FN int64_t negative(const StepOptions& o, int n) const {
    uint32_t words[4];
    philox_at(place, static_cast<uint32_t>(n + 1) / 2, seed, words);
    return alias_draw(o.alias, o.vocabulary, n % 2 ? words[0] : words[2],
                      n % 2 ? words[1] : words[3]);
  }
};

SIMT_FN int output_count(const StepOptions& o, int32_t word) {
  if (o.alias != nullptr) return o.negatives + 1;
  const int64_t* ends = o.tree_offsets + word;
  return static_cast<int>(load_global(ends + 1) - load_global(ends));
}

// Equal negatives of these 32 become one; those that equal the word are left out.
SIMT_FN Output word_or_negative(const StepOptions& o, int32_t word, const Draws& draws, int number,
                                float rate) {
  const bool there = number <= o.negatives;
  int64_t row = word;
  if (there && number > 0) row = draws.negative(o, number - 1);
  const bool noise = there && number > 0 && row != word;
  int first = lane_index(), count = 0;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const bool same = shuffle(noise ? row : -1, lane) == row;
    if (same && count++ == 0) first = lane;
  }
  if (!noise) return {there && number == 0, row, 1.0f, rate};
  return {first == lane_index(), row, 0.0f, rate * static_cast<float>(count)};
}

SIMT_FN Output path_node(const StepOptions& o, int32_t word, int number, int count, float rate) {
  if (number >= count) return {false, 0, 0.0f, 0.0f};
  const int32_t entry = load_global(o.tree_path + load_global(o.tree_offsets + word) + number);
  return {true, entry >> 1, entry & 1 ? 0.0f : 1.0f, rate};
}

}  // namespace ptmkernels::word_vectors::cuda
