#define PTMKERNELS_CPU_ARCH generic
#define PTMKERNELS_SIMD_WIDTH 4

#include "word_vectors/cpu/variant.h"

namespace ptmkernels {

const WordVectorKernels kGenericWordVectors = {generic::step_scratch_bytes, generic::run_step,
                                               generic::product_of, generic::add_to,
                                               generic::widen_to};

}  // namespace ptmkernels
