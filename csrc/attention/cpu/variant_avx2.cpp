#define PTMKERNELS_CPU_ARCH avx2
#define PTMKERNELS_SIMD_WIDTH 8
#define PTMKERNELS_KERNEL_ROWS 6
#define PTMKERNELS_BFLOAT16_PRODUCTS 0

#include "attention/cpu/variant.h"

namespace ptmkernels::attention {

const CpuKernels kAvx2Kernels = {avx2::forward, avx2::backward};

}  // namespace ptmkernels::attention
