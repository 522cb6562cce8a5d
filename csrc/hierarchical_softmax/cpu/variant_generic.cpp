#define PTMKERNELS_CPU_ARCH generic
#define PTMKERNELS_SIMD_WIDTH 4

#include "hierarchical_softmax/cpu/variant.h"

namespace ptmkernels {

const BranchKernels kGenericBranches = {generic::log_probabilities, generic::probabilities};

}  // namespace ptmkernels
