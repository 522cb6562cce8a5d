// Few queries against many keys: the keys are split among tasks, and each row's output is the mean
// of those of its splits, weighted by their sums. The number of splits follows from the shape
// alone, so the result does not depend on the number of threads.
#pragma once

#include "attention/cpu/mask.h"

namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH {

class KeySplit {
 public:
  // `tasks`: how many there are without a split.
  KeySplit(const ForwardParams& params, int64_t tasks, const CpuRuntime& runtime)
      : params_(params), size_(params.size), width_(round_up(size_.dimension, kWidth)) {
    constexpr int64_t kFewTasks = 16;
    constexpr int64_t kLeastTiles = 4;
    const int64_t all_tiles = divide_up(size_.keys, kKeyTile);
    if (tasks < kFewTasks)
      count_ = smaller(divide_up(all_tiles, kLeastTiles), divide_up(2 * kFewTasks, tasks));
    tiles_ = divide_up(all_tiles, count_);
    count_ = divide_up(all_tiles, tiles_);
    if (count_ == 1) return;
    rows_ = size_.batches * size_.heads * size_.queries;
    outputs_ = allocate<float>(runtime, count_ * rows_ * width_);
    sums_ = allocate<float>(runtime, count_ * rows_);
  }

  int64_t count() const { return count_; }
  int64_t first_tile(int64_t split) const { return split * tiles_; }
  int64_t last_tile(int64_t split) const {
    return smaller((split + 1) * tiles_, divide_up(size_.keys, kKeyTile));
  }

  // A row's weighted values (round_up(D, kWidth)), the sum of its weights and their reference, as
  // the running softmax left them.
  void write(int64_t split, int64_t batch, int64_t head, int64_t query, const float* values,
             float sum, float reference) const {
    const int64_t row = (batch * size_.heads + head) * size_.queries + query;
    const bool blind = sum == 0;
    const float scale = blind ? 0 : 1 / sum;
    const float lse = blind ? -kInfinity : reference + __builtin_log2f(sum);
    if (count_ > 1) {
      write_row(DType::kFloat32, values, width_, scale, outputs_ + (split * rows_ + row) * width_);
      sums_[split * rows_ + row] = lse;
    } else {
      write_row(params_.output.dtype, values, size_.dimension, scale,
                row_of(params_.output, batch, head, query));
      params_.lse[row] = lse * kLn2;
    }
  }

  void join(const CpuRuntime& runtime) const {
    if (count_ == 1) return;
    const size_t bytes = static_cast<size_t>(width_) * sizeof(float);
    parallel(runtime, size_.batches * size_.heads, bytes, [&](int64_t head, char* block) {
      for (int64_t query = 0; query < size_.queries; ++query)
        join_row(head, query, reinterpret_cast<float*>(block));
    });
  }

 private:
  void join_row(int64_t head, int64_t query, float* total) const {
    const int64_t row = head * size_.queries + query;
    float top = -kInfinity;
    for (int64_t split = 0; split < count_; ++split) {
      const float lse = sums_[split * rows_ + row];
      if (!(lse <= top)) top = lse;
    }
    fill(total, width_, 0);
    float sum = 0;
    for (int64_t split = 0; split < count_ && top != -kInfinity; ++split) {
      const float weight = __builtin_exp2f(sums_[split * rows_ + row] - top);
      const float* from = outputs_ + (split * rows_ + row) * width_;
      for (int64_t d = 0; d < width_; d += kWidth)
        store(total + d, load(total + d) + weight * load(from + d));
      sum += weight;
    }
    void* const to = row_of(params_.output, head / size_.heads, head % size_.heads, query);
    write_row(params_.output.dtype, total, size_.dimension, sum == 0 ? 0 : 1 / sum, to);
    params_.lse[row] = sum == 0 ? -kInfinity : (top + __builtin_log2f(sum)) * kLn2;
  }

  const ForwardParams& params_;
  const Sizes& size_;
  const int64_t width_;
  int64_t count_ = 1;
  int64_t tiles_ = 1;
  int64_t rows_ = 0;
  float* outputs_ = nullptr;  // (splits, B, H, L, width): normalised
  float* sums_ = nullptr;     // (splits, B, H, L): log-sum-exp in powers of 2
};

}  // namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH
