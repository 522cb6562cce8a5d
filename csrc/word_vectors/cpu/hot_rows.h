// Private copies of the output rows that are changed most often, for threads that share a matrix:
// the words drawn most often as negatives, or the nodes nearest to the root of a Huffman tree.
//
// Almost every window changes some of them, so that two threads would take the same few cache lines
// from each other all the time, and lose changes: what another thread stores between the load and
// the store of a vector is undone, milliseconds of it where a thread is put to sleep just there. A
// thread trains copies instead: after each window one row in turn gives what was added to its copy
// to the matrix and takes what the others have added there. One thread does so at a time; a row
// whose turn comes meanwhile waits for its next.
#pragma once

#include "common/scratch.h"
#include "common/simd.h"
#include "word_vectors/step.h"

namespace ptmkernels::PTMKERNELS_CPU_ARCH {

constexpr int64_t kHotRows = 64;

class HotRows {
 public:
  void carve(Scratch& scratch, int32_t width) {
    own_ = scratch.take<float>(kHotRows * width);
    base_ = scratch.take<float>(kHotRows * width);
  }

  // Rows of float32 and of whole vectors. busy: 0; what the threads of a call share.
  void start(const StepOptions& options, int32_t* busy) {
    busy_ = busy;
    find(options);
    width_ = options.width;
    stride_ = options.output_stride;
    shared_ = static_cast<float*>(options.output) + first_ * stride_;
    for (int64_t i = 0; i < count_; ++i) {
      __builtin_memcpy(own_ + i * width_, shared_ + i * stride_, bytes());
      // Of the copy: the matrix may have changed since.
      __builtin_memcpy(base_ + i * width_, own_ + i * width_, bytes());
    }
  }

  PTMKERNELS_INLINE bool has(int64_t row) const {
    return static_cast<uint64_t>(row - first_) < static_cast<uint64_t>(count_);
  }

  PTMKERNELS_INLINE float* copy_of(int64_t row) const { return own_ + (row - first_) * width_; }

  void exchange_one() {
    if (count_ == 0) return;
    if (enter()) {
      exchange(next_);
      leave();
    }
    next_ = next_ + 1 < count_ ? next_ + 1 : 0;
  }

  void finish() const {
    if (count_ == 0) return;
    while (!enter()) continue;
    for (int64_t i = 0; i < count_; ++i) exchange(i);
    leave();
  }

 private:
  // Words are numbered from the most frequent one on; nodes in the order of their counts, the root
  // is the last.
  void find(const StepOptions& options) {
    int64_t end = options.vocabulary < kHotRows ? options.vocabulary : kHotRows;
    if (!options.alias) {
      if (options.tree_offsets[0] == options.tree_offsets[1]) return;  // one word: no node
      end = (options.tree_path[options.tree_offsets[0]] >> 1) + 1;
    }
    first_ = end < kHotRows ? 0 : end - kHotRows;
    count_ = end - first_;
  }

  bool enter() const { return __atomic_exchange_n(busy_, 1, __ATOMIC_ACQUIRE) == 0; }
  void leave() const { __atomic_store_n(busy_, 0, __ATOMIC_RELEASE); }

  size_t bytes() const { return static_cast<size_t>(width_) * sizeof(float); }

  void exchange(int64_t i) const {
    float* const shared = shared_ + i * stride_;
    float* const own = own_ + i * width_;
    float* const base = base_ + i * width_;
    for (int64_t d = 0; d < width_; d += kWidth) {
      const Vec now = load(shared + d) + (load(own + d) - load(base + d));
      store(shared + d, now);
      store(own + d, now);
      store(base + d, now);
    }
  }

  float* own_ = nullptr;   // (kHotRows, D)
  float* base_ = nullptr;  // what the copies were when they were last equal to the matrix
  float* shared_ = nullptr;
  int32_t* busy_ = nullptr;
  int64_t first_ = 0, count_ = 0, next_ = 0, width_ = 0, stride_ = 0;
};

}  // namespace ptmkernels::PTMKERNELS_CPU_ARCH
