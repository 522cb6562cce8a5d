// Carves arrays out of one block of scratch memory. Run once over a null block it measures how much
// a layout needs.
#pragma once

#include "common/cpu_runtime.h"
#include "common/simd.h"

namespace ptmkernels::PTMKERNELS_CPU_ARCH {

class Scratch {
 public:
  explicit Scratch(char* block) : start_(reinterpret_cast<uintptr_t>(block)) {}

  template <class T>
  T* take(int64_t count) {
    T* array = reinterpret_cast<T*>(start_ + used_);
    used_ += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return array;
  }

  size_t used() const { return used_; }

 private:
  uintptr_t start_;
  size_t used_ = 0;
};

// An array of zeros; `real`: the block is not null.
inline float* take_zeros(Scratch& scratch, int64_t count, bool real) {
  float* const array = scratch.take<float>(count);
  if (real) __builtin_memset(array, 0, static_cast<size_t>(count) * sizeof(float));
  return array;
}

// Runs task(index, scratch) for each index in [0, count).
template <class Task>
void parallel(const CpuRuntime& runtime, int64_t count, size_t scratch_bytes, const Task& task) {
  const auto call = [](void* state, int64_t index, char* scratch) {
    (*static_cast<const Task*>(state))(index, scratch);
  };
  runtime.parallel(runtime, count, scratch_bytes, call, const_cast<Task*>(&task));
}

template <class T>
T* allocate(const CpuRuntime& runtime, int64_t count) {
  return static_cast<T*>(runtime.allocate(runtime, static_cast<size_t>(count) * sizeof(T)));
}

}  // namespace ptmkernels::PTMKERNELS_CPU_ARCH
