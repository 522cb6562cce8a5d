// Loaded before everything else (LD_PRELOAD): memory that the kernels ask for holds a pattern, and
// the processor's exception flags can be read.
//
// Kernels take their scratch memory from aligned_alloc and keep it from op to op. The blocks that
// libptmkernels took and still has are known here, so that each op can begin with all of them full
// of numbers that nobody wrote. Torch's own memory (posix_memalign) is filled when it is taken.
#include <dlfcn.h>
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <mutex>

namespace {

struct Block {
  void* memory;
  size_t bytes;
};

constexpr int kMost = 256;

Block blocks[kMost];  // of the kernels; an array, for a container would free its own memory
int count = 0;
uint32_t pattern = 0;
std::mutex mutex;

void fill(const Block& block) {
  auto* const words = static_cast<uint32_t*>(block.memory);
  for (size_t i = 0; pattern && i < block.bytes / 4; ++i) words[i] = pattern;
}

template <class Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

bool is_of_kernels(void* caller) {
  Dl_info info;
  return dladdr(caller, &info) && info.dli_fname && strstr(info.dli_fname, "libptmkernels");
}

}  // namespace

extern "C" {

void* aligned_alloc(size_t alignment, size_t bytes) noexcept {
  static const auto system = next<void* (*)(size_t, size_t)>("aligned_alloc");
  void* const memory = system(alignment, bytes);
  if (memory && is_of_kernels(__builtin_return_address(0))) {
    const std::lock_guard lock(mutex);
    if (count == kMost) abort();
    blocks[count++] = {memory, bytes};
    fill(blocks[count - 1]);
  }
  return memory;
}

int posix_memalign(void** memory, size_t alignment, size_t bytes) noexcept {
  static const auto system = next<int (*)(void**, size_t, size_t)>("posix_memalign");
  const int error = system(memory, alignment, bytes);
  if (!error) fill({*memory, bytes});
  return error;
}

void free(void* memory) noexcept {
  static const auto system = next<void (*)(void*)>("free");
  if (count > 0) {
    const std::lock_guard lock(mutex);
    for (int i = 0; i < count; ++i) {
      if (blocks[i].memory == memory) blocks[i] = blocks[--count];
    }
  }
  system(memory);
}

// From now on memory holds this word, also that which the kernels have already; 0 = as the system
// gives it. Returns the number of their blocks.
int floats_fill(uint32_t word) {
  const std::lock_guard lock(mutex);
  pattern = word;
  for (int i = 0; i < count; ++i) fill(blocks[i]);
  return count;
}

void floats_clear_flags() { _mm_setcsr(_mm_getcsr() & ~0x3fu); }

// Bit 0: an invalid operation, bit 1: a denormal operand, bit 4: a result that underflowed.
unsigned floats_flags() { return _mm_getcsr() & 0x3fu; }
}
