#define PTMKERNELS_CPU_ARCH avx2
#define PTMKERNELS_SIMD_WIDTH 8

#include "word_vectors/cpu/variant.h"

namespace ptmkernels {

const StepKernels kAvx2StepKernels = {avx2::step_scratch_bytes, avx2::run_step};

}  // namespace ptmkernels
