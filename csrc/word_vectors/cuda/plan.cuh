// Which words of the stream stay, and in which sentence each of them is: the kept words one after
// the other, so that windows can be handed out in equal parts. Two running sums, of kept words and
// of ends of sentences, tell a token its place; every random word is that of the CPU
// (../cpu/plan.h).
#pragma once

#include "word_vectors/cuda/draw.cuh"
#include "word_vectors/step.h"

namespace ptmkernels::word_vectors::cuda {

struct PlanParams {
  StepOptions options;
  const int64_t* seed;  // (1,)
  int64_t* kept;        // (n,): whether a token stays; then how many did, from the first on
  int64_t* ended;       // (n,): whether a token ends a sentence; then how many did
  int64_t* run_start;   // (n + 1,): of the tokens between two ends
  int32_t* word;        // of each kept word: its id,
  int64_t* place;       // its place in `tokens`
  int64_t* first;       // and the first kept word of its sentence
};

struct TokenKernel {
  using Params = PlanParams;
  static constexpr int kThreads = 256, kMinBlocks = 1;

  static int shared_bytes(const Params&) { return 0; }
  static int64_t blocks(const Params& p) {
    return (p.options.token_count + kThreads - 1) / kThreads;
  }
  static SIMT_FN int64_t token() { return block_index() * kThreads + thread_index(); }
};

struct MarkKernel : TokenKernel {
  static SIMT_FN void run(const Params& p) {
    const int64_t i = token();
    if (i >= p.options.token_count) return;
    const int32_t word = load_global(p.options.tokens + i);
    bool kept = word >= 0;
    if (kept && p.options.keep != nullptr) {
      uint32_t words[4];
      philox_at(p.options.position + i, 0, static_cast<uint64_t>(load_global(p.seed)), words);
      kept = words[0] < load_global(p.options.keep + word);
    }
    store_global(p.kept + i, static_cast<int64_t>(kept));
    store_global(p.ended + i, static_cast<int64_t>(word < 0));
  }
};

struct RunStartKernel : TokenKernel {
  static SIMT_FN void run(const Params& p) {
    const int64_t i = token();
    if (i == 0) store_global(p.run_start, int64_t{0});
    if (i >= p.options.token_count || load_global(p.options.tokens + i) >= 0) return;
    store_global(p.run_start + load_global(p.ended + i), i + 1);
  }
};

struct CompactKernel : TokenKernel {
  static SIMT_FN void run(const Params& p) {
    const int64_t i = token();
    if (i >= p.options.token_count) return;
    const int64_t count = load_global(p.kept + i);
    if (count == kept_before(p, i)) return;
    const int64_t start = load_global(p.run_start + load_global(p.ended + i));
    const int64_t sentence = start + (i - start) / kMaxSentence * kMaxSentence;
    store_global(p.word + count - 1, load_global(p.options.tokens + i));
    store_global(p.place + count - 1, i);
    store_global(p.first + count - 1, kept_before(p, sentence));
  }

 private:
  static SIMT_FN int64_t kept_before(const Params& p, int64_t i) {
    return i > 0 ? load_global(p.kept + i - 1) : 0;
  }
};

}  // namespace ptmkernels::word_vectors::cuda
