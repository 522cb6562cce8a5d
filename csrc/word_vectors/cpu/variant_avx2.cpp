#define PTMKERNELS_CPU_ARCH avx2
#define PTMKERNELS_SIMD_WIDTH 8

#include "word_vectors/cpu/variant.h"

namespace ptmkernels {

const WordVectorKernels kAvx2WordVectors = {avx2::step_scratch_bytes, avx2::run_step,
                                            avx2::product_of, avx2::add_to, avx2::widen_to};

}  // namespace ptmkernels
