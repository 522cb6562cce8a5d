#define PTMKERNELS_CPU_ARCH wide
#define PTMKERNELS_SIMD_WIDTH 16

#include "word_vectors/cpu/variant.h"

namespace ptmkernels {

const StepKernels kWideStepKernels = {wide::step_scratch_bytes, wide::run_step};

}  // namespace ptmkernels
