// The fused training step of word2vec and fastText: what one call needs, as plain data.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace ptmkernels {

// A longer run of tokens is cut here, as in word2vec.c (which counts the words that sub-sampling
// kept).
constexpr int64_t kMaxSentence = 1000;

struct StepOptions {
  // Rows of width elements, float32 or bfloat16 (both matrices alike).
  void* input;           // (V, D), or (V + buckets, D) with sub-words
  void* output;          // (V, D) with negatives, (V - 1, D) with a tree
  int64_t input_stride;  // elements between rows
  int64_t output_stride;
  int32_t width;  // D
  bool bfloat16;

  const int32_t* tokens;  // negative = end of a sentence
  int64_t token_count;
  int64_t position;  // of tokens[0] in the whole training stream; every random number depends on it
  const uint32_t* keep;  // (V): a token stays where its random word is below; null = all stay

  const int64_t* alias;         // (V): the alias table of the negatives; null = a tree
  int64_t vocabulary;           // V
  int32_t negatives;            // N
  const int64_t* tree_offsets;  // (V + 1)
  const int32_t* tree_path;     // inner node * 2 + code bit

  const int64_t*
      subword_offsets;  // (V + 1): rows of `input` whose mean is a word; null = its own row
  const int32_t* subwords;
  int32_t max_subwords;  // most rows that a word has: 1 without sub-words

  bool cbow;
  int32_t window;
  float learning_rate;  // at position 0; falls linearly to 0 at `total`
  float min_learning_rate;
  int64_t total;  // tokens in the whole training stream
  uint64_t seed;
  int64_t threads;  // that work on the matrices at the same time
};

struct StepStatistics {
  double loss;        // summed over the sampled pairs
  double loss_pairs;  // how many those are
  double pairs;       // (centre, context) pairs trained
  double words;       // tokens that sub-sampling kept
};

// The tokens of a call, cut between sentences. Threads take one chunk after the other.
struct ChunkQueue {
  const int64_t* ends;  // (count)
  int64_t count;
  int64_t next;  // that nobody has taken yet; changed atomically
  int32_t busy;  // 1: a thread is exchanging rows (hot_rows.h); changed atomically
};

// One thread's part of a call.
struct StepWork {
  const StepOptions* options;
  ChunkQueue* chunks;  // shared
  int64_t thread;
  char* scratch;  // step_scratch bytes, aligned to 64
  StepStatistics statistics;
};

}  // namespace ptmkernels
