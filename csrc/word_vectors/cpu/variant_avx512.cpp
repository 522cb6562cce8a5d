#define PTMKERNELS_CPU_ARCH avx512
#define PTMKERNELS_SIMD_WIDTH 16

#include "word_vectors/cpu/variant.h"

namespace ptmkernels {

const StepKernels kAvx512StepKernels = {avx512::step_scratch_bytes, avx512::run_step};

}  // namespace ptmkernels
