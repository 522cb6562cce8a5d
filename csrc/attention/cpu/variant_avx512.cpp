#define PTMKERNELS_CPU_ARCH avx512
#define PTMKERNELS_SIMD_WIDTH 16
#define PTMKERNELS_KERNEL_ROWS 8
#define PTMKERNELS_BFLOAT16_PRODUCTS 0

#include "attention/cpu/variant.h"

namespace ptmkernels::attention {

const CpuKernels kAvx512Kernels = {avx512::forward, avx512::backward};

}  // namespace ptmkernels::attention
