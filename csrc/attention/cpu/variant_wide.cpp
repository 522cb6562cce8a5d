#define PTMKERNELS_CPU_ARCH wide
#define PTMKERNELS_SIMD_WIDTH 16
#define PTMKERNELS_KERNEL_ROWS 8
#define PTMKERNELS_BFLOAT16_PRODUCTS 1

#include "attention/cpu/variant.h"

namespace ptmkernels::attention {

const CpuKernels kWideKernels = {wide::forward, wide::backward};

}  // namespace ptmkernels::attention
