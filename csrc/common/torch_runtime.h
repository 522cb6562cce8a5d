// The surroundings of a CPU kernel (cpu_runtime.h) inside a torch op.
#pragma once

#include <memory>
#include <vector>

#include "common/cpu_runtime.h"

namespace ptmkernels {

// One op's; its memory is freed with it. Work runs on torch's threads, as many as
// torch.set_num_threads allows, each taking the next index when it is done with its last.
class TorchRuntime : public CpuRuntime {
 public:
  TorchRuntime();

 private:
  struct Free {
    void operator()(void* memory) const;
  };
  typedef std::unique_ptr<char, Free> Block;

  static Block aligned(size_t bytes);
  static char* thread_scratch(size_t bytes);
  static void run(const CpuRuntime& runtime, int64_t count, size_t scratch_bytes,
                  void (*task)(void*, int64_t, char*), void* state);
  static void* keep(const CpuRuntime& runtime, size_t bytes);

  mutable std::vector<Block> blocks_;
};

}  // namespace ptmkernels
