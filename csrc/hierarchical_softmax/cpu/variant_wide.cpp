#define PTMKERNELS_CPU_ARCH wide
#define PTMKERNELS_SIMD_WIDTH 16

#include "hierarchical_softmax/cpu/variant.h"

namespace ptmkernels {

const BranchKernels kWideBranches = {wide::log_probabilities, wide::probabilities};

}  // namespace ptmkernels
