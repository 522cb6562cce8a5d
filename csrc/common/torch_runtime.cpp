#include "common/torch_runtime.h"

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <cstdlib>
#include <new>

namespace ptmkernels {

TorchRuntime::TorchRuntime() {
  threads = torch::stable::get_num_threads();
  parallel = run;
  allocate = keep;
}

void TorchRuntime::Free::operator()(void* memory) const { std::free(memory); }

TorchRuntime::Block TorchRuntime::aligned(size_t bytes) {
  constexpr size_t kAlignment = 64;
  void* const memory =
      std::aligned_alloc(kAlignment, (bytes + kAlignment) / kAlignment * kAlignment);
  if (!memory) throw std::bad_alloc();
  return Block(static_cast<char*>(memory));
}

// Kept from op to op: to get it anew would fault in every page of it.
char* TorchRuntime::thread_scratch(size_t bytes) {
  static thread_local Block block;
  static thread_local size_t size = 0;
  if (bytes > size) {
    block.reset();
    size = 0;
    block = aligned(bytes);
    size = bytes;
  }
  return block.get();
}

void TorchRuntime::run(const CpuRuntime& runtime, int64_t count, size_t scratch_bytes,
                       void (*task)(void*, int64_t, char*), void* state) {
  std::atomic<int64_t> next = 0;
  const auto work = [&](int64_t, int64_t) {
    char* const scratch = thread_scratch(scratch_bytes);
    for (int64_t index = next++; index < count; index = next++) task(state, index, scratch);
  };
  const int64_t workers = count < runtime.threads ? count : runtime.threads;
  if (workers > 1) {
    torch::stable::parallel_for(0, workers, 1, work);
  } else {
    work(0, 1);
  }
}

void* TorchRuntime::keep(const CpuRuntime& runtime, size_t bytes) {
  auto& blocks = static_cast<const TorchRuntime&>(runtime).blocks_;
  blocks.push_back(aligned(bytes));
  return blocks.back().get();
}

}  // namespace ptmkernels
