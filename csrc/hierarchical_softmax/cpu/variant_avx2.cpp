#define PTMKERNELS_CPU_ARCH avx2
#define PTMKERNELS_SIMD_WIDTH 8

#include "hierarchical_softmax/cpu/variant.h"

namespace ptmkernels {

const BranchKernels kAvx2Branches = {avx2::log_probabilities, avx2::probabilities};

}  // namespace ptmkernels
