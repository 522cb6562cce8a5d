#define PTMKERNELS_CPU_ARCH avx512
#define PTMKERNELS_SIMD_WIDTH 16

#include "hierarchical_softmax/cpu/variant.h"

namespace ptmkernels {

const BranchKernels kAvx512Branches = {avx512::log_probabilities, avx512::probabilities};

}  // namespace ptmkernels
