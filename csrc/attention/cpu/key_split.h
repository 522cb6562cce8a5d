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
      : params_(params),
        size_(params.size),
        width_(round_up(size_.dimension, kWidth)),
        natural_(params.options.bias.data || params.options.table) {
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
    references_ = allocate<float>(runtime, count_ * rows_);
  }

  // Whether references come in natural units, which a bias of any size fits: of a call with a bias.
  bool natural() const { return natural_; }

  int64_t count() const { return count_; }
  int64_t first_tile(int64_t split) const { return split * tiles_; }
  int64_t last_tile(int64_t split) const {
    return smaller((split + 1) * tiles_, divide_up(size_.keys, kKeyTile));
  }

  // A row's weighted values (round_up(D, kWidth)), the sum of its weights and their reference in
  // the units of natural(), as the running softmax left them.
  void write(int64_t split, int64_t batch, int64_t head, int64_t query, const float* values,
             float sum, float reference) const {
    const int64_t row = (batch * size_.heads + head) * size_.queries + query;
    const float scale = sum == 0 ? 0 : 1 / sum;
    if (count_ > 1) {
      write_row(DType::kFloat32, values, width_, scale, outputs_ + (split * rows_ + row) * width_);
      sums_[split * rows_ + row] = sum;
      references_[split * rows_ + row] = sum == 0 ? -kInfinity : reference;
    } else {
      write_row(params_.output.dtype, values, size_.dimension, scale,
                row_of(params_.output, batch, head, query));
      write_lse(row, sum, reference);
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
      const float reference = references_[split * rows_ + row];
      if (!(reference <= top)) top = reference;
    }
    fill(total, width_, 0);
    float sum = 0;
    for (int64_t split = 0; split < count_ && top != -kInfinity; ++split) {
      const float distance = references_[split * rows_ + row] - top;
      const float weight =
          __builtin_exp2f(natural_ ? distance * kLog2e : distance) * sums_[split * rows_ + row];
      const float* from = outputs_ + (split * rows_ + row) * width_;
      for (int64_t d = 0; d < width_; d += kWidth)
        store(total + d, load(total + d) + weight * load(from + d));
      sum += weight;
    }
    void* const to = row_of(params_.output, head / size_.heads, head % size_.heads, query);
    write_row(params_.output.dtype, total, size_.dimension, sum == 0 ? 0 : 1 / sum, to);
    write_lse(row, sum, top);
  }

  // The log-sum-exp and, where it is asked for, what rounding took from it in units of log2(e).
  void write_lse(int64_t row, float sum, float reference) const {
    const float log = __builtin_log2f(sum);
    float lse = -kInfinity;
    if (sum != 0) lse = natural_ ? reference + log * kLn2 : (reference + log) * kLn2;
    params_.lse[row] = lse;
    if (params_.lse_rest) params_.lse_rest[row] = sum == 0 ? 0 : (reference - lse) * kLog2e + log;
  }

  const ForwardParams& params_;
  const Sizes& size_;
  const int64_t width_;
  const bool natural_;
  int64_t count_ = 1;
  int64_t tiles_ = 1;
  int64_t rows_ = 0;
  float* outputs_ = nullptr;     // (splits, B, H, L, width): normalised
  float* sums_ = nullptr;        // (splits, B, H, L): of the weights relative to the reference
  float* references_ = nullptr;  // (splits, B, H, L); -infinity where a split saw nothing
};

}  // namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH
