// The rows of the input matrix whose mean is a word: its own, or those of its sub-words.
#pragma once

#include "common/simt.h"
#include "word_vectors/step.h"

namespace ptmkernels::word_vectors::cuda {

using namespace simt;

template <typename T>
struct InputRows {
  T* matrix;
  int64_t stride, word;
  const int32_t* subwords;  // null: its own
  int count;

  SIMT_FN InputRows(const StepOptions& o, int32_t of_word)
      : matrix(static_cast<T*>(o.input)),
        stride(o.input_stride),
        word(of_word),
        subwords(nullptr),
        count(1) {
    if (o.subword_offsets == nullptr) return;
    const int64_t begin = load_global(o.subword_offsets + of_word);
    subwords = o.subwords + begin;
    count = static_cast<int>(load_global(o.subword_offsets + of_word + 1) - begin);
  }

  SIMT_FN T* row(int r) const {
    return matrix + (subwords == nullptr ? word : load_global(subwords + r)) * stride;
  }
};

}  // namespace ptmkernels::word_vectors::cuda
