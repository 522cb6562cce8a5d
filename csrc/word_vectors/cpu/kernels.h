// The CPU kernels of the word-vector ops: one table for each instruction set that this build
// carries.
#pragma once

#include "word_vectors/step.h"

namespace ptmkernels {

struct WordVectorKernels {
  size_t (*scratch_bytes)(const StepOptions& options);  // of one thread
  void (*run)(StepWork& work);

  // Rows of `size` elements, float32 or bfloat16: a . b;  y += factor x;  y = x.
  float (*product)(const float* a, const void* b, bool bfloat16, int64_t size);
  void (*add)(float* y, float factor, const void* x, bool bfloat16, int64_t size);
  void (*widen)(float* y, const void* x, bool bfloat16, int64_t size);
};

// Defined in variant_<arch>.cpp.
extern const WordVectorKernels kGenericWordVectors;
extern const WordVectorKernels kWideWordVectors;
extern const WordVectorKernels kAvx2WordVectors;
extern const WordVectorKernels kAvx512WordVectors;

// The table for this machine (common/cpu_arch.h).
const WordVectorKernels& word_vector_kernels();

}  // namespace ptmkernels
