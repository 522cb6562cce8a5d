#define PTMKERNELS_CPU_ARCH generic
#define PTMKERNELS_SIMD_WIDTH 4

#include "word_vectors/cpu/variant.h"

namespace ptmkernels {

const StepKernels kGenericStepKernels = {generic::step_scratch_bytes, generic::run_step};

}  // namespace ptmkernels
