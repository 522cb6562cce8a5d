// What the host sides of the CUDA kernels (run.h, run_bias.h) share.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attention/cuda/device_params.h"
#include "attention/params.h"

namespace ptmkernels::attention::cuda {

// Device memory that lives as long as the op.
class Workspace {
 public:
  virtual ~Workspace() = default;

  template <typename T>
  T* take(int64_t count) {
    return static_cast<T*>(bytes(std::max<int64_t>(count, 1) * static_cast<int64_t>(sizeof(T))));
  }

 private:
  virtual void* bytes(int64_t count) = 0;
};

inline Rows make_rows(const Heads& heads, int64_t head_dim) {
  constexpr int64_t kChunk = 16;
  const int64_t size = heads.dtype == DType::kFloat32 ? 4 : 2;
  int64_t parts = reinterpret_cast<int64_t>(heads.data);
  for (int64_t extent : {heads.batch, heads.head, heads.row, head_dim}) parts |= extent * size;
  const bool wide = parts % kChunk == 0 && heads.row * size <= INT32_MAX;
  return {heads.data, heads.batch, heads.head,
          heads.row,  wide,        wide ? static_cast<int32_t>(heads.row * size) : 0};
}

// Over how many blocks the `steps` of one are split: one, unless `blocks` leave multiprocessors
// idle, as a single query over a long cache does.
inline int splits_of(int64_t blocks, int64_t steps, int multiprocessors) {
  constexpr int64_t kBlocksEach = 2;
  if (blocks >= multiprocessors) return 1;
  const int64_t wanted = (kBlocksEach * multiprocessors + blocks - 1) / blocks;
  return static_cast<int>(std::clamp<int64_t>(wanted, 1, steps));
}

}  // namespace ptmkernels::attention::cuda
