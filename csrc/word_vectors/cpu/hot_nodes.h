// Private copies of the nodes nearest to the root of a Huffman tree, for threads that share one.
//
// Every window changes the root and half of them each of its children, so that two threads would
// take the same few cache lines from each other all the time. A thread trains copies instead: after
// each window one node in turn gives what was added to its copy to the matrix and takes what the
// others have added there.
#pragma once

#include "common/scratch.h"
#include "common/simd.h"
#include "word_vectors/step.h"

namespace ptmkernels::PTMKERNELS_CPU_ARCH {

constexpr int64_t kHotNodes = 64;

class HotNodes {
 public:
  void carve(Scratch& scratch, int32_t width) {
    own_ = scratch.take<float>(kHotNodes * width);
    base_ = scratch.take<float>(kHotNodes * width);
  }

  // Nodes are numbered in the order of their counts, the root is the last; rows of float32 and of
  // whole vectors.
  void start(const StepOptions& options) {
    if (options.tree_offsets[0] == options.tree_offsets[1]) return;  // one word: no node
    const int64_t root = options.tree_path[options.tree_offsets[0]] >> 1;
    first_ = root < kHotNodes ? 0 : root + 1 - kHotNodes;
    count_ = root + 1 - first_;
    width_ = options.width;
    stride_ = options.output_stride;
    shared_ = static_cast<float*>(options.output) + first_ * stride_;
    for (int64_t i = 0; i < count_; ++i) {
      __builtin_memcpy(own_ + i * width_, shared_ + i * stride_, bytes());
      __builtin_memcpy(base_ + i * width_, shared_ + i * stride_, bytes());
    }
  }

  // Null: the node has no copy.
  PTMKERNELS_INLINE float* row(int64_t node) const {
    const auto place = static_cast<uint64_t>(node - first_);
    return place < static_cast<uint64_t>(count_) ? own_ + place * width_ : nullptr;
  }

  void exchange_one() {
    if (count_ == 0) return;
    exchange(next_);
    next_ = next_ + 1 < count_ ? next_ + 1 : 0;
  }

  void finish() const {
    for (int64_t i = 0; i < count_; ++i) exchange(i);
  }

 private:
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

  float* own_ = nullptr;   // (kHotNodes, D)
  float* base_ = nullptr;  // what the copies were when they were last equal to the matrix
  float* shared_ = nullptr;
  int64_t first_ = 0, count_ = 0, next_ = 0, width_ = 0, stride_ = 0;
};

}  // namespace ptmkernels::PTMKERNELS_CPU_ARCH
