// What a CPU kernel asks of its surroundings, as plain function pointers: a kernel is compiled once
// for each instruction set and must not include a header whose inline functions other units share
// (see simd.h).
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace ptmkernels {

struct CpuRuntime {
  int64_t threads;  // that `parallel` may use

  // Calls task(state, index, scratch) once for each index in [0, count), in any order and from any
  // thread. `scratch` is memory of `scratch_bytes`, aligned to 64, that no other call uses
  // meanwhile; what it holds on entry is undefined.
  void (*parallel)(const CpuRuntime& runtime, int64_t count, size_t scratch_bytes,
                   void (*task)(void* state, int64_t index, char* scratch), void* state);

  // Memory, aligned to 64, that lives until the op returns.
  void* (*allocate)(const CpuRuntime& runtime, size_t bytes);
};

}  // namespace ptmkernels
