#define PTMKERNELS_CPU_ARCH wide
#define PTMKERNELS_SIMD_WIDTH 16

#include "word_vectors/cpu/variant.h"

namespace ptmkernels {

const WordVectorKernels kWideWordVectors = {wide::step_scratch_bytes, wide::run_step,
                                            wide::product_of, wide::add_to, wide::widen_to};

}  // namespace ptmkernels
