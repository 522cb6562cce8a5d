#define PTMKERNELS_CPU_ARCH avx512
#define PTMKERNELS_SIMD_WIDTH 16

#include "word_vectors/cpu/variant.h"

namespace ptmkernels {

const WordVectorKernels kAvx512WordVectors = {avx512::step_scratch_bytes, avx512::run_step,
                                              avx512::product_of, avx512::add_to, avx512::widen_to};

}  // namespace ptmkernels
